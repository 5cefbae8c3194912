"""Networks of torchvision with random weights: how long they take does not depend on those."""

from __future__ import annotations

import torch
from torch import nn


def _made(part: str, name: str, **options: None) -> nn.Module:
    for each in ("nms", "qnms"):  # torchvision's CUDA build beside a CPU torch
        if not hasattr(torch.ops.torchvision, each):
            torch.library.define(f"torchvision::{each}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    torch.manual_seed(0)
    made: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return made.eval()


def resnet18() -> nn.Module:
    """224 x 224."""
    return _made("", "resnet18")


class _Areas(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.network(x)["out"]
        return found


def lraspp() -> nn.Module:
    """Segmentation, MobileNetV3, 256 x 256."""
    return _Areas(_made("segmentation", "lraspp_mobilenet_v3_large", weights_backbone=None))
