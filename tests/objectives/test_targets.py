"""What outputs are compared with: every shape that is no answer is refused, whatever the kind of the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.api.bundles import export_bundle
from edgespa.api.options import DataOptions
from edgespa.api.tasks import prune_to_file
from edgespa.config import Preprocess
from edgespa.data import Prepared, load_data, prepare
from edgespa.errors import ConfigError, DataError
from edgespa.exporting.config import ExportConfig
from edgespa.objectives.evaluate import accuracy, evaluate
from edgespa.objectives.table import Classes, MultiLabel, Regression
from edgespa.pruning.config import PruneConfig
from edgespa.tasks.base import Base

PREPROCESS = Preprocess(height=8, width=8, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
MANY: dict[str, tuple[int, ...]] = {"map": (4, 8, 8), "boxes": (30, 4), "one": (), "few": (3,)}


def data_of(folder: Path, **arrays: Any) -> Prepared:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    np.savez(folder / "d.npz", images=images, **arrays)
    return prepare(load_data(str(folder / "d.npz")), PREPROCESS)


def kinds() -> dict[str, dict[str, np.ndarray]]:
    numbers = np.random.default_rng(1).normal(size=(12, 4)) - 5
    return {
        "classes": {"labels": np.arange(12) % 4},
        "multi-label": {"targets": (numbers > -5).astype(np.int64)},
        "regression": {"targets": numbers},
    }


@pytest.mark.parametrize("kind", ["classes", "multi-label", "regression"])
@pytest.mark.parametrize("shape", MANY.values(), ids=MANY)
def test_outputs_that_are_no_answers(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    data = data_of(tmp_path, **kinds()[kind])
    with pytest.raises(DataError, match=r"gives \[N.*d has 4 (classes|columns)"):
        evaluate(lambda images: torch.ones(len(images), *shape), data)


def test_one_class_is_no_map_of_it(tmp_path: Path) -> None:
    # [N, 1, H, W] and [N]: every pixel would count as an image
    data = data_of(tmp_path, labels=np.zeros(12, dtype=np.int64))
    with pytest.raises(DataError, match=r"\[N, 1, 8, 8\]"):
        accuracy(lambda images: images[:, :1], data)
    assert accuracy(lambda images: (images[:, :1, 0, 0], images), data) == 1.0  # the first of several counts


@pytest.mark.parametrize("kind", ["classes", "multi-label", "regression"])
def test_outputs_that_are_no_numbers_are_no_answers(tmp_path: Path, kind: str) -> None:
    # the largest of NaN is the first, and NaN is not above 0: both would count as answers
    data = data_of(tmp_path, **kinds()[kind])
    with pytest.raises(DataError, match="outputs on d are not numbers"):
        evaluate(lambda images: torch.full((len(images), 4), torch.nan), data)
    if kind == "classes":  # a class that is ruled out
        assert accuracy(lambda images: torch.tensor([[-torch.inf, 1.0, 0, 0]]).expand(len(images), 4), data) == 0.25


def test_what_is_known_of_each_image(tmp_path: Path) -> None:
    for arrays in kinds().values():  # also numbers below zero
        assert data_of(tmp_path, **arrays).answered
    np.savez(tmp_path / "bare.npz", images=np.zeros((3, 8, 8, 3), np.uint8))
    bare = prepare(load_data(str(tmp_path / "bare.npz"), labelled=False), PREPROCESS)
    assert not bare.answered
    with pytest.raises(DataError, match="no classes to compare with"):
        evaluate(lambda images: images[:, :1, 0, 0], bare)


def test_losses_by_hand() -> None:
    zero, wanted = torch.zeros(2, 4), torch.tensor([[1.0, 0, 0, 2], [0, 0, 0, 3]])
    assert float(Regression().loss(zero, wanted)) == pytest.approx(14 / 8)
    assert float(MultiLabel().loss(zero, (wanted > 0).float())) == pytest.approx(np.log(2))
    assert float(Classes().loss(zero, torch.tensor([1, 2]))) == pytest.approx(np.log(4))


DENSE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, head):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.give = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), head

    def forward(self, x):
        return self.give(self.head(self.conv(x).relu()))

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.conv(x).flatten(2).transpose(1, 2))

maps = lambda: Net(lambda x: x)
boxes = lambda: Net(lambda x: {"boxes": x.flatten(2), "scores": x.mean((2, 3))})
"""


@pytest.fixture
def dense(tmp_path: Path) -> Callable[[str], str]:
    (tmp_path / "dense.py").write_text(DENSE)
    data_of(tmp_path, labels=np.arange(12) % 4)
    return lambda name: f"{tmp_path / 'dense.py'}:{name}"


@pytest.mark.parametrize("name", ["maps", "boxes"])
def test_no_command_gives_such_outputs_an_accuracy(
    dense: Callable[[str], str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgespa.api.tasks.prune", lambda *_, **__: pytest.fail("pruned before it was refused"))
    shape, data = (1, 3, 8, 8), str(tmp_path / "d.npz")
    pruning = PruneConfig(method="l1", density=0.5)
    with pytest.raises(DataError, match=r"gives \[N, 4, "):
        prune_to_file(dense(name), tmp_path / "t.spa", pruning, input_shape=shape, evaluation=data)
    config = ExportConfig(formats=("onnx",), precisions=("fp32",))
    with pytest.raises(DataError, match=r"gives \[N, 4, "):
        export_bundle(dense(name), tmp_path / "b", config, input_shape=shape, evaluation=data, options=DataOptions())
    assert not (tmp_path / "t.spa").exists()
    assert not (tmp_path / "b").exists()


def test_a_number_per_token_is_nothing_to_learn(dense: Callable[[str], str], tmp_path: Path) -> None:
    base = Base.open(dense("Tokens"), (1, 3, 8, 8))
    with pytest.raises(ConfigError, match=r"gives \[N, 16, 4\], and training needs a first output \[N, K\]"):
        adapt(base, load_data(str(tmp_path / "d.npz")), PREPROCESS, AdaptConfig(epochs=1), tmp_path)


def test_more_outputs_than_classes(tmp_path: Path) -> None:
    data, output = data_of(tmp_path, **kinds()["classes"]), torch.randn(3, 6)
    assert Classes().take(output, data) is output
    with pytest.raises(DataError, match=r"gives \[N, 6\], and d has 4 classes"):
        Classes().take(output, data, own=True)
    for objective in (MultiLabel(), Regression()):
        with pytest.raises(DataError, match=r"gives \[N, 6\], and d has 4 columns"):
            objective.take(output, data_of(tmp_path, **kinds()[objective.name]))
