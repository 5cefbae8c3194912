"""Detectors of transformers: opened, learned by their own loss, with boxes as their own post-processing gives them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgespa.data.boxes import Objects
from edgespa.errors import ConfigError
from edgespa.objectives.detection import Detection
from edgespa.pixels.boxes import decode_boxes
from edgespa.tasks.base import Base

transformers: Any = pytest.importorskip("transformers", reason="TRANSFORMERS ABSENT: its detectors were not tried")
pytest.importorskip("scipy", reason="SCIPY ABSENT: the matcher of transformers needs it")
SIZE = (48, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=list(SIZE),
        patch_size=16, num_detection_tokens=12, num_labels=3,
    )  # fmt: skip
    where = tmp_path_factory.mktemp("yolos")
    transformers.YolosForObjectDetection(config).save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return Base.open(f"hf:{folder}", (1, 3, *SIZE))


def targets() -> list[Objects]:
    boxes = torch.tensor([[8.0, 8, 40, 40], [20, 4, 60, 30]])
    return [Objects(boxes, torch.tensor([0, 2]), torch.zeros(2, dtype=torch.bool)), Objects.none()]


def test_it_is_known_what_its_outputs_are(base: Base) -> None:
    assert base.outputs() == 3
    assert base.detector is not None
    assert all(name.endswith(("layers.2.weight", "layers.2.bias")) for name in base.head())
    assert len(base.head()) == 4
    assert len(base.groups.groups) > 2


def test_the_loss_is_the_librarys_own(folder: Path, base: Base) -> None:
    model = transformers.YolosForObjectDetection.from_pretrained(folder).eval()
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    labels = []
    for each in targets():
        corners = each.boxes / torch.tensor([64.0, 48, 64, 48])
        places = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
        labels.append({"class_labels": each.labels, "boxes": places})
    objective = Detection(base.detector)
    with torch.no_grad():
        wanted = model(pixel_values=images, labels=labels).loss
        found = objective.loss(objective.take(base.program(images)), targets())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert objective.mass(targets()) == 2


def test_boxes_are_those_of_the_library(base: Base) -> None:
    random = torch.Generator().manual_seed(1)
    logits, boxes = torch.randn(2, 12, 4, generator=random), torch.rand(2, 12, 4, generator=random)
    objective = Detection(base.detector)
    module = pytest.importorskip("transformers.models.yolos.image_processing_pil_yolos", reason="needs transformers 5")
    processor = module.YolosImageProcessorPil()
    outputs = SimpleNamespace(logits=logits, pred_boxes=boxes)
    wanted = processor.post_process_object_detection(outputs, threshold=0.3, target_sizes=torch.tensor([SIZE, SIZE]))
    how = objective.decoding.model_copy(update={"threshold": 0.3}).model_dump()
    for ours, theirs in zip(decode_boxes([logits.numpy(), boxes.numpy()], how), wanted, strict=True):
        order = theirs["scores"].argsort(descending=True)
        assert len(ours) == len(order) > 3
        torch.testing.assert_close(torch.tensor([each["box"] for each in ours]), theirs["boxes"][order])
        assert [each["index"] for each in ours] == theirs["labels"][order].tolist()


def test_other_classes_and_a_teacher(base: Base) -> None:
    wider = base.with_outputs(5)
    assert wider.outputs() == 5
    assert wider.groups.groups.keys() == base.groups.groups.keys()
    objective = Detection(wider.detector)
    outputs = wider.program(*wider.program.example_inputs())
    assert outputs["logits"].shape[2] == 6
    assert float(objective.distance(outputs, outputs, 2.0).detach()) == pytest.approx(0, abs=1e-5)
    assert torch.isfinite(objective.loss(outputs, targets()))
    # All but the fresh layer is as it was.
    before, after = base.program.state(), wider.program.state()
    changed = [name for name in before if before[name].shape != after[name].shape]
    assert [name.rpartition(".")[2] for name in changed] == ["weight", "bias"]
    assert all(torch.equal(before[name], after[name]) for name in before if name not in changed)


def test_losses_that_are_of_more_than_the_answers(base: Base) -> None:
    import dataclasses

    assert base.detector is not None
    other = Detection(dataclasses.replace(base.detector, family="queries"))
    outputs = base.program(*base.program.example_inputs())
    with pytest.raises(ConfigError, match="is of more than what it answers"):
        other.loss(outputs, targets())
