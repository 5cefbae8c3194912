"""Without labels: a pruned network is taught by what the base gives, and measured by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgespa.adaptation.config import AdaptConfig
from edgespa.api.bundles import export_bundle
from edgespa.api.options import DataOptions
from edgespa.api.tasks import adapt_to_file, prune_to_file
from edgespa.errors import ConfigError
from edgespa.exporting.config import ExportConfig
from edgespa.pruning.config import PruneConfig

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(),
        )
        self.map, self.head = nn.Conv2d(24, 3, 1), nn.Linear(24, 5)

    def forward(self, x):
        y = self.body(x)
        return {"map": 30 * self.map(y), "logits": 4 * self.head(y.mean((2, 3))), "best": y.flatten(1).argmax(1)}

class Logits(Net):
    def forward(self, x):
        return super().forward(x)["logits"]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures without classes, and the same below folders that are called as classes are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    random = np.random.default_rng(0)
    for number in range(48):
        coarse = random.integers(0, 255, (4, 4, 3)).astype(np.uint8)
        picture = Image.fromarray(coarse).resize((16, 16), Image.Resampling.BICUBIC)
        folders = ("flat" if number < 36 else "test", f"named/{'ab'[number % 2]}") if number < 36 else ("test",)
        for folder in folders:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / folder / f"{number:02}.png")
    return tmp_path


def options(objective: str = "match") -> DataOptions:
    return DataOptions((0.5,), (0.25,), objective=objective)


def learn(name: str, model: str = "nets.py:Net", objective: str = "match", data: str = "flat", **settings: object):
    given = {"adapter": "full", "epochs": 16, "batch_size": 8, "density": 0.5, "round_to": 1, "lr": 1e-2} | settings
    return adapt_to_file(
        model, data, Path(name), AdaptConfig(**given), input_shape=(1, 3, 16, 16), options=options(objective),
        evaluation="test",
    )  # fmt: skip


def test_a_pruned_network_gets_nearer_to_its_base(place: Path) -> None:
    cut = prune_to_file(
        "nets.py:Net", place / "cut.spa", PruneConfig(method="l1", density=0.5, round_to=1), input_shape=(1, 3, 16, 16),
        options=options(), evaluation="test",
    )  # fmt: skip
    before = cut.header.metrics["test_error"]
    assert cut.header.metrics["base_test_error"] == pytest.approx(0, abs=1e-6)
    task = learn("t.spa", epochs=22)
    assert task.header.provenance["learns"] == "match"
    assert task.header.classes == ()
    assert task.header.figures.channel_density == pytest.approx(0.5, abs=0.03)
    assert task.header.metrics["test_error"] < 0.8 * before
    manifest = export_bundle(
        "t.spa", place / "b", ExportConfig(formats=("onnx",), precisions=("fp32",)), evaluation="test",
        options=options(), trust=True,
    )  # fmt: skip
    quality = manifest.variants[0].accuracy
    assert quality is not None
    assert (quality.measure, quality.value) == ("error", pytest.approx(task.header.metrics["test_error"], abs=1e-4))
    assert manifest.learns == "classes"  # as of the base itself


def test_classes_that_there_are_are_not_read(place: Path) -> None:
    task = learn("named.spa", data="named", epochs=1)
    assert task.header.classes == ()
    assert task.header.outputs is None


@pytest.mark.parametrize(
    "criterion",
    ["taylor", *(pytest.param(each, marks=pytest.mark.more) for each in ("taylor-activation", "gradient", "lrp"))],
)
def test_every_criterion_has_something_to_go_by(place: Path, criterion: str) -> None:
    scores = learn(f"{criterion}.spa", criterion=criterion, epochs=2, adapter="splora", rank=4).header
    assert scores.figures.channel_density == pytest.approx(0.5, abs=0.03)


def test_an_embedding(place: Path) -> None:
    task = learn("e.spa", "nets.py:Logits", "embedding", epochs=8)
    cut = learn("c.spa", "nets.py:Logits", "embedding", epochs=1, lr=1e-6)
    assert cut.header.metrics["test_cosine"] < task.header.metrics["test_cosine"] < 1
    assert task.header.metrics["test_cosine"] > 0.97


def test_it_is_a_distillation_already(place: Path) -> None:
    config = AdaptConfig(adapter="full", epochs=1, batch_size=16)
    with pytest.raises(ConfigError, match="is a distillation"):
        adapt_to_file(
            "nets.py:Net", "flat", place / "t.spa", config, input_shape=(1, 3, 16, 16), options=options(),
            distill="base",
        )  # fmt: skip
    with pytest.raises(ConfigError, match="the base's own outputs"):
        learn("h.spa", head="new")
    with pytest.raises(Exception, match="no embedding"):
        learn("x.spa", objective="embedding")


def test_augmented_inputs_are_what_the_base_is_asked_about(place: Path) -> None:
    from edgespa.adaptation.augment import augmentation
    from edgespa.config import Preprocess
    from edgespa.data import load_data, prepare
    from edgespa.objectives.match import Match
    from edgespa.objectives.taught import taught
    from edgespa.tasks.base import Base

    base = Base.open("nets.py:Net", (1, 3, 16, 16))
    plain = prepare(
        load_data("flat", labelled=False), Preprocess(height=16, width=16, channels=3, mean=(0.5,) * 3, std=(1,) * 3)
    )
    data = taught(plain, Match(), base.program)
    for images, targets in data.batches(8, shuffle_seed=1, augment=augmentation(("flip", "crop"))):
        wanted = [each for each in base.program(images).values() if each.is_floating_point()]
        for own, its in zip(targets["outputs"], wanted, strict=True):
            torch.testing.assert_close(own, its)
