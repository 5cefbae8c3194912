"""Changes of training images: each draws from the generator that it is given, so an epoch can be begun again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

CROP_FRACTION = 0.125
COLOUR_STRENGTH = 0.25


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every other image, left to right.

    Args:
        images: uint8 ``[N, C, H, W]``.
        generator: Says which.
    """
    return _flipped(images, _chosen(images, generator))


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to an eighth of its sides; what comes in at the borders is mirrored.

    Args:
        images: uint8 ``[N, C, H, W]``.
        generator: Says how far.
    """
    return _shifted(images, _shifts(images, generator))


def _chosen(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(images), generator=generator) < 0.5


def _flipped(images: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def _shifts(images: Tensor, generator: torch.Generator) -> list[Tensor]:
    shifts = []
    for size in images.shape[2:]:
        reach = int(size * CROP_FRACTION)
        shifts.append(torch.randint(-reach, reach + 1, (len(images),), generator=generator))
    return shifts


def _shifted(images: Tensor, shifts: list[Tensor]) -> Tensor:
    height, width = images.shape[2:]
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
_MOVES: dict[str, tuple[Callable[[Tensor, torch.Generator], Any], Callable[[Tensor, Any], Tensor]]] = {
    "flip": (_chosen, _flipped),
    "crop": (_shifts, _shifted),
}


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Several changes, one after the other.

    Attributes:
        names: Of `AUGMENTATIONS`.
    """

    names: tuple[str, ...]

    @property
    def moves(self) -> bool:
        """Whether things are elsewhere in an image than they were."""
        return any(name in _MOVES for name in self.names)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images alone.

        Args:
            images: uint8 ``[N, C, H, W]``.
            generator: What the changes draw from.
        """
        for name in self.names:
            images = AUGMENTATIONS[name](images, generator)
        return images

    def with_masks(self, images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images with their masks, which go where the images go.

        Args:
            images: uint8 ``[N, C, H, W]``.
            masks: ``[N, H, W]``.
            generator: What the changes draw from: the same as for images alone.
        """
        for name in self.names:
            if name in _MOVES:
                draw, move = _MOVES[name]
                drawn = draw(images, generator)
                images, masks = move(images, drawn), move(masks[:, None], drawn)[:, 0]
            else:
                images = AUGMENTATIONS[name](images, generator)
        return images, masks


def augmentation(names: Sequence[str]) -> Augmentation | None:
    """Several changes, one after the other; None for none.

    Args:
        names: Of `AUGMENTATIONS`.
    """
    return Augmentation(tuple(names)) if names else None
