"""Heads for data without classes: several labels per image, and numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.adaptation.loss import Teacher, TrainingLoss
from edgespa.adaptation.units import Units
from edgespa.api.quality import with_quality
from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared, load_data, prepare
from edgespa.errors import ConfigError, DataError
from edgespa.objectives.evaluate import accuracy, evaluate
from edgespa.objectives.table import MultiLabel, Regression
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Noisy images whose channels are bright or dark independently, and which are bright."""
    random = np.random.default_rng(0)
    bright = random.integers(0, 2, (96, 3))
    images = random.integers(0, 90, (96, 8, 8, 3)) + 120 * bright[:, None, None, :]
    return images.astype(np.uint8), bright


def data_of(folder: Path, targets: np.ndarray, **more: Any) -> ImageData:
    np.savez(folder / "t.npz", images=arrays()[0], targets=targets, **more)
    return load_data(str(folder / "t.npz"))


def learn(base: Base, data: ImageData, preprocess: Preprocess, folder: Path, **options: Any) -> Task:
    own = {"rank": 4, "density": 0.5, "epochs": 12, "batch_size": 16, "round_to": 1, "validation": 0.2}
    teacher = options.pop("teacher", None)
    return adapt(base, data, preprocess, AdaptConfig(**{**own, **options}), folder, teacher=teacher)


def test_targets_of_an_npz(tmp_path: Path) -> None:
    bright = arrays()[1]
    data = data_of(tmp_path, bright, classes=np.array(["r", "g", "b"]))
    assert (data.kind, data.classes, data.labelled) == ("multi-label", ("r", "g", "b"), False)
    assert data.targets is not None
    assert np.array_equal(data.targets, bright)
    rest, held = data.split(0.25, 0)
    assert (len(rest), len(held)) == (72, 24)
    part = data.subset([5, 2]).subset([1])
    assert part.targets is not None
    assert np.array_equal(part.targets, bright[[2]])
    assert data_of(tmp_path, bright.astype(bool)).kind == "multi-label"
    numbers = data_of(tmp_path, bright.sum(1) / 3)
    assert (numbers.kind, numbers.classes) == ("regression", ("0",))


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        (np.full((96, 2), np.nan), "not finite"),
        (np.full((96, 2), 2), "other than 0 and 1"),
        (np.zeros((95, 2)), "95 targets"),
        (np.zeros((96, 2, 2)), "shape"),
        (np.full((96, 2), "a"), "type"),
    ],
)
def test_targets_that_cannot_be(tmp_path: Path, targets: np.ndarray, text: str) -> None:
    with pytest.raises(DataError, match=text):
        data_of(tmp_path, targets)


def test_names_that_do_not_fit_the_targets(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 columns, but 2 names"):
        data_of(tmp_path, arrays()[1], classes=np.array(["r", "g"]))


def test_quality_by_hand(tmp_path: Path, toy_preprocess: Preprocess) -> None:
    bright = arrays()[1]
    labels = prepare(data_of(tmp_path, bright), toy_preprocess)
    assert evaluate(lambda x: torch.ones(len(x), 3), labels).value == pytest.approx(bright.mean())
    numbers = prepare(data_of(tmp_path, bright * 1.0), toy_preprocess)
    mean = torch.tensor(bright.mean(0))
    assert evaluate(lambda x: mean.expand(len(x), 3), numbers).value == pytest.approx(0, abs=1e-6)
    assert evaluate(lambda x: 2 * mean.expand(len(x), 3), numbers).value < 0
    with pytest.raises(DataError, match="no classes"):
        accuracy(lambda x: x, numbers)


def test_several_labels_are_learned(tmp_path: Path, toy_base: Base, toy_preprocess: Preprocess) -> None:
    data = data_of(tmp_path, arrays()[1], classes=np.array(["r", "g", "b"]))
    task = learn(toy_base, data, toy_preprocess, tmp_path)
    assert task.header.metrics["validation_accuracy"] > 0.9
    assert evaluate(task.program(toy_base), prepare(data, toy_preprocess)).value > 0.9
    assert task.header.classes == ("r", "g", "b")
    assert task.header.provenance["learns"] == "multi-label"
    assert task.header.figures.channel_density == 0.5


def test_numbers_are_learned(tmp_path: Path, toy_base: Base, toy_preprocess: Preprocess) -> None:
    data = data_of(tmp_path, arrays()[1] @ np.array([[1.0, 0.5], [0, 2.0], [-1.0, 0]]))
    task = learn(toy_base, data, toy_preprocess, tmp_path, store="int8")
    assert task.header.metrics["validation_r2"] > 0.8
    assert task.header.metrics["validation_r2_fp32"] > 0.8
    assert task.header.outputs == 2


def test_what_needs_classes_is_refused(tmp_path: Path, toy_base: Base, toy_preprocess: Preprocess) -> None:
    numbers = data_of(tmp_path, arrays()[1].sum(1) / 3)
    with pytest.raises(ConfigError, match="no classes to weigh"):
        learn(toy_base, numbers, toy_preprocess, tmp_path, class_weights="balanced")


def test_relevance_begins_at_the_labels_that_there_are(
    tmp_path: Path, toy_base: Base, toy_preprocess: Preprocess
) -> None:
    task = learn(toy_base, data_of(tmp_path, arrays()[1]), toy_preprocess, tmp_path, criterion="lrp", epochs=2)
    assert task.header.figures.channel_density < 0.6


def test_objectives_by_hand() -> None:
    outputs, wanted = torch.zeros(2, 3), torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    labels = TrainingLoss(MultiLabel(), label_smoothing=0.2)
    assert float(labels(outputs, wanted, outputs)) == pytest.approx(math.log(2))
    assert labels.guess(wanted, 3) == pytest.approx(math.log(2))
    large = torch.full((2, 3), 50.0)
    assert float(labels.plain(large, wanted)) == pytest.approx(25)  # half of the answers are wrong, by 50 each
    numbers = TrainingLoss(Regression())
    assert float(numbers(outputs, wanted, outputs)) == pytest.approx(0.5)
    assert numbers.guess(wanted, 3) == pytest.approx((0.25 + 0 + 0) / 3)
    teacher = Teacher("t", lambda x: x + 2)
    for objective, expected in ((Regression(), 4.0), (MultiLabel(), 4 * math.log(2))):
        taught = TrainingLoss(objective, teacher=teacher, distill_weight=1.0)
        assert float(taught(outputs, wanted, outputs)) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="teacher's outputs"):
        TrainingLoss(Regression(), teacher=Teacher("t", lambda x: x[:, :1]))(outputs, wanted, outputs)


