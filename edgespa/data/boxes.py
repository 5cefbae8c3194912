"""What is drawn on pictures: boxes with a class each, from the picture's pixels to those of a model's input."""

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

_NOTHING = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one picture. Operations on pytrees reach its tensors.

    Attributes:
        boxes: float32 [n, 4]: x1, y1, x2, y2 in pixels from the upper left corner, x1 < x2 and y1 < y2. What
            `edgespa.data.Prepared.batches` gives is in pixels of the model's input, inside of it.
        labels: int64 [n]: class indices from 0; a background is none of them.
        ignored: bool [n]: neither to be found nor wrong where found: ``difficult`` in Pascal VOC, ``iscrowd`` in COCO.
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def none(cls) -> Objects:
        """Of a picture of nothing."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))

    def chosen(self, which: Tensor) -> Objects:
        """Some of them.

        Args:
            which: bool [n], or positions.
        """
        return Objects(self.boxes[which], self.labels[which], self.ignored[which])

    def moved(self, by: tuple[float, float], times: tuple[int, int]) -> Objects:
        """Elsewhere: ``times * (x, y) + by``.

        Args:
            by: To the right and down, in pixels.
            times: -1 mirrors, 1 does not; of x and of y.
        """
        corners = self.boxes.reshape(-1, 2, 2) * self.boxes.new_tensor(times) + self.boxes.new_tensor(by)
        boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
        return Objects(boxes, self.labels, self.ignored)

    def inside(self, height: int, width: int, least: float = 0.0) -> Objects:
        """What is seen of them in a picture: cut off at its sides, and without those that lie outside of it.

        Args:
            height: Of the picture, in pixels.
            width: Likewise.
            least: Share of its area that has to be seen of an object; without it more than nothing.
        """
        limits = torch.tensor([width, height, width, height], dtype=self.boxes.dtype, device=self.boxes.device)
        cut = torch.minimum(self.boxes.clamp(min=0), limits)
        sides, whole = cut[:, 2:] - cut[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]
        seen = (sides > 0).all(1) & (sides.prod(1) >= least * whole.prod(1))
        return Objects(cut, self.labels, self.ignored).chosen(seen)


def _flat(objects: Objects) -> tuple[list[Any], None]:
    return [objects.boxes, objects.labels, objects.ignored], None


_pytree.register_pytree_node(
    Objects,
    _flat,
    lambda parts, _: Objects(*parts),
    serialized_type_name="edgespa.data.boxes.Objects",
)


class Drawn(NamedTuple):
    """The objects of a picture as they were drawn.

    Attributes:
        objects: In pixels of the picture as it is seen: turned as its EXIF orientation says.
        size: Height and width of that.
    """

    objects: Objects
    size: tuple[int, int]


class BoxAnswers(Answers):
    """The objects of all pictures, in memory.

    Args:
        boxes: float32 [M, 4], of all pictures one after the other, see `Objects`: in pixels of the picture as it is
            seen.
        labels: int64 [M].
        ignored: bool [M].
        offsets: int64 [N + 1]: of picture i they are those from ``offsets[i]`` on, before ``offsets[i + 1]``.
        sizes: int64 [N, 2]: height and width of each picture as it is seen.
    """

    kind = "detection"
    form = "boxes"

    def __init__(
        self,
        boxes: NDArray[np.float32],
        labels: NDArray[np.int64],
        ignored: NDArray[np.bool_],
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> None:
        self.boxes, self.labels, self.ignored = boxes, labels, ignored
        self.offsets, self.sizes = offsets, sizes

    @classmethod
    def of(cls, pictures: Sequence[Drawn]) -> BoxAnswers:
        """From the objects of each picture."""
        counts = [len(each.objects) for each in pictures]
        parts = [each.objects for each in pictures] or [Objects.none()]
        return cls(
            torch.cat([each.boxes for each in parts]).numpy(),
            torch.cat([each.labels for each in parts]).numpy(),
            torch.cat([each.ignored for each in parts]).numpy(),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.array([each.size for each in pictures], np.int64).reshape(-1, 2),
        )

    def __getitem__(self, index: int) -> Drawn:
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        found = (torch.from_numpy(each[part].copy()) for each in (self.boxes, self.labels, self.ignored))
        height, width = self.sizes[index]
        return Drawn(Objects(*found), (int(height), int(width)))

    @property
    def digest(self) -> str:
        """Of all boxes, their classes and the sizes of the pictures."""
        digest = hashlib.sha256()
        for each in (self.boxes, self.labels, self.ignored, self.offsets, self.sizes):
            digest.update(np.ascontiguousarray(each).tobytes())
        return digest.hexdigest()[:16]

    def renumbered(self, numbers: NDArray[np.int64]) -> BoxAnswers:
        """The same with other class indices.

        Args:
            numbers: The new one of each, int64 [classes].
        """
        return BoxAnswers(self.boxes, numbers[self.labels], self.ignored, self.offsets, self.sizes)

    def counts(self, indices: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """How many objects of each class some pictures have, int64 [classes].

        Args:
            indices: The pictures.
            classes: Their number.
        """
        owners = np.repeat(np.arange(len(self.sizes)), np.diff(self.offsets))
        return np.bincount(self.labels[np.isin(owners, indices)], minlength=classes)

    def groups(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The class of each picture that the fewest of them have; those of nothing are a group of their own.

        So a part that is drawn evenly over groups has of the rarest classes first; see `Answers.groups`.
        """
        owners = np.repeat(np.arange(len(self.sizes)), np.diff(self.offsets))
        own = np.isin(owners, indices)
        owners, labels = owners[own], self.labels[own]
        kinds = int(self.labels.max(initial=-1)) + 1
        pictures = np.bincount(np.unique(np.stack([owners, labels]), axis=1)[1], minlength=kinds)
        rarest = np.full(len(self.sizes), _NOTHING)
        np.minimum.at(rarest, owners, pictures[labels] * kinds + labels)
        return np.where(rarest == _NOTHING, kinds, rarest % max(kinds, 1))[indices].astype(np.int64)


def fit_objects(drawn: Drawn, preprocess: Preprocess) -> Objects:
    """Objects where `edgespa.data.prepare.fit_image` puts their picture.

    What the input does not show is cut off; what lies outside of it altogether is dropped.

    Args:
        drawn: On the picture as it is seen.
        preprocess: What is wanted.

    Returns:
        In pixels of the input.
    """
    place = preprocess.placement(*drawn.size)
    moved = torch.from_numpy(place.boxes(drawn.objects.boxes.numpy()).astype(np.float32).reshape(-1, 4))
    moved_objects = Objects(moved, drawn.objects.labels, drawn.objects.ignored)
    return moved_objects.inside(preprocess.height, preprocess.width)
