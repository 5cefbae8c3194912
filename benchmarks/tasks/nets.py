"""Networks of the benchmark: heads of other tasks on the ImageNet MobileNetV2 of the test data."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("EDGESPA_DATA", HERE.parents[2] / "shared" / "data"))
CAMVID_CLASSES, BLOOD_CLASSES = 11, 3


def _models() -> ModuleType:
    return _loaded(DATA / "models.py", "models_of_the_data")


def _loaded(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
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


class Features(nn.Module):
    """MobileNetV2's features of strides 16 and 32, and four smaller ones, as SSDLite takes them.

    Sandler et al. 2018, arXiv 1801.04381, section 6.2: the first head is on the expansion of the first block
    of stride 32, the second on the last features; the smaller ones are made by separable convolutions.

    Args:
        backbone: As for `Lraspp`; its last convolution is left out.
    """

    EXPANDED = 13
    """The first block of stride 32: what its first convolution gives has 576 channels."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.residual = backbone.stem, backbone.blocks, backbone.residual
        widths = (320, 512, 256, 256, 128)
        self.extra = nn.ModuleList(_smaller(*pair) for pair in itertools.pairwise(widths))
        self.out_channels = [576, *widths]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        found = []
        for number, (block, residual) in enumerate(zip(self.blocks, self.residual, strict=True)):
            if number == self.EXPANDED:
                found.append(block[0](x))
            x = x + block(x) if residual else block(x)
        found.append(x)
        for each in self.extra:
            found.append(each(found[-1]))
        return {str(index): each for index, each in enumerate(found)}


def _smaller(wide: int, narrow: int) -> nn.Module:
    half = narrow // 2
    return nn.Sequential(
        *_normed(nn.Conv2d(wide, half, 1, bias=False)),
        *_normed(nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)),
        *_normed(nn.Conv2d(half, narrow, 1, bias=False)),
    )


def _normed(layer: nn.Conv2d) -> tuple[nn.Module, ...]:
    return layer, nn.BatchNorm2d(layer.out_channels, eps=1e-3, momentum=0.03), nn.ReLU6()


def ssdlite() -> nn.Module:
    """For the blood cells, at 320 x 320; torchvision's own head, random."""
    _loaded(HERE.parent / "zoo" / "networks.py", "networks_of_the_zoo").import_torchvision()
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD
    from torchvision.models.detection.ssdlite import SSDLiteHead

    torch.manual_seed(0)
    features = Features(_models().mobilenet_v2())
    anchors = DefaultBoxGenerator([[2, 3] for _ in features.out_channels], min_ratio=0.2, max_ratio=0.95)
    norm = functools.partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
    head = SSDLiteHead(features.out_channels, anchors.num_anchors_per_location(), 1 + BLOOD_CLASSES, norm)
    mean = std = [0.5] * 3
    return SSD(features, anchors, (320, 320), 1 + BLOOD_CLASSES, head=head, image_mean=mean, image_std=std).eval()


class _Raw(nn.Module):
    """What the library traces: its tracer takes one tensor in."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.head(list(self.backbone(x).values()))
        return found


def cut_by_the_peer(make: Callable[[], nn.Module], share: float, side: tuple[int, int]) -> nn.Module:
    """A network that torch-pruning has cut to a share of its MACs by magnitude, the same ratio in every group.

    Args:
        make: Gives the whole network.
        share: Of the MACs, within 1%.
        side: Height and width of its images.
    """
    import torch_pruning as peer

    low, high = 0.0, 0.95
    while True:
        ratio, model = (low + high) / 2, make()
        raw = _Raw(model) if hasattr(model, "head") and hasattr(model, "backbone") else model
        example = torch.zeros(1, 3, *side)
        whole, _ = peer.utils.count_ops_and_params(raw, example)
        last = [layer for name, layer in raw.named_modules() if name.startswith(("head.", "from_"))]
        kept = [layer for layer in last if isinstance(layer, nn.Conv2d) and layer.groups == 1]
        importance = peer.importance.GroupMagnitudeImportance()
        pruner = peer.pruner.MetaPruner(raw, example, importance, pruning_ratio=ratio, ignored_layers=kept)
        pruner.step()
        left, _ = peer.utils.count_ops_and_params(raw, example)
        if abs(left / whole - share) < 0.01 or high - low < 1e-3:
            return model.eval()
        low, high = (ratio, high) if left / whole > share else (low, ratio)


def ssdlite_half_by_the_peer() -> nn.Module:
    """See `cut_by_the_peer`."""
    return cut_by_the_peer(ssdlite, 0.5, (320, 320))


def ssdlite_quarter_by_the_peer() -> nn.Module:
    """See `cut_by_the_peer`."""
    return cut_by_the_peer(ssdlite, 0.25, (320, 320))


def lraspp_half_by_the_peer() -> nn.Module:
    """See `cut_by_the_peer`."""
    return cut_by_the_peer(lraspp, 0.5, (96, 128))


def lraspp_quarter_by_the_peer() -> nn.Module:
    """See `cut_by_the_peer`."""
    return cut_by_the_peer(lraspp, 0.25, (96, 128))
