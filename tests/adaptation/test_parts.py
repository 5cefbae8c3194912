"""The parts of the loop by hand: objective, augmentation, timeline, log."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgespa.adaptation.augment import AUGMENTATIONS, Augmentation, augmentation
from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.log import TrainingLog
from edgespa.adaptation.loss import Teacher, TrainingLoss
from edgespa.adaptation.timeline import Timeline
from edgespa.errors import ConfigError
from edgespa.objectives.base import softened
from edgespa.objectives.class_weights import balanced_weights, balanced_yeses, class_weights, read_weights
from edgespa.objectives.table import Classes, MultiLabel, Regression


def test_distance_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3.0), 0.0]])
    # at T = 2 the teacher says (3/4, 1/4), the student (1/2, 1/2)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(softened(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(softened(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ConfigError, match=r"teacher's outputs have the shape \(1, 3\)"):
        softened(student, torch.zeros(1, 3), 2.0)


def test_the_objective_is_a_mixture() -> None:
    logits, labels, inputs = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.randn(4, 5)
    wanted = torch.randn(4, 3)
    plain = nn.functional.cross_entropy(logits, labels)
    assert torch.equal(TrainingLoss()(logits, labels, inputs), plain)
    mixed = TrainingLoss(teacher=Teacher("t", lambda x: wanted if x is inputs else None), distill_weight=0.25)
    expected = 0.75 * plain + 0.25 * softened(logits, wanted, 2.0)
    torch.testing.assert_close(mixed(logits, labels, inputs), expected)


def test_smoothed_labels_and_class_weights() -> None:
    logits, labels = torch.zeros(1, 4), torch.tensor([2])
    assert float(TrainingLoss(label_smoothing=0.5)(logits, labels, logits)) == pytest.approx(math.log(4))
    two = torch.tensor([[5.0, 0.0], [0.0, 0.0]])
    weighted = TrainingLoss(class_weights=torch.tensor([0.0, 1.0]))(two, torch.tensor([0, 1]), two)
    assert float(weighted) == pytest.approx(math.log(2))  # the first sample counts nothing


def test_balanced_weights_by_hand() -> None:
    weights = balanced_weights(torch.tensor([0, 0, 0, 1, 3, 3]), 4)
    assert weights.tolist() == pytest.approx([6 / 12, 6 / 4, 0, 6 / 8])


def test_balanced_yeses_by_hand() -> None:
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    assert balanced_yeses(targets).tolist() == [3, 1, 1]  # classes with noes or yeses alone count as they are


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("w.json", '{"dog": 2, "cat": 0.5}', [0.5, 2]),
        ("w.json", "[0.5, 2]", [0.5, 2]),
        ("w.csv", "cat,0.5\n\ndog, 2\n", [0.5, 2]),
    ],
)
def test_class_weights_of_a_file(tmp_path: Path, name: str, text: str, expected: list[float]) -> None:
    (tmp_path / name).write_text(text)
    given = read_weights(tmp_path / name)
    weights = class_weights(given, torch.tensor([0, 1]), ("cat", "dog"), Classes(), "pets")
    assert weights is not None
    assert weights.tolist() == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cat": 1, "dgo": 2}, "pets has no class 'dgo', which has a weight"),
        ({"cat": 1}, "the class 'dog' of pets has no weight"),
        ((1.0,), "1 class weights, and pets has 2 classes"),
        ((1.0, -1.0), "the weight of class dog is -1"),
        ((1.0, float("nan")), "the weight of class dog is nan"),
        ((0.0, 0.0), "all class weights are 0"),
    ],
)
def test_class_weights_that_do_not_fit(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        class_weights(given, torch.tensor([0, 1]), ("cat", "dog"), Classes(), "pets")


@pytest.mark.parametrize("text", ["{", '{"cat": "much"}', "[true]", "cat;1", "", "cat,many", '["cat"]'])
def test_a_file_without_class_weights_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "w").write_text(text)
    with pytest.raises(ConfigError, match="holds no class weights"):
        read_weights(tmp_path / "w")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_weights(tmp_path / "absent")


def test_weights_of_yeses_and_not_of_numbers() -> None:
    assert class_weights("none", torch.zeros(2), (), Regression(), "d") is None
    with pytest.raises(ConfigError, match="has no classes to weigh"):
        class_weights("balanced", torch.zeros(2, 1), ("x",), Regression(), "d")
    weights = class_weights((2.0, 1.0), torch.zeros(1, 2), ("a", "b"), MultiLabel(), "d")
    loss = TrainingLoss(MultiLabel(), class_weights=weights)
    yes = loss(torch.zeros(1, 2), torch.tensor([[1.0, 1.0]]), torch.zeros(1))
    assert float(yes) == pytest.approx(1.5 * math.log(2))  # (2 + 1) / 2


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_keeps_form_and_depends_on_the_generator_alone(name: str, channels: int) -> None:
    images = torch.randint(0, 256, (32, channels, 16, 16), dtype=torch.uint8)
    apply = augmentation([name])
    assert apply is not None
    one, same, other = (apply(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.shape == images.shape
    assert one.dtype == torch.uint8
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, images)


def test_flips_are_whole_images() -> None:
    images = torch.randint(0, 256, (64, 3, 5, 7), dtype=torch.uint8)
    result = Augmentation(("flip",))(images, torch.Generator().manual_seed(0))
    flipped = [bool(torch.equal(r, i.flip(2))) for r, i in zip(result, images, strict=True)]
    same = [bool(torch.equal(r, i)) for r, i in zip(result, images, strict=True)]
    assert all(one != other for one, other in zip(flipped, same, strict=True))
    assert 20 < sum(flipped) < 44


def test_crops_are_shifts_with_mirrored_borders() -> None:
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(8), indexing="ij")
    images = (rows * 10 + columns).to(torch.uint8).expand(40, 2, 16, 8)
    result = Augmentation(("crop",))(images, torch.Generator().manual_seed(0))
    seen = set()
    for image in result.long():
        down, right = int(image[0, 8, 4]) // 10 - 8, int(image[0, 8, 4]) % 10 - 4
        seen.add((down, right))
        expected_rows = [min(abs(r + down), 30 - abs(r + down)) for r in range(16)]
        expected_columns = [min(abs(c + right), 14 - abs(c + right)) for c in range(8)]
        expected = torch.tensor([[r * 10 + c for c in expected_columns] for r in expected_rows])
        assert torch.equal(image[0], expected)
        assert torch.equal(image[1], expected)
    assert {down for down, _ in seen} == {-2, -1, 0, 1, 2}
    assert {right for _, right in seen} == {-1, 0, 1}


def test_no_augmentation_is_none() -> None:
    assert augmentation([]) is None


def timeline(**options: Any) -> Timeline:
    return Timeline.of(AdaptConfig(**options), 20)


def test_the_timeline_by_hand() -> None:
    one = timeline(density=0.4, schedule="linear", prune_steps=3, epochs=5)
    assert one.prune_at == pytest.approx({10: 0.8, 30: 0.6, 50: 0.4})
    assert (one.total, one.final_from, one.restarts, one.blocks_at) == (100, 50, (), {})
    paper = timeline(density=0.85, schedule="stepwise", recovery_epochs=1, epochs=5, prune_from=0.2, lr_restart=True)
    assert paper.prune_at == pytest.approx({20: 0.95, 40: 0.9, 60: 0.85})
    assert paper.restarts == (20, 40, 60)
    assert paper.learning_rate(19) < 1e-3 < paper.learning_rate(20) > paper.learning_rate(39)


def test_the_penalty_on_units_grows_until_the_last_pruning_step() -> None:
    one = timeline(density=0.4, schedule="linear", prune_steps=3, epochs=5)
    assert [one.sparsity(step) for step in (0, 9, 24, 49, 50, 99)] == pytest.approx([0.02, 0.2, 0.5, 1, 0, 0])
    assert timeline(density=1.0).sparsity(0) == 0


def test_recovery_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="recovery"):
        timeline(density=0.1, schedule="stepwise", recovery_epochs=1, epochs=5)


def test_block_masks_have_steps_of_their_own() -> None:
    masked = {"mask": "movement", "block_density": 0.5}
    made = timeline(adapter="splopa", adapter_settings=masked, schedule="linear", prune_steps=2, epochs=5)
    assert made.prune_at == {}
    assert made.blocks_at == pytest.approx({10: 0.75, 50: 0.5})
    assert made.final_from == 50
    assert timeline(adapter="splopa").blocks_at == {}


def test_the_log_forgets_what_is_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = TrainingLog(path, None)
    for epoch in (1, 2, 3):
        log.write("prune", epoch=epoch, density=0.5)
        log.write("epoch", epoch=epoch, loss=1.0)
    with path.open("a") as file:
        file.write('{"event": "ep')  # a kill in the middle of a line
    again = TrainingLog(path, (2, 0))
    again.write("epoch", epoch=3, loss=2.0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line["epoch"]) for line in lines] == [
        ("prune", 1), ("epoch", 1), ("prune", 2), ("epoch", 2), ("epoch", 3),
    ]  # fmt: skip
    TrainingLog(path, None)
    assert path.read_text() == ""
    with pytest.raises(ConfigError, match="cannot be written"):
        TrainingLog(tmp_path / "no" / "log", None)
