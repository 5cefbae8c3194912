"""What a layer's weights are multiplied with, at places drawn at random: for its Gram matrix. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def patches(
    images: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Patches under a kernel.

    Args:
        images: [N, C, ...], of one, two or three dimensions.
        kernel: Its sizes.
        stride: Of each dimension, as the others.
        padding: On both sides, or ``same`` or ``valid``.
        dilation: Between taps.
        count: So many places of each image; all of them where there are fewer.
        generator: Draws them.

    Returns:
        [N, C, places, taps], taps in the order of the weights.
    """
    around: list[int] = []
    for size, between, each in zip(kernel[::-1], dilation[::-1], _sides(padding, len(kernel))[::-1], strict=True):
        whole = between * (size - 1) if padding == "same" else 2 * each
        around += [whole // 2, whole - whole // 2]
    padded = F.pad(images, around) if any(around) else images
    sizes = [
        (length - between * (size - 1) - 1) // step + 1
        for length, size, step, between in zip(padded.shape[2:], kernel, stride, dilation, strict=True)
    ]
    total = 1
    for size in sizes:
        total *= size
    places = torch.randperm(total, generator=generator)[:count] if total > count else torch.arange(total)
    at = torch.unravel_index(places, sizes)
    taps = []
    for offsets in product(*map(range, kernel)):
        where: Any = tuple(
            place * step + offset * between
            for place, step, offset, between in zip(at, stride, offsets, dilation, strict=True)
        )
        taps.append(padded[(slice(None), slice(None), *where)])
    return torch.stack(taps, -1)


def _sides(padding: Sequence[int] | str, rank: int) -> list[int]:
    return [0] * rank if isinstance(padding, str) else list(padding)


def gram(drawn: Tensor, groups: int) -> Tensor:
    """X'X of each group of channels.

    Args:
        drawn: Patches [N, C, places, taps].
        groups: Of the convolution.

    Returns:
        [groups, K, K], K = C / groups * taps in the order of the weights, float64.
    """
    count, channels, places, taps = drawn.shape
    rows = drawn.reshape(count, groups, channels // groups, places, taps)
    rows = rows.permute(1, 0, 3, 2, 4).reshape(groups, count * places, -1)
    return (rows.mT @ rows).double()
