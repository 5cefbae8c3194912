"""Detectors of torchvision on a backbone of three convolutions, and what they need where its operators are missing."""

from __future__ import annotations

import sys
from collections import OrderedDict
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

SIDE = 64
KINDS = ("ssd", "ssdlite", "retinanet", "fcos")


def torchvision_or_skip() -> None:
    networks = sys.modules["edgespa_zoo_networks"]
    if not networks.names("torchvision"):
        pytest.skip("ZOO ABSENT: torchvision and timm are not installed; make zoo")
    networks.import_torchvision()


class Maps(nn.Module):
    """Three maps of features, of 8 x 8, 4 x 4 and 2 x 2 places."""

    def __init__(self, channels: int, one: bool = False) -> None:
        super().__init__()
        self.out_channels = channels if one else [channels] * 3
        self.stem = nn.Conv2d(3, 8, 3, 4, 1)
        self.down = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in ((8, channels), (channels, channels), (channels, channels))
            ]
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found, value = OrderedDict(), self.stem(images).relu()
        for index, layer in enumerate(self.down):
            value = layer(value)
            found[str(index)] = value
        return found


def made(kind: str, classes: int = 3, **options: Any) -> Any:
    """A detector of some kind, seeded, in evaluation form."""
    from torchvision.models.detection import anchor_utils, fcos, retinanet, ssd, ssdlite

    torch.manual_seed(0)
    if kind.startswith("ssd"):
        boxes = anchor_utils.DefaultBoxGenerator([[2], [2, 3], [2]], min_ratio=0.2, max_ratio=0.9)
        backbone = Maps(16)
        head = None
        if kind == "ssdlite":
            count = boxes.num_anchors_per_location()
            head = ssdlite.SSDLiteHead([16] * 3, count, classes + 1, partial(nn.BatchNorm2d, eps=0.001))
        return ssd.SSD(backbone, boxes, (SIDE, SIDE), classes + 1, head=head, **options).eval()
    options = {"min_size": SIDE, "max_size": SIDE, **options}
    sides = ((8,), (16,), (32,))
    if kind == "retinanet":
        boxes = anchor_utils.AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * 3)
        head = retinanet.RetinaNetHead(32, 3, classes, norm_layer=partial(nn.GroupNorm, 8))  # else it learns nothing
        return retinanet.RetinaNet(Maps(32, one=True), classes, anchor_generator=boxes, head=head, **options).eval()
    boxes = anchor_utils.AnchorGenerator(sides, ((1.0,),) * 3)
    return fcos.FCOS(Maps(32, one=True), classes, anchor_generator=boxes, **options).eval()


def plain_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """As torchvision's compiled one, which builds for another torch do not have."""
    from torchvision.ops import box_iou

    overlaps, kept = box_iou(boxes, boxes), []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if not (overlaps[index, kept] > threshold).any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)
