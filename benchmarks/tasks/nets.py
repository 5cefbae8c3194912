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


def ssdlite_trained() -> nn.Module:
    """`ssdlite` as it has learned the blood cells, from the task file that run.py has made."""
    from edgespa.tasks.base import Base
    from edgespa.tasks.task import Task

    base = Base.open(f"{HERE / 'nets.py'}:ssdlite", None)
    learned = Task.load(HERE / "out" / "detection" / "full-1.spa").program(base).state()
    model = ssdlite()
    missing, unknown = model.load_state_dict(learned, strict=False)
    assert not unknown
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return model


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


KINDS = ("sine", "square", "saw", "rising", "falling", "bursts")


def make_signals(path: Path) -> None:
    """Signals of two channels and 128 steps, of six kinds, in noise: 1,800 to learn from, 300 and 600 others.

    Amplitude, frequency, phase and delay between the channels are random; both channels have noise of their own.
    """
    import numpy as np

    if path.exists():
        return
    random, made = np.random.default_rng(0), {}
    for split, count in (("train", 1800), ("val", 300), ("test", 600)):
        labels = np.arange(count) % len(KINDS)
        steps = np.arange(128) / 128
        start, pace = random.uniform(0, 1, (count, 1)), random.uniform(3, 8, (count, 1))
        channels = []
        for delay in (0.0, random.uniform(0, 0.3, (count, 1))):
            at = np.clip(steps + delay, 0, 1.3)
            bent = np.select([labels[:, None] == 3, labels[:, None] == 4], [at * (0.4 + at), at * (1.6 - at)], at)
            turn = (start + pace * bent) % 1
            wave = np.sin(2 * np.pi * turn)
            kinds = [wave, np.sign(wave), 2 * turn - 1, wave, wave, wave * (np.sin(2 * np.pi * 2 * at + start) > 0)]
            chosen = np.stack(kinds)[labels, np.arange(count)]
            channels.append(random.uniform(0.5, 1.5, (count, 1)) * chosen + random.normal(0, 0.7, (count, 128)))
        made |= {f"signal_{split}": np.stack(channels, 1).astype(np.float32), f"labels_{split}": labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, classes=np.array(KINDS), **made)


class Convolutions(nn.Module):
    """A network of one dimension: four strided convolutions with norms, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = (2, 32, 64, 96, 128)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv1d(a, b, 5, 2, 2, bias=False), nn.BatchNorm1d(b), nn.ReLU())
                for a, b in itertools.pairwise(widths)
            )
        )
        self.head = nn.Linear(widths[-1], len(KINDS))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layers(x).mean(2))
        return scores


class Recurrent(nn.Module):
    """A convolution that takes four steps together, two layers of GRU over what it gives, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.steps = nn.Sequential(nn.Conv1d(2, 64, 8, 4, 2), nn.ReLU())
        self.memory = nn.GRU(64, 64, num_layers=2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, len(KINDS)))

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.memory(self.steps(x).transpose(1, 2))
        scores: Tensor = self.head(states[:, -1])
        return scores
