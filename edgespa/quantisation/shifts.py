"""What a channel's bias has to change by for its mean to stay what it was, behind the activation function: pure.

Nagel et al. 2019 ("Data-free quantization through weight equalization and bias correction", arXiv 1906.04721, section
4.2) correct the mean before the activation function. What counts is what is read, which is behind it: so the shift d
is sought for which the mean of act(y' + d) equals that of act(y), by Newton's method with measured slopes. A mean over
few samples is known badly: so much of the shift is taken as it exceeds its own standard error.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_STEPS = 3
_LEAST_SLOPE = 0.05
"""Of a channel that is clipped nearly everywhere, no shift says anything."""
_NUDGE = 0.01


def shift(wanted: Tensor, means: Callable[[Tensor], Tensor], spread: Tensor) -> Tensor:
    """The shift of each channel.

    Args:
        wanted: What the mean of each sample and channel was, behind the activation function [N, C].
        means: What it is now with a shift [C].
        spread: Standard deviation of each channel before the activation function [C].

    Returns:
        [C].
    """
    found = torch.zeros_like(spread)
    nudge = (_NUDGE * spread).clamp(min=1e-12)
    slope = off = found
    for _ in range(_STEPS):
        now = means(found)
        slope = (means(found + nudge) - now).mean(0) / nudge
        off = wanted - now
        step = off.mean(0) / slope.clamp(min=_LEAST_SLOPE)
        found = found + torch.where(slope > _LEAST_SLOPE, step, 0.0).clamp(-spread, spread)
    error = off.std(0, unbiased=True) / len(wanted) ** 0.5 / slope.clamp(min=_LEAST_SLOPE)
    known = 1 - (error / found.abs().clamp(min=1e-30)).square()
    moved: Tensor = found * known.clamp(min=0)
    return moved
