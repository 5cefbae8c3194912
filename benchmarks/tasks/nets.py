"""Networks of the benchmark: heads of other tasks on the ImageNet MobileNetV2 of the test data."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

DATA = Path(os.environ.get("EDGESPA_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
CAMVID_CLASSES = 11


def _models() -> ModuleType:
    spec = importlib.util.spec_from_file_location("models_of_the_data", DATA / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Lraspp(nn.Module):
    """LR-ASPP (Howard et al. 2019, arXiv 1905.02244, section 6.4) on features of stride 8 and 32.

    Args:
        backbone: MobileNetV2: a stem, blocks, and which of them are residual.
        classes: Number of maps.
        width: Channels of the head.
    """

    LOW = 5
    """The last block of stride 8, with 32 channels."""

    def __init__(self, backbone: nn.Module, classes: int, width: int = 128) -> None:
        super().__init__()
        self.stem, self.blocks, self.residual = backbone.stem, backbone.blocks, backbone.residual
        self.high = nn.Sequential(nn.Conv2d(320, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.gate = nn.Conv2d(320, width, 1, bias=False)
        self.from_low, self.from_high = nn.Conv2d(32, classes, 1), nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        x = self.stem(x)
        low = x
        for number, (block, residual) in enumerate(zip(self.blocks, self.residual, strict=True)):
            x = x + block(x) if residual else block(x)
            if number == self.LOW:
                low = x
        high = self.high(x) * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        high = nn.functional.interpolate(high, size=low.shape[2:], mode="bilinear", align_corners=False)
        scores = self.from_low(low) + self.from_high(high)
        return nn.functional.interpolate(scores, size=size, mode="bilinear", align_corners=False)


def lraspp() -> nn.Module:
    """For CamVid; the head is random."""
    torch.manual_seed(0)
    return Lraspp(_models().mobilenet_v2(), CAMVID_CLASSES).eval()
