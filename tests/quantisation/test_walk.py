"""A program gone through beside itself in int8."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgespa.graph.trace import trace
from edgespa.quantisation.rounding import scales
from edgespa.quantisation.walk import LEAST_SAMPLES, corrected, in_levels, layers_of, samples_for


class Net(nn.Module):
    """Layers of all kinds, one of them used twice, one transposed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, 2, "valid")
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.twice = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = nn.functional.silu(self.depthwise(x))
        x = self.twice(torch.relu(self.twice(x)))
        return self.head(self.up(x).mean((2, 3)))


def test_each_layer_gets_weights_on_the_grid_and_a_shift() -> None:
    program = trace(Net().eval(), (torch.randn(2, 3, 12, 12),))
    wanted = {"first.weight", "depthwise.weight", "head.weight"}  # not what is used twice, nor what is transposed
    assert set(layers_of(program)) == wanted
    told: list[tuple[int, int]] = []
    samples = [(torch.randn(8, 3, 12, 12),), (torch.randn(8, 3, 12, 12),)]
    found = corrected(program, samples, "minmax", told=lambda *at: told.append(at))
    assert set(found) == wanted
    assert told == [(1, 3), (2, 3), (3, 3)]
    for name, own in found.items():
        assert own.weight.shape == own.before.shape
        rows = own.weight.flatten(1)
        levels = rows / scales(own.before.flatten(1))
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
        assert own.shift.shape == (own.before.shape[0],), name
    again = corrected(program, samples, "minmax")
    assert all(torch.equal(found[name].weight, again[name].weight) for name in found)  # the same command, the same file


def test_what_holds_no_numbers_is_left() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x) / 0.0)

    program = trace(Masked().eval(), (torch.randn(2, 4),))
    assert set(corrected(program, [(torch.randn(8, 4),)], "minmax")) == {"first.weight"}


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 3.0), (-2.0, 0.0), (1.0, 2.0)])
def test_levels_hold_zero_exactly_and_clip(low: float, high: float) -> None:
    values = torch.cat([torch.linspace(low, high, 999), torch.tensor([0.0, 99.0, -99.0])])
    found = in_levels(values, (low, high))
    step = (max(high, 0.0) - min(low, 0.0)) / 255
    assert len(found.unique()) <= 256
    assert found[-3] == 0
    assert float((found[:-3] - values[:-3]).abs().max()) <= step * 1.01
    assert float(found.max()) == pytest.approx(max(high, 0.0), abs=step)
    assert float(found.min()) == pytest.approx(min(low, 0.0), abs=step)


def test_large_values_mean_few_samples() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    small, large = (trace(net, (torch.randn(2, 3, size, size),)) for size in (8, 512))
    assert samples_for(small, 32) == 32
    assert samples_for(large, 32) == LEAST_SAMPLES
