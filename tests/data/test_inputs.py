"""Samples that are no images: series, clips, words, several inputs; from files and data sets, the whole way."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa.adaptation.config import AdaptConfig
from edgespa.api.bundles import export_bundle
from edgespa.api.options import DataOptions
from edgespa.api.tasks import adapt_to_file, prune_to_file
from edgespa.bundle import read_manifest
from edgespa.data import load_data
from edgespa.data.inputs import Taken, matched, takes_of
from edgespa.data.tensors import prepare_for, prepare_tensors
from edgespa.errors import ConfigError, DataError
from edgespa.exporting.config import ExportConfig
from edgespa.graph.trace import trace
from edgespa.models.given import Given
from edgespa.models.inputs import InputSize, InputSizes
from edgespa.pruning.config import PruneConfig
from edgespa.tasks.base import Base

NETS = """
import torch
from torch import nn

class Series(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv1d(3, 16, 5, 2, 2), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 16, 5, 2, 2))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)).mean(2))

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.GRU(3, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        y, _ = self.rnn(x)
        return self.head(y.mean(1))

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.mix, self.head = nn.Embedding(20, 12), nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, ids, mask):
        return self.head(torch.relu(self.mix(self.words(ids))) .mul(mask[..., None]).mean(1))

class Clips(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv3d(2, 12, 3, 2, 1), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3, 4)))
"""
SIZES: dict[str, InputSizes] = {
    "Series": (1, 3, 32),
    "Recurrent": (1, 32, 3),
    "Words": (InputSize((1, 6), "int64"), InputSize((1, 6))),
    "Clips": (1, 2, 4, 8, 8),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 90)
    time = np.arange(32) / 32
    wave = np.sin(2 * np.pi * (1 + 2 * labels[:, None]) * time + generator.uniform(0, 6, (90, 1)))
    series = np.stack([wave, wave * labels[:, None], 0 * wave], 1) + generator.normal(0, 0.1, (90, 3, 32))
    series = series.astype(np.float32)
    ids = (labels[:, None] + 3 * generator.integers(0, 6, (90, 6))).astype(np.int64)
    mask = (generator.random((90, 6)) < 0.8).astype(np.float32)
    clips = (labels[:, None, None, None, None] - 1 + generator.normal(0, 0.3, (90, 2, 4, 8, 8))).astype(np.float32)
    arrays: dict[str, dict[str, Any]] = {
        "Series": {"x": series},
        "Recurrent": {"sensor": series.transpose(0, 2, 1)},
        "Words": {"mask": mask, "ids": ids},
        "Clips": {"input_0": clips},
    }
    for name, own in arrays.items():
        parts = {"train": slice(0, 66), "test": slice(66, None)}
        split = {f"{key}_{part}": each[where] for key, each in own.items() for part, where in parts.items()}
        split |= {f"labels_{part}": labels[where] for part, where in parts.items()}
        np.savez(tmp_path / f"{name}.npz", **split, classes=np.array(["slow", "middle", "fast"]))
    return tmp_path


@pytest.mark.parametrize(
    "name", ["Words", *(pytest.param(each, marks=pytest.mark.more) for each in ("Series", "Recurrent", "Clips"))]
)
def test_the_whole_way(place: Path, name: str) -> None:
    config = AdaptConfig(adapter="full", epochs=10, batch_size=11, lr=0.02, density=0.6, round_to=1)
    task = adapt_to_file(
        f"nets.py:{name}", f"{name}.npz:train", place / "t.spa", config, input_shape=SIZES[name],
        evaluation=f"{name}.npz:test",
    )  # fmt: skip
    metrics = task.header.metrics
    assert metrics["test_accuracy"] > (0.45 if name == "Recurrent" else 0.75)
    assert task.header.preprocess is None
    assert task.header.classes == ("slow", "middle", "fast")
    assert task.header.figures.channel_density < 0.7
    form = ExportConfig(formats=("onnx",), precisions=("fp32", "int8"), int8_slowdown=100, int8_tolerance=1)
    export_bundle(
        "t.spa", place / "b", form, calibration=f"{name}.npz:train", evaluation=f"{name}.npz:test", trust=True
    )
    manifest = read_manifest(place / "b")
    assert [variant.name for variant in manifest.variants] == ["onnx-fp32", "onnx-int8"]
    for variant in manifest.variants:
        assert variant.accuracy is not None
        assert variant.accuracy.value == pytest.approx(metrics["test_accuracy"], abs=0.1)


STREAM = """
import torch
from torch import nn

class Stream(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.front, self.rnn = nn.Linear(3, 12), nn.GRU(12, 8, 2, batch_first=True)
        self.mid, self.head = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x, state):
        y, state = self.rnn(torch.relu(self.front(x)), state)
        return self.head(torch.relu(self.mid(y[:, -1]))), state
