"""Changes of training images: each draws from the generator that it is given, so an epoch can be begun again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from edgespa.adaptation.moves import Flip, Move, Scale, Shift
from edgespa.data.boxes import Objects
from edgespa.data.points import Points
from edgespa.errors import DataError

COLOUR_STRENGTH = 0.25
_MOVES: dict[str, Move] = {"flip": Flip(), "crop": Shift(), "scale": Scale()}
MIX = "mix"
AUGMENTATIONS = (*_MOVES, "colour", MIX)
"""Their names."""


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


def mixed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Of each three images about one stays, one is laid over another, and one gets a rectangle of another.

    Mixup (Zhang et al. 2017, arXiv 1710.09412, section 2) and CutMix (Yun et al. 2019, arXiv 1905.04899, equations 1
    and 2) with shares that are uniform in 0..1. Deviation: of images alone; what is right is not mixed.

    Args:
        images: uint8 ``[N, C, H, W]``.
        generator: Says which, with what, how much and where.
    """
    count, size = len(images), images.shape[2:]
    others = images[torch.randperm(count, generator=generator)]
    kinds = torch.randint(0, 3, (count, 1, 1, 1), generator=generator)
    shares, rows, columns = torch.rand(3, count, 1, 1, 1, generator=generator)
    laid = (images + (others.float() - images) * shares).round().to(torch.uint8)
    sides = shares.sqrt()
    inside = torch.ones(count, 1, *size, dtype=torch.bool)
    for dim, middles in ((2, rows), (3, columns)):
        places = (torch.arange(size[dim - 2]) + 0.5).reshape([-1 if each == dim else 1 for each in range(4)])
        inside &= (places / size[dim - 2] - middles).abs() < sides / 2
    return torch.where(kinds == 0, images, torch.where(kinds == 1, laid, torch.where(inside, others, images)))


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
        return any(_MOVES[name].mirrors for name in self.names if name in _MOVES)

    @property
    def blurs(self) -> bool:
        """Whether pixels are mixed, so that a wanted picture would be another one."""
        return any(not _MOVES[name].sharp for name in self.names if name in _MOVES)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images alone.

        Args:
            images: uint8 ``[N, C, H, W]``.
            generator: What the changes draw from.
        """
        for name in self.names:
            move = _MOVES.get(name)
            if name == MIX:
                images = mixed(images, generator)
            else:
                drawn = None if move is None else move.draw(images, generator)
                images = colour(images, generator) if move is None else move.images(images, drawn)
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
                images, masks = move.images(images, drawn), move.masks(masks, drawn)
            else:
                images = colour(images, generator)
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
                images = colour(images, generator)
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
                images = colour(images, generator)
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
                images, wanted = move.images(images, drawn), move.pictures(wanted, drawn, factor)
            else:
                images = colour(images, generator)
        return images, wanted


def augmentation(names: Sequence[str]) -> Augmentation | None:
    """Several changes, one after the other; None for none.

    Args:
        names: Of `AUGMENTATIONS`.
    """
    return Augmentation(tuple(names)) if names else None
