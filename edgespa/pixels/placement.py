"""Where a picture lands in a model's input, and what lies over it: masks, boxes, points.

It stands alone, as `edgespa.pixels.picture` does, for it is a part of ``run.py`` too: numpy and Python 3.8.
"""

from __future__ import annotations

from collections.abc import Mapping  # for annotations only: Python 3.8 cannot subscript it
from typing import Any, NamedTuple

import numpy as np

STRETCH, CROP, LETTERBOX = "stretch", "crop", "letterbox"


class Placement(NamedTuple):
    """From an upright picture to the input and back.

    The picture is resized from ``source`` to ``resized``; of that the input shows ``size``, from ``offset`` on.
    Coordinates are in pixels from the upper left corner, so the middle of the first pixel is at (0.5, 0.5).

    Attributes:
        source: Height and width of the picture.
        resized: Height and width that it is resized to.
        offset: Row and column of the resized picture that are the input's first; negative where it is padded.
        size: Height and width of the input.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """What heights and widths are multiplied by."""
        return self.resized[0] / self.source[0], self.resized[1] / self.source[1]

    @property
    def unchanged(self) -> bool:
        """Whether the input is the picture itself."""
        return self.source == self.resized == self.size and self.offset == (0, 0)

    def window(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Rows and columns of the resized picture that are seen, and those of the input that they become."""
        seen, become = [], []
        for whole, first, size in zip(self.resized, self.offset, self.size):
            start, stop = max(0, first), min(whole, first + size)
            seen.append(slice(start, stop))
            become.append(slice(start - first, stop - first))
        return (seen[0], seen[1]), (become[0], become[1])

    def mask(self, array: np.ndarray, fill: Any) -> np.ndarray:
        """What lies over the picture pixel by pixel, over the input: the nearest value, never a mean of several.

        Args:
            array: [H, W, ...] of the picture's size.
            fill: Where the input shows no picture: the index that is ignored.

        Returns:
            [height, width, ...] of the input's size, of the same type.

        Raises:
            ValueError: The array is not of the picture's size, or its type does not hold the fill.
        """
        sides = zip(self.size, self.offset, self.source, self.resized)
        places = [(2 * (np.arange(size) + first) + 1) * whole // (2 * there) for size, first, whole, there in sides]
        return _nearest(array, self.source, places, fill)

    def mask_back(self, array: np.ndarray, fill: Any) -> np.ndarray:
        """The other way: from the input's size to the picture's.

        Args:
            array: [height, width, ...] of the input's size.
            fill: Where the picture is not seen in the input.

        Returns:
            [H, W, ...] of the picture's size, of the same type.

        Raises:
            ValueError: The array is not of the input's size, or its type does not hold the fill.
        """
        sides = zip(self.source, self.resized, self.offset)
        places = [(2 * np.arange(whole) + 1) * there // (2 * whole) - first for whole, there, first in sides]
        return _nearest(array, self.size, places, fill)

    def boxes(self, corners: np.ndarray, clip: bool = False) -> np.ndarray:
        """Boxes of the picture in the input.

        Args:
            corners: [..., 4]: x and y of the first corner, x and y of the other one.
            clip: Cut off what lies outside of the input; a box that lies there whole is left with no area.

        Returns:
            float64 [..., 4].
        """
        moved = self.points(_as_points(corners)).reshape(np.shape(corners))
        return _clipped(moved, self.size) if clip else moved

    def boxes_back(self, corners: np.ndarray, clip: bool = False) -> np.ndarray:
        """Boxes of the input in the picture, likewise; ``clip`` cuts off what lies outside of the picture."""
        moved = self.points_back(_as_points(corners)).reshape(np.shape(corners))
        return _clipped(moved, self.source) if clip else moved

    def points(self, places: np.ndarray) -> np.ndarray:
        """Points of the picture in the input.

        Args:
            places: [..., 2]: x and y.

        Returns:
            float64 [..., 2].
        """
        moved: np.ndarray = np.asarray(places, np.float64) * self.scale[::-1] - self.offset[::-1]
        return moved

    def points_back(self, places: np.ndarray) -> np.ndarray:
        """Points of the input in the picture, likewise."""
        moved: np.ndarray = (np.asarray(places, np.float64) + self.offset[::-1]) / self.scale[::-1]
        return moved


def placed(source: tuple[int, int], how: Mapping[str, Any]) -> Placement:
    """Where a picture lands.

    ``stretch`` makes it as large as ``resize_to``, its proportions not kept; ``crop`` keeps them and makes it as small
    as covers that; ``letterbox`` keeps them and makes it as large as fits into that. Of the result the middle is the
    input: what is larger is cropped, what is smaller is padded. Each is rounded as where it is from: torchvision's
    ``Resize`` and ``CenterCrop``, timm for two sides that differ, YOLO's letterbox.

    Args:
        source: Height and width of the picture, upright.
        how: Fields of `edgespa.config.Preprocess`.

    Raises:
        ValueError: There is no such way to resize.
    """
    size = (how["height"], how["width"])
    wanted = tuple(how.get("resize_to") or size)
    kind = how.get("resize", STRETCH)
    if kind == STRETCH:
        resized = wanted
    elif kind == CROP and wanted[0] == wanted[1]:  # as torchvision computes it from the shortest side
        resized = tuple(int(wanted[0] * side / min(source)) for side in source)
    elif kind == CROP:
        least = min(whole / there for whole, there in zip(source, wanted))
        resized = tuple(round(side / least) for side in source)
    elif kind == LETTERBOX:
        share = min(there / whole for whole, there in zip(source, wanted))
        resized = tuple(max(1, round(side * share)) for side in source)
    else:
        raise ValueError(f"images cannot be resized by '{kind}'")
    offset = [round((there - own) / 2) if there >= own else -((own - there) // 2) for there, own in zip(resized, size)]
    return Placement((source[0], source[1]), (resized[0], resized[1]), (offset[0], offset[1]), size)


def _nearest(array: np.ndarray, size: tuple[int, int], places: list[np.ndarray], fill: Any) -> np.ndarray:
    """Values at rows and columns, the fill where there are none."""
    if array.shape[:2] != size:
        raise ValueError(f"an array of {' x '.join(map(str, array.shape))} lies over {size[0]} x {size[1]} pixels")
    if np.asarray(fill).astype(array.dtype) != fill:
        raise ValueError(f"{array.dtype} does not hold {fill}")
    inside = [(each >= 0) & (each < whole) for each, whole in zip(places, size)]
    made = np.full((len(places[0]), len(places[1]), *array.shape[2:]), fill, array.dtype)
    made[np.ix_(*inside)] = array[np.ix_(*(each[there] for each, there in zip(places, inside)))]
    return made


def _as_points(corners: np.ndarray) -> np.ndarray:
    return np.asarray(corners, np.float64).reshape(*np.shape(corners)[:-1], 2, 2)


def _clipped(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    clipped: np.ndarray = np.clip(corners, 0, [size[1], size[0]] * 2)
    return clipped
