"""Shifts of biases that are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgespa.quantisation.shifts import shift


def values(samples: int = 64) -> Tensor:
    """[N, C, places] of three channels."""
    return torch.randn(samples, 3, 400, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("act", [lambda x: x, F.relu, F.relu6, F.silu, F.gelu])
def test_a_shift_is_found_behind_any_activation_function(act: object) -> None:
    assert callable(act)
    plain, moved = values(), torch.tensor([0.3, -0.2, 0.05])
    found = shift(
        act(plain).mean(2),
        lambda d: act(plain - moved[None, :, None] + d[None, :, None]).mean(2),
        plain.transpose(1, 2).flatten(0, 1).std(0),
    )
    torch.testing.assert_close(found, moved, rtol=0.02, atol=0.002)


def test_what_is_clipped_everywhere_is_left() -> None:
    plain = values() - 50
    found = shift(F.relu(plain).mean(2), lambda d: F.relu(plain + d[None, :, None]).mean(2), torch.ones(3))
    assert not found.any()


def test_a_mean_that_is_not_known_moves_nothing() -> None:
    """Four samples that differ among each other by more than their mean is off."""
    noise = torch.tensor([[1.0], [-1.0], [1.0], [-0.9]])
    found = shift(noise, lambda d: torch.zeros(4, 1) + d, torch.ones(1))
    assert float(found) == 0
