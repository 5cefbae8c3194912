"""An objective of the user's own: his data set's answers, his loss on raw outputs, his measure, the whole way."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespa.adaptation.config import AdaptConfig
from edgespa.api.bundles import export_bundle
from edgespa.api.options import DataOptions
from edgespa.api.tasks import adapt_to_file
from edgespa.errors import ConfigError, DataError
from edgespa.exporting.config import ExportConfig
from edgespa.tasks.task import Task

MINE = '''
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from edgespa.objectives.base import Objective
from edgespa.objectives.measures import Measure

class Net(nn.Module):
    """A place and how sure it is, of one bright spot."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(24 * 16, 32), nn.ReLU(),
        )
        self.place, self.sure = nn.Linear(32, 2), nn.Linear(32, 1)

    def forward(self, x):
        y = self.body(x)
        return {"place": self.place(y).sigmoid(), "sure": self.sure(y)}

class Spots(Dataset):
    def __init__(self, count=96, seed=0):
        self.random = np.random.default_rng(seed)
        self.items = [self.make() for _ in range(count)]

    def make(self):
        pixels = self.random.normal(60, 10, (16, 16, 3)).clip(0, 255).astype(np.uint8)
        y, x = self.random.integers(1, 15, 2)
        there = bool(self.random.random() < 0.8)
        if there:
            pixels[y - 1 : y + 2, x - 1 : x + 2] = 250
        return pixels, {"place": torch.tensor([y / 16, x / 16]).float(), "there": float(there)}

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

class Spot(Objective):
    name = "spot"
    measures = (Measure("offby", "mean distance in pixels", rises=False), Measure("found", "found", percent=True))

    def loss(self, outputs, targets, weights=None, smoothing=0.0):
        there = targets["there"].float()
        off = (outputs["place"] - targets["place"]).square().sum(1) * there
        return 10 * off.mean() + nn.functional.binary_cross_entropy_with_logits(outputs["sure"][:, 0], there)

    def sums(self, outputs, targets):
        there = targets["there"].double()
        off = (outputs["place"].double() - targets["place"]).square().sum(1).sqrt() * 16
        right = ((outputs["sure"][:, 0] > 0) == (there > 0)).double()
        return torch.stack([(off * there).sum(), there.sum(), right.sum(), torch.tensor(float(len(there))).double()])

    def values(self, sums, table):
        return float(sums[0] / sums[1]), float(sums[2] / sums[3])

net, data, test = Net, Spots, lambda: Spots(40, 9)
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def learn(name: str = "t.spa", **settings: object) -> Task:
    config = AdaptConfig(
        **{"adapter": "full", "epochs": 20, "batch_size": 16, "density": 0.7, "round_to": 1, "lr": 3e-3} | settings
    )
    options = DataOptions((0.5,), (0.5,), objective="mine.py:Spot")
    return adapt_to_file(
        "mine.py:net", "mine.py:data", Path(name), config, input_shape=(1, 3, 16, 16), options=options,
        evaluation="mine.py:test",
    )  # fmt: skip


def test_the_whole_way(place: Path) -> None:
    task = learn()
    metrics, provenance = task.header.metrics, task.header.provenance
    assert provenance["learns"] == "spot"
    assert metrics["test_offby"] < 4.5  # of 16; a guess in the middle is off by 5.7
    assert metrics["validation_offby"] == min(
        epoch["validation"] for epoch in provenance["history"] if epoch["density"] < 0.75
    )  # the less the better
    assert metrics["test_found"] > 0.7
    options = DataOptions((0.5,), (0.5,), objective="mine.py:Spot")
    manifest = export_bundle(
        "t.spa", place / "b", ExportConfig(formats=("onnx",), precisions=("fp32",)), evaluation="mine.py:test",
        options=options, trust=True,
    )  # fmt: skip
    assert manifest.learns == "spot"
    quality = manifest.variants[0].accuracy
    assert quality is not None
    assert (quality.measure, quality.title, quality.rises) == ("offby", "mean distance in pixels", False)
    assert quality.value == pytest.approx(metrics["test_offby"], abs=1e-3)
    assert quality.others["found"] == pytest.approx(metrics["test_found"])
    assert "mean distance in pixels" in (place / "b" / "README.md").read_text()


def test_relevance_begins_with_its_outputs(place: Path) -> None:
    assert learn(criterion="lrp", epochs=2).header.figures.channel_density < 0.75


def test_measures_that_do_not_come_out_are_told_before_training(place: Path) -> None:
    code = (place / "mine.py").read_text()
    for old, new, message in (
        (", float(sums[2] / sums[3])", ",", "has 2 measures, and its values gives 1 values"),
        ("return torch.stack([(off", "return torch.stack([self.absent, (off", "cannot measure .*AttributeError"),
        (".double()])", ".double()]).float()", r"gives torch.float32 \[4\], |gives torch.float32"),
    ):
        assert old in code
        (place / "mine.py").write_text(code.replace(old, new))
        with pytest.raises(ConfigError, match=message):
            learn()
        assert not list(place.glob("*.resume"))


def test_what_an_objective_has_not_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="spot has no labels to smooth"):
        learn(label_smoothing=0.1)
    with pytest.raises(ConfigError, match="no classes to weigh"):
        learn(class_weights="balanced")
    with pytest.raises(DataError, match="may lie elsewhere in it once it is augmented"):
        learn(augment=("flip",))
    options = DataOptions((0.5,), (0.5,), objective="mine.py:Spot")
    with pytest.raises(DataError, match="what a data set of yours gives"):
        adapt_to_file(
            "mine.py:net", "digits:train", place / "t.spa", AdaptConfig(), input_shape=(1, 3, 16, 16), options=options
        )
    for objective in ("regression", "segmentation"):
        options = DataOptions((0.5,), (0.5,), objective=objective)
        with pytest.raises(DataError, match=r"(not learned as|needs a mask)"):
            adapt_to_file(
                "mine.py:net", "digits:train", place / "t.spa", AdaptConfig(), input_shape=(1, 3, 16, 16),
                options=options,
            )  # fmt: skip