"""


@pytest.mark.more
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_state_in_and_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stream.py").write_text(STREAM)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 60)
    x = (labels[:, None, None] + generator.normal(0, 0.3, (60, 10, 3))).astype(np.float32)
    np.savez(tmp_path / "s.npz", x=x, state=generator.normal(0, 0.1, (60, 2, 8)).astype(np.float32), labels=labels)
    config = AdaptConfig(adapter="lora", rank=2, epochs=8, batch_size=9, lr=0.02, density=0.7, round_to=1)
    sizes = (InputSize((1, 10, 3)), InputSize((2, 1, 8)))
    task = adapt_to_file("stream.py:Stream", "s.npz", tmp_path / "t.spa", config, input_shape=sizes, evaluation="s.npz")
    assert task.header.metrics["test_accuracy"] > 0.9
    assert {"rnn.weight_ih_l0", "rnn.weight_hh_l1"} <= set(task.adapters)
    form = ExportConfig.parse(
        {"formats": ("onnx",), "precisions": ("fp32", "int8")[: 1 + (precision == "int8")], "int8_slowdown": 100,
         "int8_tolerance": 1}, "form",
    )  # fmt: skip
    export_bundle("t.spa", tmp_path / "b", form, calibration="s.npz", evaluation="s.npz", trust=True)
    for variant in read_manifest(tmp_path / "b").variants:
        assert variant.accuracy is not None
        assert variant.accuracy.value == pytest.approx(task.header.metrics["test_accuracy"], abs=0.05)
    pruned = prune_to_file(
        "stream.py:Stream", tmp_path / "p.spa", PruneConfig(method="asym-in-change", density=0.5, round_to=1),
        input_shape=sizes, calibration="s.npz",
    )  # fmt: skip
    assert pruned.header.figures.channel_density < 0.7


@pytest.mark.parametrize("name", ["Series", "Words"])
@pytest.mark.parametrize("settings", [{"method": "asym-in-change"}, {"method": "act-grad"}], ids=str)
def test_pruned_by_what_they_show(place: Path, name: str, settings: dict[str, str]) -> None:
    task = prune_to_file(
        f"nets.py:{name}", place / "p.spa", PruneConfig(density=0.5, round_to=1, **settings), input_shape=SIZES[name],
        calibration=f"{name}.npz:train", evaluation=f"{name}.npz:test", options=DataOptions(labels=None),
    )  # fmt: skip
    assert task.header.figures.channel_density < 0.7
    assert 0 <= task.header.metrics["test_accuracy"] <= 1


def program(*sizes: tuple[int, ...]) -> Any:
    class Net(nn.Module):
        def forward(self, one: Tensor, *more: Tensor) -> Tensor:
            return one.flatten(1).sum(1, keepdim=True) + sum(each.flatten(1).sum(1, keepdim=True) for each in more)

    return trace(Net(), tuple(torch.randn(2, *size) for size in sizes))


def test_items_of_data_sets(place: Path) -> None:
    takes = (Taken("a", (2,), torch.float32), Taken("b", (3, 1), torch.int64))
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([[1], [2], [3]])
    for given in ((one, two), [one.numpy(), two.numpy()], {"b": two, "a": one}, {"input_1": two, "input_0": one}):
        data = load_data(Given([(given, 0), (given, 1)]))
        assert data.preprocessed
        prepared = prepare_tensors(data, takes)
        ((inputs, labels),) = prepared.batches(2)
        assert torch.equal(inputs[0], torch.stack([one, one]))
        assert torch.equal(inputs[1], torch.stack([two, two]))
        assert labels.tolist() == [0, 1]
        slow = prepare_tensors(data, takes, cache_bytes=0)
        assert not slow.cached
        assert all(torch.equal(*each) for each in zip(slow.tensor([1, 0]), prepared.tensor([1, 0]), strict=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(2),), "has 1 inputs, and the model takes 2"),
        ({"a": torch.zeros(2), "c": torch.zeros(3, 1)}, r"has a, c, and the model takes b \[3, 1\] of int64"),
        ({"a": torch.zeros(2), "b": torch.zeros(3, 1).long(), "c": 1}, "has c, which the model does not take"),
        ((torch.zeros(2), torch.zeros(3, 1)), "is of float32, and the model takes b"),
        ((torch.zeros(2), torch.zeros(3).long()), r"is \[3\], and the model takes b"),
        ((torch.tensor([1.0, float("nan")]), torch.zeros(3, 1).long()), "not finite"),
        ((np.array(["x", "y"]), torch.zeros(3, 1).long()), "no numbers"),
    ],
)
def test_what_does_not_fit_is_said(given: Any, message: str) -> None:
    takes = (Taken("a", (2,), torch.float32), Taken("b", (3, 1), torch.int64))
    with pytest.raises(DataError, match=message) as caught:
        matched(given, takes, "mine: sample 3")
    assert caught.value.message.startswith("mine: sample 3")
    assert caught.value.hint


def test_states_have_their_samples_elsewhere() -> None:
    takes = (Taken("x", (4,), torch.float32), Taken("state", (2, 5), torch.float32, axis=1))
    items = [((torch.full((4,), float(i)), torch.full((2, 5), float(i))), i) for i in range(6)]
    ((inputs, _), *_) = prepare_tensors(load_data(Given(items)), takes).batches(6)
    assert inputs[1].shape == (2, 6, 5)
    assert inputs[1][0, :, 0].tolist() == inputs[0][:, 0].tolist()


def test_a_collate_of_the_users() -> None:
    class Ragged:
        classes = ("a", "b")

        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Any:
            return list(range(index + 1)), index % 2

        def collate(self, items: list[Any]) -> Any:
            rows = [row + [0] * (8 - len(row)) for row, _ in items]
            return {"ids": torch.tensor(rows), "length": torch.tensor([float(len(row)) for row, _ in items])}, [
                label for _, label in items
            ]

    takes = (Taken("ids", (8,), torch.int64), Taken("length", (), torch.float32))
    data = load_data(Given(Ragged()))
    ((inputs, labels), *_) = prepare_tensors(data, takes).batches(5)
    assert inputs[0][4].tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
    assert inputs[1].tolist() == [1, 2, 3, 4, 5]
    assert labels.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("cache", [0, 1 << 30])
def test_what_is_right_is_of_the_draw_that_its_input_is_of(cache: int) -> None:
    """A data set that augments draws anew whenever an item is read."""

    class Drawn:
        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int) -> Any:
            value = random.random()
            return (torch.full((2,), value),), {"same": torch.tensor(value)}

    data = load_data(Given(Drawn()), items="mine")
    prepared = prepare_tensors(data, (Taken("x", (2,), torch.float32),), cache_bytes=cache)
    for _ in range(2):
        for inputs, targets in prepared.batches(4, shuffle_seed=1):
            torch.testing.assert_close(inputs[:, 0], targets["same"])


def test_images_for_a_model_that_takes_none(place: Path, toy_folder: Path) -> None:
    config = AdaptConfig(epochs=1, batch_size=8)
    with pytest.raises(ConfigError, match="is not an image") as caught:
        adapt_to_file(
            "nets.py:Series", str(toy_folder / "colours.npz"), place / "t.spa", config, input_shape=(1, 3, 32)
        )
    assert "npz" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="nothing to say of pixels"):
        adapt_to_file(
            "nets.py:Series", "Series.npz:train", place / "t.spa", config, input_shape=(1, 3, 32),
            options=DataOptions((0.5,), (0.5,)),
        )  # fmt: skip
    with pytest.raises(DataError, match=r"is \[3, 32\], and the model takes x \[3, 16\]"):
        adapt_to_file("nets.py:Series", "Series.npz:train", place / "t.spa", config, input_shape=(1, 3, 16))


def test_arrays_that_are_no_inputs(tmp_path: Path) -> None:
    for arrays, message in (
        ({"a": np.zeros((3, 2)), "b": np.zeros((4, 2)), "labels": np.zeros(3, int)}, "different lengths: a 3, b 4"),
        ({"a": np.array(["x", "y"]), "labels": np.zeros(2, int)}, "is no input"),
        ({"a": np.zeros((0, 2)), "labels": np.zeros(0, int)}, "no samples"),
        ({"a": np.zeros((2, 2)), "labels": np.zeros(3, int)}, "2 images but 3 labels"),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(DataError, match=message):
            load_data(str(tmp_path / "a.npz"))


def test_inputs_without_samples_are_refused(place: Path) -> None:
    base = Base.open("nets.py:Series", (1, 3, 32))
    assert [str(each) for each in takes_of(base.program)] == ["x [3, 32] of float32"]
    prepared = prepare_for(base.program, load_data("Series.npz:test"), None)
    assert prepared.tensor([0, 1]).shape == (2, 3, 32)


def test_answers_of_any_shape_are_for_an_objective_of_the_users(tmp_path: Path) -> None:
    arrays = {"x": np.zeros((6, 4), np.float32), "targets": np.arange(18).reshape(6, 3), "labels": np.arange(6)}
    np.savez(tmp_path / "a.npz", **arrays)
    prepared = prepare_tensors(load_data(str(tmp_path / "a.npz"), items="mine"), (Taken("x", (4,), torch.float32),))
    ((_, (labels, targets)), *_) = prepared.batches(2)
    assert labels.tolist() == [0, 1]
    assert targets.tolist() == [[0, 1, 2], [3, 4, 5]]
    np.savez(tmp_path / "b.npz", x=arrays["x"])
    with pytest.raises(DataError, match="no labels and no targets"):
        load_data(str(tmp_path / "b.npz"), items="mine")
    np.savez(tmp_path / "c.npz", x=arrays["x"], targets=np.zeros((5, 2)))
    with pytest.raises(DataError, match="for 6 samples"):
        load_data(str(tmp_path / "c.npz"), items="mine")
