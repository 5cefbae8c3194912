"""Changes of training images after which things are elsewhere in them, and what is known of the images goes along.

Each draws once for some images, and then moves whatever there is: the images, masks, boxes, key points, and the
pictures that are wanted for them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgespa.data.answers import IGNORED
from edgespa.data.boxes import Objects
from edgespa.data.points import only_inside
from edgespa.pixels.picture import GREY

CROP_FRACTION = 0.125
SCALES = (2 / 3, 3 / 2)
LEAST_SEEN = 0.1
"""Of an object: with less of its area left it is no example of one any more."""
Size = tuple[int, int]


class Move(ABC):
    """A change.

    Attributes:
        sharp: What is wanted for an image can go along, pixel for pixel.
        mirrors: Left becomes right.
    """

    sharp = True
    mirrors = False

    @abstractmethod
    def draw(self, images: Tensor, generator: torch.Generator) -> Any:
        """What is drawn for images uint8 ``[N, C, H, W]``."""

    @abstractmethod
    def images(self, images: Tensor, drawn: Any) -> Tensor:
        """Images ``[N, C, H, W]``; what comes in at the borders is whatever looks like an image."""

    def masks(self, masks: Tensor, drawn: Any) -> Tensor:
        """Class indices ``[N, H, W]``, where `images` has the pixels that they are of."""
        return self.images(masks[:, None], drawn)[:, 0]

    def seen(self, images: Tensor, drawn: Any) -> Tensor:
        """Images of which it is known where each thing is: what comes in is grey, as of things there nobody knows."""
        return self.images(images, drawn)

    @abstractmethod
    def objects(self, objects: Sequence[Objects], drawn: Any, size: Size) -> list[Objects]:
        """Objects in images of a height and width; of which less than `LEAST_SEEN` is left, those are gone."""

    @abstractmethod
    def points(self, places: Tensor, drawn: Any, size: Size, swapped: list[int]) -> Tensor:
        """Key points ``[N, K, 3]``; in a mirror each becomes that of the number at its place in ``swapped``."""

    def pictures(self, wanted: Tensor, drawn: Any, factor: int) -> Tensor:
        """Pictures so many times as large as the images, nan where nobody knows; only of what is `sharp`."""
        raise NotImplementedError("what is wanted for an image cannot go along")


class Flip(Move):
    """Every other image mirrored, left to right. What is drawn: which, bool ``[N]``."""

    mirrors = True

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Move.draw`."""
        return torch.rand(len(images), generator=generator) < 0.5

    def images(self, images: Tensor, drawn: Tensor) -> Tensor:
        """See `Move.images`."""
        return torch.where(drawn[:, None, None, None], images.flip(3), images)

    def objects(self, objects: Sequence[Objects], drawn: Tensor, size: Size) -> list[Objects]:
        """See `Move.objects`."""
        return [each.moved((size[1], 0), (-1, 1)) if turn else each for each, turn in zip(objects, drawn, strict=True)]

    def points(self, places: Tensor, drawn: Tensor, size: Size, swapped: list[int]) -> Tensor:
        """See `Move.points`."""
        mirrored = places[:, swapped] * places.new_tensor([-1.0, 1.0, 1.0]) + places.new_tensor([size[1], 0.0, 0.0])
        return torch.where(drawn[:, None, None], mirrored, places)

    def pictures(self, wanted: Tensor, drawn: Tensor, factor: int) -> Tensor:
        """See `Move.pictures`."""
        return self.images(wanted, drawn)