def blind(data: Prepared) -> float | None:
    return evaluate(lambda images: torch.zeros(len(images), len(data.classes)), data).blind


def test_what_answers_without_looking_reach(
    tmp_path: Path, toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, caplog: pytest.LogCaptureFixture
) -> None:
    assert blind(prepare(toy_data.subset([0, 1, 3, 6]), toy_preprocess)) == 0.75  # classes 0, 1, 0, 0
    labels = data_of(tmp_path, np.tile([[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0]], (24, 1)))
    assert blind(prepare(labels, toy_preprocess)) == pytest.approx((1 + 0.5 + 1) / 3)
    numbers = data_of(tmp_path, np.linspace(0.0, 0.9, 96))
    assert blind(prepare(numbers, toy_preprocess)) == 0
    learn(toy_base, toy_data, toy_preprocess, tmp_path, lr=1e-9, epochs=1, density=1.0)
    assert "nothing was learned" in caplog.text
    caplog.clear()
    learn(toy_base, toy_data, toy_preprocess, tmp_path)
    assert "nothing was learned" not in caplog.text


def numbers() -> np.ndarray:
    """Three columns that the images say, of unit scale."""
    values = arrays()[1] @ np.array([[1.0, 0.5, 0], [0, 2.0, 0], [-1.0, 0, 1]])
    return (values - values.mean(0)) / values.std(0)


SCALES = {
    "thousands": (1000.0, 250.0),
    "far_off": (1013.0, 1.5),
    "small": (0.0, 1e-4),
    "each_its_own": (np.array([5e3, 0.0, -20.0]), np.array([900.0, 0.01, 7.0])),
}


@pytest.mark.law(1)
@pytest.mark.parametrize("scale", SCALES)
def test_numbers_are_learned_in_their_own_units(
    scale: str, tmp_path: Path, toy_base: Base, toy_preprocess: Preprocess, caplog: pytest.LogCaptureFixture
) -> None:
    mean, std = SCALES[scale]
    data = data_of(tmp_path, numbers() * std + mean)
    plain = learn(toy_base, data_of(tmp_path, numbers()), toy_preprocess, tmp_path)
    task = learn(toy_base, data_of(tmp_path, numbers() * std + mean), toy_preprocess, tmp_path)
    assert task.header.metrics["validation_r2"] > 0.8
    # the same training, in other units
    assert task.header.metrics["validation_r2"] == pytest.approx(plain.header.metrics["validation_r2"], abs=0.02)
    images = prepare(data, toy_preprocess)
    outputs = task.program(toy_base)(images.tensor(range(len(data)))).detach()
    errors = (outputs - images.labels).square().mean(0).sqrt().numpy()
    assert (errors < 0.5 * np.broadcast_to(std, 3)).all()
    assert "nothing was learned" not in caplog.text
    again = learn(toy_base, data, toy_preprocess, tmp_path)
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in task.tensors.items())


