"""torchvision's detectors: their own decoding is the one here, and their networks are taken apart whole."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_detectors import KINDS, SIDE, made, plain_nms, torchvision_or_skip
from torch import Tensor

from edgespa.errors import ModelError
from edgespa.models.detectors import taken_apart
from edgespa.pixels.boxes import decode_boxes


@pytest.fixture(autouse=True)
def zoo() -> None:
    torchvision_or_skip()


def rows(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """A row for each, in an order that does not depend on which of two equal scores is first."""
    found = torch.cat([labels[:, None].float(), boxes, scores[:, None]], 1)
    order = sorted(range(len(found)), key=lambda index: [round(value, 2) for value in found[index].tolist()])
    return found[order]


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_those_of_the_library(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.ops.boxes.nms", plain_nms)
    model = made(kind)
    found = taken_apart(model, kind)
    assert found is not None
    size = (found.recorded.size or (3, SIDE, SIDE))[1:]
    known = found.detector(*size)
    grids = known.decoding.anchors
    anchors = sum(grid.count for grid in grids)
    random = torch.Generator().manual_seed(1)
    raw = {
        "cls_logits": 2 * torch.randn(2, anchors, known.classes + known.background, generator=random) - 3,
        "bbox_regression": torch.randn(2, anchors, 4, generator=random),
    }
    if kind == "fcos":
        raw["bbox_regression"].relu_()
        raw["bbox_ctrness"] = torch.randn(2, anchors, 1, generator=random)
    features = [torch.zeros(1, 1, grid.rows, grid.columns) for grid in grids]
    images = SimpleNamespace(tensors=torch.zeros(2, 3, *size), image_sizes=[size, size])
    own = model.anchor_generator(images, features)
    if known.family == "ssd":
        wanted = model.postprocess_detections(raw, own, [size, size])
    else:
        counts = [grid.count for grid in grids]
        split = {name: list(values.split(counts, 1)) for name, values in raw.items()}
        wanted = model.postprocess_detections(split, [list(each.split(counts)) for each in own], [size, size])
    here = decode_boxes([values.numpy() for values in raw.values()], known.decoding.model_dump())
    for ours, theirs in zip(here, wanted, strict=True):
        assert len(ours) > 30
        boxes, scores = (torch.tensor([each[name] for each in ours]) for name in ("box", "score"))
        labels = torch.tensor([each["index"] + known.background for each in ours])
        wanted_rows = rows(theirs["boxes"], theirs["scores"], theirs["labels"])
        torch.testing.assert_close(rows(boxes, scores, labels), wanted_rows, rtol=0, atol=1e-4)
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_the_network_computes_what_the_library_computes_and_keeps_its_names() -> None:
    model = made("ssdlite")
    found = taken_apart(model, "it")
    assert found is not None
    assert found.recorded.size == (3, SIDE, SIDE)
    images = torch.rand(2, 3, SIDE, SIDE)
    seen: dict[str, Tensor] = {}
    model.head.register_forward_hook(lambda _module, _inputs, outputs: seen.update(outputs))
    monkeypatched = model.postprocess_detections
    model.postprocess_detections = lambda *_: []
    with torch.no_grad():
        model(list(images))
        mean, std = (torch.tensor(values)[:, None, None] for values in (found.recorded.mean, found.recorded.std))
        outputs = found.network((images - mean) / std)
    model.postprocess_detections = monkeypatched
    assert list(outputs) == ["cls_logits", "bbox_regression"]
    for name, values in outputs.items():
        torch.testing.assert_close(values, seen[name], rtol=0, atol=1e-5)
    assert set(found.network.state_dict()) <= set(model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_other_classes(kind: str) -> None:
    model = made(kind)
    found = taken_apart(model, kind)
    assert found is not None
    size = (found.recorded.size or (3, SIDE, SIDE))[1:]
    wider = found.with_classes(7)
    known = wider.detector(*size)
    assert known.classes == 7
    with torch.no_grad():
        outputs = wider.network(torch.zeros(1, 3, *size))
    assert outputs["cls_logits"].shape[2] == 7 + known.background
    assert outputs["bbox_regression"].shape == found.network(torch.zeros(1, 3, *size))["bbox_regression"].shape
    assert all(name.startswith("head.") for name in known.head)
    assert len(known.head) == (6 if kind == "fcos" else 4 if kind == "retinanet" else 12)


def test_anchors_and_stages_that_cannot_be_described() -> None:
    from torchvision.models import detection

    model = made("ssdlite")
    generator = model.anchor_generator
    usual = generator.forward
    generator.forward = lambda *inputs: [each + 5.0 for each in usual(*inputs)]
    found = taken_apart(model, "it")
    assert found is not None
    with pytest.raises(ModelError, match="anchors that lie otherwise"):
        found.detector(SIDE, SIDE)
    two = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    with pytest.raises(ModelError, match="two stages") as caught:
        taken_apart(two, "it")
    assert "SSDLite" in str(caught.value.hint)
    assert taken_apart(torch.nn.Linear(2, 2), "it") is None


def test_a_forward_of_the_users_own_is_left_to_the_user() -> None:
    from torchvision.models.detection.ssd import SSD

    model = made("ssdlite")
    model.__class__ = type("Own", (SSD,), {"forward": lambda self, images: self.backbone(images)})
    assert taken_apart(model, "it") is None
