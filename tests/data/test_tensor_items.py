"""Items that are preprocessed tensors, of any number of channels, in every command that takes data."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespa.adaptation.config import AdaptConfig
from edgespa.api.bundles import export_bundle
from edgespa.api.options import DataOptions
from edgespa.api.tasks import adapt_to_file, prune_to_file
from edgespa.bundle import read_manifest
from edgespa.errors import ConfigError
from edgespa.exporting.bundle import ExportConfig
from edgespa.pruning import PruneConfig

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.head = nn.Conv2d(channels, 16, 3, 2, 1), nn.Linear(16, 3)
    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))

def net2(): return Net(2)
def net6(): return Net(6)
def net13(): return Net(13)

def data(channels, labelled):
    random = torch.Generator().manual_seed(0)
    items = [(torch.randn(channels, 8, 8, generator=random) + i % 3, i % 3) for i in range(48)]
    return items if labelled else [image for image, _ in items]

def data2(): return data(2, True)
def data6(): return data(6, True)
def data13(): return data(13, True)
def alone6(): return data(6, False)
"""


@pytest.fixture
def place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> str:
    (tmp_path / "tensors.py").write_text(CODE)
    return str(tmp_path / "tensors.py")


@pytest.mark.parametrize("channels", [2, 6, 13])
def test_adapted_and_exported(place: str, tmp_path: Path, channels: int, caplog: pytest.LogCaptureFixture) -> None:
    data, task = f"{place}:data{channels}", tmp_path / "t.spa"
    shape = (1, channels, 8, 8)
    config = AdaptConfig(epochs=1, batch_size=8, lr=0.01)
    learned = adapt_to_file(f"{place}:net{channels}", data, task, config, input_shape=shape, evaluation=data)
    assert learned.header.preprocess is None  # how an image would become such a tensor nobody said
    assert "normalisation" not in caplog.text  # theirs is their own
    if channels != 6:  # once is enough: it takes seconds
        return
    form = ExportConfig(formats=("onnx",), precisions=("fp32", "int8"), int8_slowdown=100, int8_tolerance=1)
    export_bundle(str(task), tmp_path / "b", form, calibration=data, evaluation=data)
    manifest = read_manifest(tmp_path / "b")
    assert [variant.name for variant in manifest.variants] == ["onnx-fp32", "onnx-int8"]
    assert manifest.reference_accuracy is not None
    assert manifest.preprocessing is None
    with pytest.raises(ConfigError, match="gives tensors that are preprocessed"):
        export_bundle(str(task), tmp_path / "c", ExportConfig(preprocess="in-graph"), evaluation=data)


def test_what_is_said_of_images_is_recorded(place: str, tmp_path: Path) -> None:
    options = DataOptions((0.5,), (0.25,))
    config = AdaptConfig(epochs=1, batch_size=8, lr=0.01)
    task = adapt_to_file(
        f"{place}:net2", f"{place}:data2", tmp_path / "t.spa", config, input_shape=(1, 2, 8, 8), options=options
    )
    assert task.header.preprocess is not None
    assert task.header.preprocess.mean == (0.5, 0.5)


def test_calibrated_on_items_without_labels(place: str, tmp_path: Path) -> None:
    config = PruneConfig(method="asym-in-change", density=0.5, round_to=1)
    task = prune_to_file(
        f"{place}:net6", tmp_path / "p.spa", config, input_shape=(1, 6, 8, 8), calibration=f"{place}:alone6",
        evaluation=f"{place}:data6",
    )  # fmt: skip
    assert 0 <= task.header.metrics["test_accuracy"] <= 1
