"""Changes of training images: each draws from the generator that it is given, so an epoch can be begun again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgespa.data import Augment

CROP_FRACTION = 0.125
COLOUR_STRENGTH = 0.25


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every other image, left to right.

    Args:
        images: uint8 ``[N, C, H, W]``.
        generator: Says which.
    """
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to an eighth of its sides; what comes in at the borders is mirrored.

    Args:
        images: uint8 ``[N, C, H, W]``.
        generator: Says how far.
    """
    height, width = images.shape[2:]
    shifts = []
    for size in (height, width):
        reach = int(size * CROP_FRACTION)
        shifts.append(torch.randint(-reach, reach + 1, (len(images),), generator=generator))
    rows = _mirrored(torch.arange(height) + shifts[0][:, None], height)
    columns = _mirrored(torch.arange(width) + shifts[1][:, None], width)
    images = images.gather(2, rows[:, None, :, None].expand(-1, images.shape[1], -1, width))
    return images.gather(3, columns[:, None, None, :].expand(-1, images.shape[1], height, -1))


def colour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and, of colour images, saturation of each by up to a quarter.

    Args:
        images: uint8 ``[N, C, H, W]``.
        generator: Says how much.
    """
    values = images.float()
    factors = 1 + (torch.rand(3, len(images), 1, 1, 1, generator=generator) * 2 - 1) * COLOUR_STRENGTH
    values = values * factors[0]
    middle = values.mean((1, 2, 3), keepdim=True)
    values = (values - middle) * factors[1] + middle
    if images.shape[1] == 3:
        grey = values.mean(1, keepdim=True)
        values = (values - grey) * factors[2] + grey
    return values.round().clamp(0, 255).to(torch.uint8)


def _mirrored(positions: Tensor, size: int) -> Tensor:
    """Positions outside of [0, size) reflected into it, without repeating the border."""
    positions = positions.abs()
    return torch.where(positions >= size, 2 * (size - 1) - positions, positions)


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {"flip": flip, "crop": crop, "colour": colour}


def augmentation(names: Sequence[str]) -> Augment | None:
    """Several changes, one after the other; None for none.

    Args:
        names: Of `AUGMENTATIONS`.
    """
    if not names:
        return None

    def apply(images: Tensor, generator: torch.Generator) -> Tensor:
        for name in names:
            images = AUGMENTATIONS[name](images, generator)
        return images

    return apply