class Shift(Move):
    """Each image by up to an eighth of its sides; what comes in is mirrored. What is drawn: down and right, ``[N]``."""

    def draw(self, images: Tensor, generator: torch.Generator) -> list[Tensor]:
        """See `Move.draw`."""
        shifts = []
        for size in images.shape[2:]:
            reach = int(size * CROP_FRACTION)
            shifts.append(torch.randint(-reach, reach + 1, (len(images),), generator=generator))
        return shifts

    def images(self, images: Tensor, drawn: list[Tensor]) -> Tensor:
        """See `Move.images`."""
        height, width = images.shape[2:]
        rows = _mirrored(torch.arange(height) + drawn[0][:, None], height)
        columns = _mirrored(torch.arange(width) + drawn[1][:, None], width)
        images = images.gather(2, rows[:, None, :, None].expand(-1, images.shape[1], -1, width))
        return images.gather(3, columns[:, None, None, :].expand(-1, images.shape[1], height, -1))

    def seen(self, images: Tensor, drawn: list[Tensor]) -> Tensor:
        """See `Move.seen`."""
        return self._padded(images, drawn, GREY)

    def objects(self, objects: Sequence[Objects], drawn: list[Tensor], size: Size) -> list[Objects]:
        """See `Move.objects`."""
        return [
            each.moved((-float(right), -float(down)), (1, 1)).inside(*size, LEAST_SEEN)
            for each, down, right in zip(objects, *drawn, strict=True)
        ]

    def points(self, places: Tensor, drawn: list[Tensor], size: Size, swapped: list[int]) -> Tensor:
        """See `Move.points`."""
        by = torch.stack([drawn[1], drawn[0], torch.zeros_like(drawn[0])], 1)
        return only_inside(places - by[:, None], *size)

    def pictures(self, wanted: Tensor, drawn: list[Tensor], factor: int) -> Tensor:
        """See `Move.pictures`."""
        return self._padded(wanted, [factor * each for each in drawn], torch.nan)

    def _padded(self, images: Tensor, drawn: list[Tensor], fill: float) -> Tensor:
        rows, columns = (torch.arange(size) + by[:, None] for size, by in zip(images.shape[2:], drawn, strict=True))
        inside = [(at >= 0) & (at < size) for at, size in zip((rows, columns), images.shape[2:], strict=True)]
        shown = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return torch.where(shown, self.images(images, drawn), fill)


class Scale(Move):
    """Each image by a factor of `SCALES`, all of them as likely by their logarithm, about a place of chance.

    A larger one is cut off, a smaller one lies on grey. What is drawn: the factors ``[N]``, and x and y ``[N, 2]`` of
    the image's upper left corner as shares of what is left beside it.
    """

    sharp = False

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Move.draw`."""
        least, most = (math.log(each) for each in SCALES)
        factors = torch.exp(least + torch.rand(len(images), generator=generator) * (most - least))
        return factors, torch.rand(len(images), 2, generator=generator)

    def images(self, images: Tensor, drawn: tuple[Tensor, Tensor]) -> Tensor:
        """See `Move.images`: bilinear."""
        values = self._sampled(images.float() - GREY, drawn, "bilinear") + GREY
        return values.round().clamp(0, 255).to(torch.uint8)

    def masks(self, masks: Tensor, drawn: tuple[Tensor, Tensor]) -> Tensor:
        """See `Move.masks`: of the nearest pixel; what lies beside the image counts nowhere."""
        return (self._sampled(masks[:, None].float() - IGNORED, drawn, "nearest")[:, 0] + IGNORED).to(masks.dtype)

    def objects(self, objects: Sequence[Objects], drawn: tuple[Tensor, Tensor], size: Size) -> list[Objects]:
        """See `Move.objects`."""
        factors, corners = drawn[0].tolist(), _corners(drawn, size).tolist()
        return [
            Objects(each.boxes * factor + each.boxes.new_tensor(corner * 2), each.labels, each.ignored).inside(
                *size, LEAST_SEEN
            )
            for each, factor, corner in zip(objects, factors, corners, strict=True)
        ]

    def points(self, places: Tensor, drawn: tuple[Tensor, Tensor], size: Size, swapped: list[int]) -> Tensor:
        """See `Move.points`."""
        moved = places[..., :2] * drawn[0][:, None, None] + _corners(drawn, size)[:, None]
        return only_inside(torch.cat([moved, places[..., 2:]], -1), *size)

    def _sampled(self, values: Tensor, drawn: tuple[Tensor, Tensor], mode: str) -> Tensor:
        """Float ``[N, C, H, W]``, 0 where there is nothing."""
        height, width = values.shape[2:]
        corners = _corners(drawn, (height, width))
        columns = (torch.arange(width) + 0.5 - corners[:, :1]) / drawn[0][:, None]
        rows = (torch.arange(height) + 0.5 - corners[:, 1:]) / drawn[0][:, None]
        grid = torch.stack([
            (2 * columns / width - 1)[:, None, :].expand(-1, height, -1),
            (2 * rows / height - 1)[:, :, None].expand(-1, -1, width),
        ], -1)  # fmt: skip
        return nn.functional.grid_sample(values, grid, mode=mode, padding_mode="zeros", align_corners=False)


def _corners(drawn: tuple[Tensor, Tensor], size: Size) -> Tensor:
    """Where the upper left corner of each scaled image lies, x and y in pixels, [N, 2]."""
    factors, shares = drawn
    return (1 - factors[:, None]) * torch.tensor([size[1], size[0]]) * shares


def _mirrored(positions: Tensor, size: int) -> Tensor:
    """Positions outside of [0, size) reflected into it, without repeating the border."""
    positions = positions.abs()
    return torch.where(positions >= size, 2 * (size - 1) - positions, positions)
