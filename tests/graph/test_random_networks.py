"""The first law on networks drawn from a grammar of layers and layout operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgespa.graph.cost import CostModel
from edgespa.graph.groups import find_groups
from edgespa.graph.proof import prove
from edgespa.graph.surgery import compact
from edgespa.graph.trace import trace

WIDTH = 12  # divisible by 2, 3, 4 and 6
STEPS = [
    "conv", "grouped2", "grouped6", "depthwise", "norm", "relu", "sigmoid", "residual", "cat", "gate", "shuffle",
    "roll", "flip", "scale", "group_norm", "squeeze", "pad", "stride", "permute", "pool", "max",
]  # fmt: skip


class Drawn(nn.Module):
    """Each step maps ``[N, 12, 4, 4]`` to the same shape."""

    def __init__(self, steps: list[str], head: str) -> None:
        super().__init__()
        self.steps, self.head = steps, head
        self.stem = nn.Conv2d(3, WIDTH, 1)
        parts: dict[str, Any] = {
            "conv": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            "residual": lambda: nn.Conv2d(WIDTH, WIDTH, 1),
            "grouped2": lambda: nn.Conv2d(WIDTH, WIDTH, 1, groups=2),
            "grouped6": lambda: nn.Conv2d(WIDTH, WIDTH, 1, groups=6),
            "depthwise": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH),
            "norm": lambda: nn.BatchNorm2d(WIDTH),
            "group_norm": lambda: nn.GroupNorm(4, WIDTH),
            "cat": lambda: nn.Conv2d(WIDTH, 4, 1),
            "gate": lambda: nn.Conv2d(WIDTH, 2 * WIDTH, 1),
            "squeeze": lambda: nn.Linear(WIDTH, WIDTH),
            "stride": lambda: nn.Conv2d(WIDTH // 2, WIDTH, 1),
            "max": lambda: nn.Conv2d(WIDTH // 2, WIDTH, 1),
        }
        self.parts = nn.ModuleList(parts[step]() if step in parts else nn.Identity() for step in steps)
        self.vectors = nn.ParameterList(nn.Parameter(torch.randn(WIDTH)) for _ in steps)
        self.norm = nn.LayerNorm(WIDTH)
        self.fc = nn.Linear(WIDTH * 16 if head == "flatten" else 16 if head == "sum" else WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for step, part, vector in zip(self.steps, self.parts, self.vectors, strict=True):
            x = self.step(step, part, vector, x)
        if self.head == "flatten":
            return self.fc(x.flatten(1))
        if self.head == "sum":
            return self.fc(x.sum(1).flatten(1))
        x = x.flatten(2).transpose(1, 2)
        return self.fc((self.norm(x) if self.head == "layer_norm" else x).mean(1))

    def step(self, step: str, part: nn.Module, vector: Tensor, x: Tensor) -> Tensor:
        match step:
            case "relu":
                return F.relu(x)
            case "sigmoid":
                return torch.sigmoid(x)
            case "residual":
                return x + part(F.relu(x))
            case "cat":
                return torch.cat([part(x), x[:, 2:10]], 1)
            case "gate":
                one, other = part(x).chunk(2, 1)
                return one * torch.sigmoid(other)
            case "shuffle":
                return x.view(-1, 3, 4, 4, 4).transpose(1, 2).reshape(-1, WIDTH, 4, 4)
            case "roll":
                return x.roll(5, 1)
            case "flip":
                return x.flip(1)
            case "scale":
                return x * vector[:, None, None] + vector.flip(0)[:, None, None]
            case "squeeze":
                return x * torch.sigmoid(part(x.mean((2, 3))))[:, :, None, None]
            case "pad":
                return F.pad(x[:, 3:], (0, 0, 0, 0, 1, 2))
            case "stride":
                return part(x[:, 1::2])
            case "max":
                return part(torch.maximum(*x.chunk(2, 1)))
            case "permute":
                return x[:, [3, 1, 2, 0, 5, 4, 11, 10, 9, 8, 7, 6]]
            case "pool":
                return F.avg_pool2d(x, 3, 1, 1)
            case _:
                return part(x)


@pytest.mark.parametrize("count", [16, pytest.param(64, marks=pytest.mark.more)])
def test_masked_equals_compacted(randomised: Any, select: Any, count: int) -> None:
    @settings(max_examples=count, deadline=None, derandomize=True)
    @given(
        steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=6),
        head=st.sampled_from(["flatten", "pool", "layer_norm", "sum"]),
        seed=st.integers(0, 99),
    )
    def holds(steps: list[str], head: str, seed: int) -> None:
        require_masked_is_compacted(randomised, select, steps, head, seed)

    holds()


def require_masked_is_compacted(randomised: Any, select: Any, steps: list[str], head: str, seed: int) -> None:
    model = randomised(Drawn(steps, head), seed).eval()
    inputs = (torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(seed)),)
    program = trace(model, inputs)
    groups = find_groups(program)
    kept = select(groups, seed)
    small = compact(program, groups, kept)
    prove(program, groups, kept, small, inputs).require()
    with torch.no_grad():
        torch.testing.assert_close(program(*inputs), model(*inputs))
    predicted, actual = CostModel(program, groups).cost(kept), CostModel(small, find_groups(small)).cost()
    assert (predicted.macs, predicted.parameters) == (actual.macs, actual.parameters)
    # a layer of its own, not read by a norm over channels or a bare sum, can always shrink
    if head == "flatten" and steps[-1] in {"conv", "gate", "stride", "max"}:
        assert groups.groups
