"""Key points of pictures, from their pixels to those of a model's input."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree

from edgespa.config import Preprocess
from edgespa.data.answers import Answers
from edgespa.data.source import Examined, ImageSource


@dataclass(frozen=True, eq=False)
class Points:
    """The key points of some samples. Operations on pytrees reach its tensors.

    Attributes:
        places: float32 [N, K, 3]: x, y in pixels of the model's input, and how it is seen: 0: nobody knows or it lies
            outside; 1: it is hidden; 2: it is seen.
        size: float32 [N, 2]: height and width of the input.
    """

    places: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, which: Any) -> Points:
        return Points(self.places[which], self.size[which])

    @property
    def known(self) -> Tensor:
        """Of which points it is known where they are, bool [N, K]."""
        return self.places[..., 2] > 0


def _flat(points: Points) -> tuple[list[Any], None]:
    return [points.places, points.size], None


_pytree.register_pytree_node(
    Points, _flat, lambda parts, _: Points(*parts), serialized_type_name="edgespa.data.points.Points"
)


class Seen(NamedTuple):
    """The key points of a picture.

    Attributes:
        points: float32 [K, 3]: x, y in pixels of the picture, and how it is seen, see `Points`.
        size: Height and width of the picture.
    """

    points: NDArray[np.float32]
    size: tuple[int, int]


class PointAnswers(Answers):
    """The key points of all pictures, in memory.

    Args:
        points: float32 [N, K, 3], in pixels of the picture, see `Points`.
        sizes: int64 [N, 2]: height and width of each picture.
        pairs: Which are each other's left and right, by their numbers; None where that is not known of all of them, so
            that pictures cannot be mirrored.
        lines: Which of them a line connects where they are drawn, by their numbers.
    """

    kind = "heatmaps"
    form = "points"

    def __init__(
        self,
        points: NDArray[np.float32],
        sizes: NDArray[np.int64],
        pairs: Sequence[tuple[int, int]] | None,
        lines: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.points, self.sizes = points, sizes
        self.pairs = None if pairs is None else tuple(pairs)
        self.lines = tuple(lines)

    def __getitem__(self, index: int) -> Seen:
        height, width = self.sizes[index]
        return Seen(self.points[index], (int(height), int(width)))

    @property
    def digest(self) -> str:
        """Of all points and the sizes of the pictures."""
        return hashlib.sha256(self.points.tobytes() + self.sizes.tobytes()).hexdigest()[:16]


def fit_points(seen: Seen, preprocess: Preprocess) -> Tensor:
    """Key points where `edgespa.data.prepare.fit_image` puts their picture; those outside of the input are not known.

    Args:
        seen: On the picture.
        preprocess: What is wanted.

    Returns:
        float32 [K, 3], see `Points`.
    """
    moved = preprocess.placement(*seen.size).points(seen.points[:, :2])
    made = torch.from_numpy(np.concatenate([moved, seen.points[:, 2:]], 1).astype(np.float32))
    return only_inside(made, preprocess.height, preprocess.width)


def only_inside(places: Tensor, height: int, width: int) -> Tensor:
    """Key points, those outside of an input as nobody knew them.

    Args:
        places: float32 [..., 3].
        height: Of the input.
        width: Likewise.
    """
    x, y, seen = places.unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.stack([x, y, torch.where(inside, seen, 0.0)], -1)


class Cut(ImageSource):
    """Parts of pictures as images of their own.

    Args:
        source: The pictures.
        owners: Of which each part is, int64 [N].
        windows: int64 [N, 4]: x1, y1, x2, y2.
    """

    def __init__(self, source: ImageSource, owners: NDArray[np.int64], windows: NDArray[np.int64]) -> None:
        self._source, self._owners, self._windows = source, owners, windows
        self.in_files = source.in_files

    def __len__(self) -> int:
        return len(self._owners)

    def image(self, index: int) -> NDArray[np.uint8]:
        """See `ImageSource.image`."""
        x1, y1, x2, y2 = self._windows[index].tolist()
        return self._source.image(int(self._owners[index]))[y1:y2, x1:x2]

    def name(self, index: int) -> str:
        """See `ImageSource.name`; a picture may have several parts."""
        x1, y1, x2, y2 = self._windows[index].tolist()
        return f"{self._source.name(int(self._owners[index]))} ({x1},{y1} to {x2},{y2})"

    def examined(self, index: int) -> Examined:
        """See `ImageSource.examined`."""
        return self._source.examined(int(self._owners[index]))._replace(pixels=self.image(index))

    def fault(self, index: int) -> str | None:
        """See `ImageSource.fault`."""
        return self._source.fault(int(self._owners[index]))


def windows_of(boxes: NDArray[np.float64], sizes: NDArray[np.int64], wider: float = 1.25) -> NDArray[np.int64]:
    """What of each picture is cut out for a thing: its box, a quarter wider and higher, as far as the picture goes.

    Xiao et al. 2018, section 3 and its code, widen by as much; they make all windows of one shape, and black beside the
    picture. Here the shape is that of `edgespa.config.Preprocess`.

    Args:
        boxes: [N, 4].
        sizes: Of their pictures, [N, 2].
        wider: How much.
    """
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * wider / 2
    found = np.concatenate([np.floor(middle - half), np.ceil(middle + half)], 1).astype(np.int64)
    limits = sizes[:, [1, 0]]
    first = np.clip(found[:, :2], 0, limits - 1)
    return np.concatenate([first, np.clip(found[:, 2:], first + 1, limits)], 1)
