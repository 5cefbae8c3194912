"""Boxes learned by torchvision's own losses: laws of the objective, and the whole way to files that find them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_detectors import KINDS, SIDE, made, torchvision_or_skip
from torch import Tensor, nn

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.api.bundles import export_bundle
from edgespa.api.options import DataOptions
from edgespa.api.quality import with_quality
from edgespa.api.tasks import adapt_to_file, prune_to_file
from edgespa.data import prepare
from edgespa.data.boxes import BoxAnswers, Drawn, Objects
from edgespa.data.images import ImageData
from edgespa.data.source import ImageSource
from edgespa.errors import ConfigError, DataError
from edgespa.exporting.config import ExportConfig
from edgespa.models.detectors import taken_apart
from edgespa.models.given import Given
from edgespa.objectives.detection import Detection
from edgespa.objectives.evaluate import evaluate, objective_for, require_answers
from edgespa.pruning.config import PruneConfig
from edgespa.tasks.base import Base

CUTS = ([16], [8, 8], [1, 15], [5, 4, 7])
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


@pytest.fixture(autouse=True)
def zoo() -> None:
    torchvision_or_skip()


class Pictures(ImageSource):
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def image(self, index: int) -> np.ndarray:
        return self.array[index]


def drawn(count: int, seed: int = 0, classes: Sequence[str] = ("red", "green", "blue")) -> ImageData:
    """Rectangles of three colours on grey."""
    random = np.random.RandomState(seed)
    array = random.randint(90, 110, (count, SIDE, SIDE, 3)).astype(np.uint8)
    pictures = []
    for picture in array:
        labels, boxes = random.randint(0, len(classes), random.randint(0, 4)), []
        for label in labels:
            width, height = random.randint(10, 28, 2)
            x, y = random.randint(0, SIDE - width), random.randint(0, SIDE - height)
            picture[y : y + height, x : x + width] = COLOURS[label]
            boxes.append((x, y, x + width, y + height))
        where = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        known = Objects(where, torch.from_numpy(labels), torch.zeros(len(labels), dtype=torch.bool))
        pictures.append(Drawn(known, (SIDE, SIDE)))
    return ImageData(Pictures(array), None, classes, f"drawn {seed}", answers=BoxAnswers.of(pictures))


@pytest.fixture(scope="module")
def data() -> ImageData:
    return drawn(96)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(kind: str) -> Base:
    return Base.open(Given(made(kind)), (1, 3, SIDE, SIDE))


def targets(count: int = 16, seed: int = 0) -> list[Objects]:
    answers = drawn(count, seed)
    return [answers.answer(index).objects for index in range(count)]


def bound(kind: str) -> tuple[Any, Detection]:
    model = made(kind)
    found = taken_apart(model, kind)
    assert found is not None
    return model, Detection(found.detector(SIDE, SIDE))


def raw_outputs(objective: Detection, count: int = 16) -> dict[str, Tensor]:
    known = objective.detector
    anchors = sum(grid.count for grid in known.decoding.anchors)
    random = torch.Generator().manual_seed(5)
    found = {
        "cls_logits": torch.randn(count, anchors, known.classes + known.background, generator=random),
        "bbox_regression": torch.randn(count, anchors, 4, generator=random),
    }
    if known.family == "fcos":
        found["bbox_regression"].relu_()
        found["bbox_ctrness"] = torch.randn(count, anchors, 1, generator=random)
    return found


def test_the_loss_is_the_librarys_own(kind: str) -> None:
    """In training form, with its own transform, on the same pictures."""
    model, objective = bound(kind)
    images, right = torch.rand(6, 3, SIDE, SIDE), targets(6)
    theirs = [{"boxes": each.boxes, "labels": each.labels + objective.detector.background} for each in right]
    for module in model.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)
    wanted = sum(value.detach() for value in model(list(images), theirs).values())
    model.eval()
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (model.transform.image_mean, model.transform.image_std)
    )
    found = taken_apart(model, kind)
    assert found is not None
    with torch.no_grad():
        outputs = found.network((images - mean) / std)
        torch.testing.assert_close(objective.loss(outputs, right), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", CUTS, ids=str)
def test_losses_of_batches_are_one_by_mass(kind: str, sizes: list[int]) -> None:
    _, objective = bound(kind)
    outputs, right = raw_outputs(objective), [each for each in targets(40, 1) if len(each)][:16]
    losses, at = [], 0
    for size in sizes:
        part = slice(at, at + size)
        own = {name: values[part] for name, values in outputs.items()}
        losses.append((float(objective.loss(own, right[part])), objective.mass(right[part])))
        at += size
    mass = objective.mass(right)
    if kind != "fcos" or 1 not in sizes:  # a single object may be too small or too large for all of its levels
        assert sum(each for _, each in losses) == pytest.approx(mass)
    whole = float(objective.loss(outputs, right))
    assert sum(loss * each for loss, each in losses) / mass == pytest.approx(
        whole, rel=2e-2 if kind == "fcos" else 1e-5
    )


def test_pictures_of_nothing_and_what_is_ignored(kind: str) -> None:
    _, objective = bound(kind)
    outputs = {name: values.requires_grad_() for name, values in raw_outputs(objective, 2).items()}
    nothing = [Objects.none(), Objects.none()]
    loss = objective.loss(outputs, nothing)
    loss.backward()
    assert torch.isfinite(loss)
    box = Objects(torch.tensor([[4.0, 4, 30, 30]]), torch.tensor([1]), torch.tensor([True]))
    with torch.no_grad():
        torch.testing.assert_close(objective.loss(outputs, [box, box]), loss.detach())


def test_a_teacher_that_says_the_same_is_at_no_distance(kind: str) -> None:
    _, objective = bound(kind)
    outputs = {name: values.requires_grad_() for name, values in raw_outputs(objective, 2).items()}
    same = {name: values.detach() for name, values in outputs.items()}
    distance = objective.distance(outputs, same, 2.0)
    assert float(distance.detach()) == pytest.approx(0, abs=1e-5)
    other = {name: values + 0.5 * torch.randn(values.shape) for name, values in same.items()}
    assert float(objective.distance(outputs, other, 2.0).detach()) > 0.1
    with pytest.raises(ConfigError, match="teacher's outputs"):
        objective.distance(outputs, {name: values[:, :, :1] for name, values in same.items()}, 2.0)


@pytest.mark.law(2)
def test_what_is_right_is_found(kind: str) -> None:
    """Outputs that say each object at its anchors score nearly all; random ones do not."""
    pytest.importorskip("pycocotools")
    _, objective = bound(kind)
    right = targets(16)
    outputs = {name: values.clone().requires_grad_() for name, values in raw_outputs(objective).items()}
    before = objective.values(objective.sums({n: v.detach() for n, v in outputs.items()}, right), None)
    optimiser = torch.optim.Adam(outputs.values(), 0.5)
    for step in range(80):
        for group in optimiser.param_groups:
            group["lr"] = 0.5 * (1 - step / 80)
        optimiser.zero_grad()
        objective.loss(outputs, right).backward()
        optimiser.step()
    after = objective.values(objective.sums({n: v.detach() for n, v in outputs.items()}, right), None)
    assert before[1] < 0.1
    assert after[1] > 0.85
    assert after[0] <= after[1]


@pytest.mark.parametrize(
    "kind", ["ssd", *(pytest.param(each, marks=pytest.mark.more) for each in ("ssdlite", "retinanet", "fcos"))]
)
def test_one_epoch_of_each(kind: str, data: ImageData, tmp_path: Path) -> None:
    """With other classes, pruning by a criterion that needs the loss, adapters, and a teacher afterwards."""
    pytest.importorskip("pycocotools")
    base = opened(kind)
    options = DataOptions()
    two = drawn(48, 3, ("red", "green"))
    how = options.preprocess(base)
    config = AdaptConfig(
        epochs=1,
        batch_size=8,
        density=0.7,
        criterion="taylor",
        adapter="splora",
        rank=2,
        lr=1e-3,
        augment=(),
        accumulate=2,
        round_to=4,
    )
    task = adapt(base, two, how, config, tmp_path)
    assert task.header.outputs == 2
    assert 0.6 < task.header.figures.channel_density < 0.72
    assert set(task.header.metrics) == {"validation_map", "validation_map50", "validation_images"}
    fitted = task.fit(base)
    assert fitted.detector is not None
    assert fitted.detector.classes == 2
    measured = with_quality(task, base, prepare(two.limit(8), how))
    assert {"test_map", "test_map50"} <= set(measured.header.metrics)
    with pytest.raises(DataError, match="tells 2 classes apart"):
        require_answers(task.program(base), prepare(data, how), objective_for(prepare(data, how), fitted.detector))


@pytest.mark.parametrize(
    ("option", "message"),
    [({"class_weights": "balanced"}, "no classes to weigh"), ({"label_smoothing": 0.1}, "no labels to smooth")],
)
def test_what_has_no_meaning_here_is_refused(
    option: dict[str, Any], message: str, data: ImageData, tmp_path: Path
) -> None:
    base = opened("ssd")
    with pytest.raises(ConfigError, match=message):
        adapt(base, data, DataOptions().preprocess(base), AdaptConfig(epochs=1, batch_size=8, **option), tmp_path)


def test_other_networks_are_refused_in_words(data: ImageData, tmp_path: Path) -> None:
    base = Base.open(Given(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), (1, 3, SIDE, SIDE))
    with pytest.raises(ConfigError, match="not one of torchvision's detectors") as caught:
        adapt(base, data, DataOptions().preprocess(base), AdaptConfig(epochs=1, batch_size=8), tmp_path)
    assert "--objective" in str(caught.value.hint)


NET = """
import sys
sys.path[:0] = {paths!r}
from tiny_detectors import made
ssd = lambda: made("ssd")
"""


@pytest.mark.slow
@pytest.mark.more
def test_the_whole_way(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocotools")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET.format(paths=[str(Path(__file__).parent)]))
    test = drawn(32, 1)
    task = adapt_to_file(
        "net.py:ssd",
        Given(data),
        tmp_path / "shapes.spa",
        AdaptConfig(epochs=4, batch_size=8, lr=4e-3, adapter="full", density=0.8, augment=()),
        evaluation=Given(test),
    )
    assert task.header.metrics["test_map50"] > 0.2
    config = ExportConfig(formats=("onnx",), precisions=("fp32", "int8"), int8_tolerance=1.0)
    manifest = export_bundle(
        str(tmp_path / "shapes.spa"), tmp_path / "bundle", config, evaluation=Given(test), calibration=Given(data)
    )
    assert manifest.learns == "detection"
    assert manifest.decoding is not None
    assert manifest.measure.name == "map"
    exact, small = manifest.variants
    assert exact.accuracy is not None
    assert small.accuracy is not None
    assert exact.accuracy.value == pytest.approx(task.header.metrics["test_map"], abs=1e-6)
    assert exact.accuracy.others["map50"] == pytest.approx(task.header.metrics["test_map50"], abs=1e-6)
    assert small.accuracy.value > 0.6 * exact.accuracy.value
    assert "mAP@50:95" in (tmp_path / "bundle" / "README.md").read_text()


def test_pruned_without_training(data: ImageData, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    (tmp_path / "net.py").write_text(NET.format(paths=[str(Path(__file__).parent)]))
    task = prune_to_file(
        f"{tmp_path / 'net.py'}:ssd",
        tmp_path / "small.spa",
        PruneConfig(density=0.7),
        calibration=Given(data),
        evaluation=Given(drawn(16, 2)),
    )
    assert {"base_test_map", "test_map"} <= set(task.header.metrics)
    base = Base.open(f"{tmp_path / 'net.py'}:ssd", None)
    test = prepare(drawn(16, 2), DataOptions().preprocess(base))
    found = evaluate(base.program, test, objective_for(test, base.detector))
    assert found.value == pytest.approx(task.header.metrics["base_test_map"])