def test_a_task_in_units_is_gone_on_with_and_teaches(
    tmp_path: Path, toy_base: Base, toy_preprocess: Preprocess
) -> None:
    data = data_of(tmp_path, numbers() * 250 + 1000)
    task = learn(toy_base, data, toy_preprocess, tmp_path, density=1.0)
    reached = task.header.metrics["validation_r2"]
    own = {"rank": 4, "density": 1.0, "epochs": 1, "batch_size": 16, "lr": 1e-9, "validation": 0.2}
    more = adapt(toy_base, data, toy_preprocess, AdaptConfig(**own), tmp_path, start=task)
    assert more.header.metrics["validation_r2"] == pytest.approx(reached, abs=0.02)
    program = task.program(toy_base)
    kept = learn(toy_base, data, toy_preprocess, tmp_path, teacher=Teacher("t", program), distill_weight=1.0)
    assert kept.header.metrics["validation_r2"] > 0.7


def test_a_head_that_knows_the_units_is_kept(tmp_path: Path, toy_base: Base, toy_preprocess: Preprocess) -> None:
    x = prepare(data_of(tmp_path, numbers()), toy_preprocess).tensor(range(96))
    with torch.no_grad():
        said = toy_base.program(x)
    base = toy_base.with_state({"fc.weight": toy_base.program.state()["fc.weight"] * 300})
    with torch.no_grad():
        wanted = base.program(x).numpy()
    assert np.abs(wanted).max() > 20 * np.abs(said.numpy()).std()
    data = data_of(tmp_path, wanted)
    own = {"rank": 4, "density": 1.0, "epochs": 1, "batch_size": 16, "lr": 1e-9, "freeze_norms": True}
    task = adapt(base, data, toy_preprocess, AdaptConfig(**own), tmp_path)
    assert task.header.metrics["validation_r2"] > 0.99


def test_units_by_hand(toy_base: Base, caplog: pytest.LogCaptureFixture) -> None:
    targets = torch.tensor([[1000.0, 3.0, 7.0, -2.0], [1004.0, 3.0, 9.0, -6.0]])
    units = Units.of(targets, toy_base)
    assert units.mean.tolist() == [1002, 3, 8, -4]
    assert units.std.tolist() == [2, 1, 1, 2]
    assert units.standard(targets).tolist() == [[-1, 0, -1, 1], [1, 0, 1, -1]]
    state = toy_base.program.state()
    there = units.tensors_inside(state)
    back = units.tensors_outside(there)
    for name, tensor in state.items():
        torch.testing.assert_close(back[name], tensor, atol=1e-4, rtol=1e-5)
    assert torch.equal(there["fc.weight"][1], state["fc.weight"][1])
    x = torch.randn(3, 3, 8, 8)
    inner = units.inside(toy_base).program(x)
    torch.testing.assert_close(units.raw(inner), toy_base.program(x), atol=1e-3, rtol=1e-4)
    assert "no bias" not in caplog.text


def test_answers_that_do_not_hold_on_test_data_are_told(
    tmp_path: Path, toy_base: Base, toy_preprocess: Preprocess, caplog: pytest.LogCaptureFixture
) -> None:
    task = learn(toy_base, data_of(tmp_path, numbers() * 250 + 1000), toy_preprocess, tmp_path, epochs=4)
    test = prepare(data_of(tmp_path, numbers()), toy_preprocess)  # in other units
    tested = with_quality(task, task.fit(toy_base), test)
    assert tested.header.metrics["test_r2"] < 0
    assert "in the same units" in caplog.text


def test_an_interrupted_run_in_units_resumes_bit_for_bit(
    tmp_path: Path, toy_base: Base, toy_preprocess: Preprocess
) -> None:
    data = data_of(tmp_path, numbers() * 250 + 1000)
    config = AdaptConfig(rank=4, density=0.5, epochs=4, batch_size=16, round_to=1, validation=0.2, lr=0.01)

    def interrupt(done: float, total: float | None, text: str) -> None:
        if total is not None and done > total / 2:
            raise KeyboardInterrupt

    state = tmp_path / "state"
    whole = adapt(toy_base, data, toy_preprocess, config, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        adapt(toy_base, data, toy_preprocess, config, tmp_path, checkpoint=state, progress=interrupt)
    resumed = adapt(toy_base, data, toy_preprocess, config, tmp_path, checkpoint=state, resume=True)
    assert all(torch.equal(tensor, resumed.tensors[name]) for name, tensor in whole.tensors.items())
    other = data_of(tmp_path, numbers() * 100 + 1000)
    with pytest.raises(ConfigError, match="made with another --data"):
        adapt(toy_base, other, toy_preprocess, config, tmp_path, checkpoint=state, resume=True)
