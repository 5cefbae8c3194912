"""Networks of all kinds of tasks, as their authors write them: masked = compacted, and how much of them can go."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgespa.graph.cost import CostModel
from edgespa.graph.groups import find_groups
from edgespa.graph.proof import prove
from edgespa.graph.surgery import compact
from edgespa.graph.trace import trace


class FaceBlock(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(before), nn.Conv2d(before, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
            nn.PReLU(width), nn.Conv2d(width, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.short: nn.Module = nn.MaxPool2d(1, 2)
        if before != width:
            self.short = nn.Sequential(nn.Conv2d(before, width, 1, 2, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.short(x)


class Face(nn.Module):
    """ArcFace's: PReLU per channel, a flattened map, batch norm on vectors, unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12), nn.PReLU(12))
        self.blocks = nn.Sequential(FaceBlock(12, 12), FaceBlock(12, 20))
        self.fc, self.features = nn.Linear(20 * 16, 24), nn.BatchNorm1d(24)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.features(self.fc(self.blocks(self.stem(x)).flatten(1))))


class MobileFace(nn.Module):
    """A global depthwise convolution and one PReLU slope for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.PReLU())
        self.wide = nn.Sequential(nn.Conv2d(12, 20, 1, bias=False), nn.BatchNorm2d(20), nn.PReLU(20))
        self.whole = nn.Sequential(nn.Conv2d(20, 20, 8, groups=20, bias=False), nn.BatchNorm2d(20))
        self.last, self.norm = nn.Linear(20, 16, bias=False), nn.BatchNorm1d(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.last(self.whole(self.wide(self.stem(x))).flatten(1)))


class Reader(nn.Module):
    """A text reader for CTC: convolutions, a recurrent layer over columns, [T, N, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 12, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3, 1, 1), nn.ReLU(),
        )  # fmt: skip
        self.map = nn.Linear(16 * 4, 16)
        self.rnn, self.last = nn.LSTM(16, 12, bidirectional=True), nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cnn(x)
        n, c, h, w = y.shape
        y, _ = self.rnn(self.map(y.view(n, c * h, w).permute(2, 0, 1)))
        return F.log_softmax(self.last(y), 2)


class Pose(nn.Module):
    """Heat maps by transposed convolutions, and points as their means."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 20, 3, 2, 1))
        self.up = nn.Sequential(nn.ConvTranspose2d(20, 12, 4, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.last = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.last(self.up(torch.relu(self.down(x))))
        share = maps.flatten(2).softmax(-1).view_as(maps)
        rows, columns = (torch.linspace(0, 1, size) for size in maps.shape[2:])
        points = torch.stack([(share.sum(2) * columns).sum(-1), (share.sum(3) * rows).sum(-1)], -1)
        return {"maps": maps, "points": points}


class Hourglass(nn.Module):
    """Skips around a pyramid, a first answer that is fed back, two answers."""

    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.Conv2d(3, 12, 3, 1, 1)
        self.down = nn.ModuleList(nn.Conv2d(12, 12, 3, 1, 1) for _ in range(2))
        self.up = nn.ModuleList(nn.Conv2d(12, 12, 3, 1, 1) for _ in range(2))
        self.first, self.back, self.second = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        start = x = torch.relu(self.pre(x))
        skips = []
        for down in self.down:
            skips.append(x)
            x = torch.relu(down(F.max_pool2d(x, 2)))
        for up in self.up:
            x = F.interpolate(torch.relu(up(x)), scale_factor=2.0) + skips.pop()
        first = self.first(x)
        return first, self.second(start + x + self.back(first))


class Spotter(nn.Module):
    """Key words in a stream: the last frames and a cell's state in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.wide = nn.Conv1d(10, 16, 3), nn.Linear(16, 12)
        self.cell, self.last = nn.GRUCell(12, 14), nn.Linear(14, 4)

    def forward(self, frame: Tensor, buffer: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.cat([buffer, frame], 2)
        state = self.cell(torch.relu(self.wide(torch.relu(self.conv(x)).mean(2))), state)
        return self.last(state), x[:, :, -2:], state


class Steps(nn.Module):
    """A cell in a loop of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.cell, self.last = nn.Linear(6, 12), nn.LSTMCell(12, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], 16)
        for step in range(4):
            h, c = self.cell(torch.relu(self.front(x[:, step])), (h, c))
        return self.last(h)


class Depth(nn.Module):
    """A decoder with skips, ELU, and the inverse of a sigmoid's."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(12, 20, 3, 2, 1)
        self.up, self.last = nn.Conv2d(20, 12, 3, 1, 1), nn.Conv2d(24, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = F.elu(self.one(x))
        up = F.interpolate(F.elu(self.up(F.elu(self.two(one)))), scale_factor=2.0, mode="nearest")
        return 1 / (0.1 + 10 * torch.sigmoid(self.last(torch.cat([up, one], 1))))


class Twice(nn.Module):
    """Super-resolution: one PReLU used twice, pixel shuffle, beside a bicubic image."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = (
            nn.Conv2d(3, 16, 3, 1, 1),
            nn.Conv2d(16, 16, 3, 1, 1),
            nn.Conv2d(16, 12, 3, 1, 1),
        )
        self.bend = nn.PReLU(16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bend(self.one(x))
        y = self.last(y + self.bend(self.two(y)))
        return F.pixel_shuffle(y, 2) + F.interpolate(x, scale_factor=2.0, mode="bicubic")


class Alike(nn.Module):
    """Two images through the same layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 20, 3, 2, 1), nn.ReLU())

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return F.cosine_similarity(self.body(one).mean((2, 3)), self.body(other).mean((2, 3)))


IMAGE = (1, 3, 16, 16)
CASES: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]], int]] = {
    # network, its inputs, units that can go
    "face": (Face, [IMAGE], 12 + 12 + 20 + 20),
    "mobile face": (MobileFace, [IMAGE], 12 + 20),
    "pose": (Pose, [IMAGE], 12 + 20 + 12),
    "hourglass": (Hourglass, [IMAGE], 12),
    "spotter": (Spotter, [(1, 10, 4), (1, 10, 2), (1, 14)], 16 + 12),
    "steps": (Steps, [(1, 4, 6)], 12 + 16),
    "depth": (Depth, [IMAGE], 12 + 20 + 12),
    "twice": (Twice, [(1, 3, 8, 8)], 16),
    "alike": (Alike, [IMAGE, (1, 3, 24, 24)], 16),
    "reader": (Reader, [(1, 1, 8, 16)], 12 + 16 + 16 + 12),
}


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[pytest.mark.more] if each == "reader" else []) for each in CASES]
)
def test_masked_is_compacted(name: str) -> None:
    make, sizes, units = CASES[name]
    torch.manual_seed(0)
    network = make().eval()
    for tensor in network.buffers():
        if tensor.is_floating_point():  # statistics that are not the identity
            nn.init.uniform_(tensor, 0.5, 1.5)
    program = trace(network, [torch.randn(size) for size in sizes])
    assert program.dynamic_batch
    groups = find_groups(program)
    random = np.random.default_rng(0)
    kept = {}
    for group in groups.groups.values():
        mask = random.random(len(group)) < 0.6
        mask[0] = True
        kept[group.name] = mask
    assert sum(map(len, groups.groups.values())) >= units
    small = compact(program, groups, kept)
    prove(program, groups, kept, small, program.example_inputs()).require()
    cost = CostModel(program, groups)
    assert cost.cost(kept).macs < 0.9 * cost.cost().macs
