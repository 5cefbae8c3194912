"""Changes of training images: each draws from the generator that it is given, so an epoch can be begun again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edgespa.data.boxes import Objects
from edgespa.data.points import Points, only_inside
from edgespa.errors import DataError
from edgespa.pixels.picture import GREY

CROP_FRACTION = 0.125
COLOUR_STRENGTH = 0.25
_LEAST_SEEN = 0.1


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


def _padded(images: Tensor, shifts: list[Tensor], fill: float = GREY) -> Tensor:
    """Shifted, with grey where nothing comes in: what is mirrored would be objects without a box."""
    height, width = images.shape[2:]
    rows, columns = (torch.arange(size) + shift[:, None] for size, shift in zip((height, width), shifts, strict=True))
    shown = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    return torch.where(shown, _shifted(images, shifts), fill)


def _wanted_flipped(wanted: Tensor, chosen: Tensor, factor: int) -> Tensor:
    return _flipped(wanted, chosen)


def _wanted_shifted(wanted: Tensor, shifts: list[Tensor], factor: int) -> Tensor:
    return _padded(wanted, [factor * each for each in shifts], torch.nan)


def _objects_flipped(objects: Sequence[Objects], chosen: Tensor, size: tuple[int, int]) -> list[Objects]:
    return [each.moved((size[1], 0), (-1, 1)) if turn else each for each, turn in zip(objects, chosen, strict=True)]


def _objects_shifted(objects: Sequence[Objects], shifts: list[Tensor], size: tuple[int, int]) -> list[Objects]:
    """An object of which less than `_LEAST_SEEN` is left is no example of one any more."""
    return [
        each.moved((-float(right), -float(down)), (1, 1)).inside(*size, _LEAST_SEEN)
        for each, down, right in zip(objects, *shifts, strict=True)
    ]


def _points_flipped(places: Tensor, chosen: Tensor, size: tuple[int, int], swapped: list[int]) -> Tensor:
    mirrored = places[:, swapped] * places.new_tensor([-1.0, 1.0, 1.0]) + places.new_tensor([float(size[1]), 0.0, 0.0])
    return torch.where(chosen[:, None, None], mirrored, places)


def _points_shifted(places: Tensor, shifts: list[Tensor], size: tuple[int, int], swapped: list[int]) -> Tensor:
    by = torch.stack([shifts[1], shifts[0], torch.zeros_like(shifts[0])], 1)
    return only_inside(places - by[:, None], *size)


@dataclasses.dataclass(frozen=True)
class _Move:
    """A change after which things are elsewhere in an image.

    Attributes:
        draw: What it draws for some images.
        images: Moves images, or masks.
        seen: Moves images of which it is known where each thing is.
        objects: Moves objects, in images of a height and width.
        wanted: Moves pictures that are so many times as large.
        points: Moves key points [N, K, 3] likewise; in a mirror each becomes that of the number at its place.
    """

    draw: Callable[[Tensor, torch.Generator], Any]
    images: Callable[[Tensor, Any], Tensor]
    seen: Callable[[Tensor, Any], Tensor]
    objects: Callable[[Sequence[Objects], Any, tuple[int, int]], list[Objects]]
    points: Callable[[Tensor, Any, tuple[int, int], list[int]], Tensor]
    wanted: Callable[[Tensor, Any, int], Tensor]


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {"flip": flip, "crop": crop, "colour": colour}
_MOVES: dict[str, _Move] = {
    "flip": _Move(_chosen, _flipped, _flipped, _objects_flipped, _points_flipped, _wanted_flipped),
    "crop": _Move(_shifts, _shifted, _padded, _objects_shifted, _points_shifted, _wanted_shifted),
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

    @property
    def recolours(self) -> bool:
        """Whether colours are others than they were."""
        return "colour" in self.names

    @property
    def mirrors(self) -> bool:
        """Whether left becomes right."""
        return "flip" in self.names

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
                move = _MOVES[name]
                drawn = move.draw(images, generator)
                images, masks = move.images(images, drawn), move.images(masks[:, None], drawn)[:, 0]
            else:
                images = AUGMENTATIONS[name](images, generator)
        return images, masks

    def with_boxes(
        self, images: Tensor, objects: Sequence[Objects], generator: torch.Generator
    ) -> tuple[Tensor, list[Objects]]:
        """Images with their objects, which go where the images go; what is no longer seen of one is gone.

        What comes in at the borders of a shifted image is grey, not mirrored: a mirrored object would have no box.

        Args:
            images: uint8 ``[N, C, H, W]``.
            objects: Of each, in pixels of it.
            generator: What the changes draw from: the same as for images alone.
        """
        objects = list(objects)
        for name in self.names:
            if name in _MOVES:
                move = _MOVES[name]
                drawn = move.draw(images, generator)
                size = (images.shape[2], images.shape[3])
                images, objects = move.seen(images, drawn), move.objects(objects, drawn, size)
            else:
                images = AUGMENTATIONS[name](images, generator)
        return images, objects

    def with_points(
        self, images: Tensor, points: Points, pairs: Sequence[tuple[int, int]] | None, generator: torch.Generator
    ) -> tuple[Tensor, Points]:
        """Images with their key points, which go where the images go; those outside are not known any more.

        Args:
            images: uint8 ``[N, C, H, W]``.
            points: Of each, in pixels of it.
            pairs: Which are each other's left and right: they change places in a mirror. None: nobody knows.
            generator: What the changes draw from: the same as for images alone.

        Raises:
            DataError: Nobody knows, and it mirrors.
        """
        if pairs is None and self.mirrors:
            raise DataError("which key points change places in a mirror is not known", "leave flip out of --augment")
        swapped = list(range(points.places.shape[1]))
        for left, right in pairs or ():
            swapped[left], swapped[right] = right, left
        places, size = points.places, (images.shape[2], images.shape[3])
        for name in self.names:
            if name in _MOVES:
                move = _MOVES[name]
                drawn = move.draw(images, generator)
                images, places = move.seen(images, drawn), move.points(places, drawn, size, swapped)
            else:
                images = AUGMENTATIONS[name](images, generator)
        return images, Points(places, points.size)

    def with_pictures(self, images: Tensor, wanted: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images with the pictures that are wanted for them; what comes in at the borders, nobody knows.

        Args:
            images: uint8 ``[N, C, H, W]``.
            wanted: float ``[N, c, f H, f W]``, nan where nobody knows.
            generator: What the changes draw from: the same as for images alone.
        """
        factor = wanted.shape[2] // images.shape[2]
        for name in self.names:
            if name in _MOVES:
                move = _MOVES[name]
                drawn = move.draw(images, generator)
                images, wanted = move.images(images, drawn), move.wanted(wanted, drawn, factor)
            else:
                images = AUGMENTATIONS[name](images, generator)
        return images, wanted


def augmentation(names: Sequence[str]) -> Augmentation | None:
    """Several changes, one after the other; None for none.

    Args:
        names: Of `AUGMENTATIONS`.
    """
    return Augmentation(tuple(names)) if names else None
