"""What is right for each sample, as batches have it: rows of a table, masks and boxes at the model's size, anything."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from edgespa.config import Preprocess
from edgespa.data.answers import IGNORED
from edgespa.data.boxes import Objects, fit_objects
from edgespa.data.images import ImageData
from edgespa.data.pictures import PictureAnswers, fit_picture
from edgespa.data.points import PointAnswers, Points, fit_points
from edgespa.errors import DataError

if TYPE_CHECKING:
    from edgespa.data.prepare import Augment


_KEPT_BYTES = 1 << 30


class Targets(ABC):
    """What is right for the samples of a data set.

    Attributes:
        table: All of it, where it is rows: int64 [N], or float32 [N, K].
        shape: That of one sample, where it is a picture.
    """

    table: Tensor | None = None
    shape: tuple[int, ...] | None = None

    @abstractmethod
    def of(self, chunk: Tensor) -> Any:
        """That of some samples, put together.

        Args:
            chunk: Their positions, int64 [n].
        """

    def beside(self, inputs: Any, chunk: Tensor) -> Any:
        """The same, where it may depend on what was made of the samples.

        Args:
            inputs: As the model gets them.
            chunk: Their positions, int64 [n].
        """
        return self.of(chunk)

    def augmented(
        self, raw: Tensor, chunk: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, Any] | None:
        """Images and what is right for them, changed alike; None where nothing has to move with an image.

        Args:
            raw: uint8 [n, C, H, W].
            chunk: Their positions, int64 [n].
            augment: Changes images.
            generator: What it draws from.

        Raises:
            DataError: It knows images alone.
        """
        return None

    def require_movable(self, augment: Augment) -> None:
        """Refuse an augmentation after which nobody knows what is right.

        Raises:
            DataError: It is one.
        """
        return None


class Table(Targets):
    """Rows.

    Args:
        table: int64 [N], or float32 [N, K].
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self._table = table

    def of(self, chunk: Tensor) -> Tensor:
        """``[n]`` or ``[n, K]``."""
        return self._table[chunk]


class Masks(Targets):
    """Class indices of pixels, as the model's input has them.

    Args:
        data: Has them.
        preprocess: Wanted height and width.
        workers: Threads that read.
    """

    def __init__(self, data: ImageData, preprocess: Preprocess, workers: int) -> None:
        self._data = data
        self._preprocess = preprocess
        self._workers = workers
        self._cache: Tensor | None = None

    def keep(self) -> None:
        """Have a place in memory for all of them, which `fill` fills."""
        self._cache = torch.empty((len(self._data), *self._size), dtype=torch.uint8)

    def fill(self, indices: Iterable[int]) -> None:
        """Read some into memory.

        Raises:
            DataError: One cannot be read.
        """
        assert self._cache is not None
        for index in indices:
            self._cache[index] = self._read(index)

    def of(self, chunk: Tensor) -> Tensor:
        """int64 [n, H, W]."""
        if self._cache is not None:
            return self._cache[chunk].long()
        if not len(chunk):
            return torch.empty((0, *self._size), dtype=torch.int64)
        with pool(self._workers) as threads:
            return torch.stack(list(threads.map(self._read, chunk.tolist()))).long()

    def augmented(
        self, raw: Tensor, chunk: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See `Targets.augmented`."""
        together = _moving(augment, "with_masks", self._data.name)
        images, masks = together(raw, self.of(chunk), generator)
        return images, masks

    @property
    def _size(self) -> tuple[int, int]:
        return self._preprocess.height, self._preprocess.width

    def _read(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(fit_mask(self._data.answer(index), self._preprocess), order="C"))


class Boxes(Targets):
    """Objects, as the model's input has them.

    Args:
        data: Has them.
        preprocess: Wanted height and width.
    """

    def __init__(self, data: ImageData, preprocess: Preprocess) -> None:
        self._data = data
        self._preprocess = preprocess

    def of(self, chunk: Tensor) -> list[Objects]:
        """Those of each picture; they are in memory, and moving them costs less than keeping both."""
        return [fit_objects(self._data.answer(index), self._preprocess) for index in chunk.tolist()]

    def augmented(
        self, raw: Tensor, chunk: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, list[Objects]]:
        """See `Targets.augmented`."""
        together = _moving(augment, "with_boxes", self._data.name)
        images, objects = together(raw, self.of(chunk), generator)
        return images, objects


class KeyPoints(Targets):
    """Key points, as the model's input has them.

    Args:
        data: Has them.
        answers: All of its source.
        preprocess: Wanted height and width.
    """

    def __init__(self, data: ImageData, answers: PointAnswers, preprocess: Preprocess) -> None:
        self._data = data
        self._pairs = answers.pairs
        self._preprocess = preprocess

    def of(self, chunk: Tensor) -> Points:
        """Those of some images."""
        size = torch.tensor([self._preprocess.height, self._preprocess.width]).float().expand(len(chunk), 2)
        count = len(self._data.classes)
        found = [fit_points(self._data.answer(index), self._preprocess) for index in chunk.tolist()]
        return Points(torch.stack(found) if found else torch.zeros(0, count, 3), size)

    def augmented(
        self, raw: Tensor, chunk: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, Points]:
        """See `Targets.augmented`."""
        together = _moving(augment, "with_points", self._data.name)
        images, points = together(raw, self.of(chunk), self._pairs, generator)
        return images, points

    def require_movable(self, augment: Augment) -> None:
        """See `Targets.require_movable`."""
        if self._pairs is None and getattr(augment, "mirrors", False):
            raise DataError(
                f"{self._data.name}: which key points are each other's left and right in a mirror is not known",
                "leave flip out of --augment, or name them so: left_eye, right_eye",
            )


class Pictures(Targets):
    """Wanted pictures, as large as they are for the model's input.

    Args:
        data: Has them.
        answers: All of its source.
        preprocess: Height and width of the input.
        workers: Threads that read.
    """

    def __init__(self, data: ImageData, answers: PictureAnswers, preprocess: Preprocess, workers: int) -> None:
        self._data = data
        self._factor = answers.factor
        self._preprocess = preprocess
        self._workers = workers
        self.shape = (answers.channels, answers.factor * preprocess.height, answers.factor * preprocess.width)
        size = 4 * len(data) * math.prod(self.shape)
        self._kept: dict[int, Tensor] | None = {} if size <= _KEPT_BYTES else None

    def of(self, chunk: Tensor) -> Tensor:
        """float32 [n, C, h, w], nan where nobody knows."""
        assert self.shape is not None
        if not len(chunk):
            return torch.empty((0, *self.shape))
        with pool(self._workers) as threads:
            return torch.stack(list(threads.map(self._read, chunk.tolist())))

    def augmented(
        self, raw: Tensor, chunk: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See `Targets.augmented`."""
        together = _moving(augment, "with_pictures", self._data.name)
        images, wanted = together(raw, self.of(chunk), generator)
        return images, wanted

    def require_movable(self, augment: Augment) -> None:
        """See `Targets.require_movable`."""
        assert self.shape is not None
        if self.shape[0] == self._preprocess.channels and getattr(augment, "recolours", False):
            raise DataError(
                f"{self._data.name}: pictures of other colours than those that are wanted teach to change colours",
                "leave colour out of --augment",
            )
        if getattr(augment, "blurs", False):
            raise DataError(
                f"{self._data.name}: an image and what is wanted for it cannot be resized alike",
                "leave scale out of --augment",
            )

    def _read(self, index: int) -> Tensor:
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        picture, size = self._data.answer(index)
        made = torch.from_numpy(fit_picture(picture, size, self._preprocess, self._factor))
        if self._kept is not None:
            self._kept[index] = made
        return made


class Items(Targets):
    """Whatever a data set gives.

    Args:
        data: Has them.
    """

    def __init__(self, data: ImageData) -> None:
        self._data = data
        self._read: dict[int, Any] = {}
        self._kept = False

    def keep(self) -> None:
        """Have all of them in memory, where `fill` puts them."""
        self._kept = True

    def fill(self, indices: Iterable[int]) -> None:
        """Read some, each just after its input and in the same thread: they are then of one draw of the data set.

        Raises:
            DataError: One cannot be read.
        """
        for index in indices:
            self._read[index] = self._data.answer(index)

    def of(self, chunk: Tensor) -> Any:
        """Put together as torch does it: tensors stacked, numbers to tensors, dicts and tuples part by part.

        Raises:
            DataError: They are of different shapes or types.
        """
        try:
            return default_collate([self._one(index) for index in chunk.tolist()])
        except (RuntimeError, TypeError, ValueError) as error:
            raise DataError(
                f"{self._data.name}: the answers of a batch cannot be put together: {str(error).splitlines()[0]}",
                "let the data set give answers of one shape and type: padded, with their number beside them",
            ) from error

    def require_movable(self, augment: Augment) -> None:
        """See `Targets.require_movable`."""
        if getattr(augment, "moves", True):
            raise DataError(
                f"{self._data.name}: what is right for an image may lie elsewhere in it once it is augmented",
                "augment inside the data set, where both can be moved",
            )

    def _one(self, index: int) -> Any:
        if index not in self._read:
            return self._data.answer(index)
        return self._read[index] if self._kept else self._read.pop(index)


def _moving(augment: Augment, name: str, data: str) -> Callable[..., tuple[Tensor, Any]]:
    """What of an augmentation moves answers with their images."""
    together: Callable[..., tuple[Tensor, Any]] | None = getattr(augment, name, None)
    if together is None:
        raise DataError(f"{data}: this augmentation moves images alone", f"give it {name}")
    return together


def targets_of(data: ImageData, preprocess: Preprocess, workers: int) -> Targets:
    """What is right for each sample, where that is no row of a table.

    Args:
        data: Has it.
        preprocess: Where images land in the input.
        workers: Threads that read.
    """
    if data.has_masks:
        return Masks(data, preprocess, workers)
    if isinstance(data.answers, PointAnswers):
        return KeyPoints(data, data.answers, preprocess)
    if isinstance(data.answers, PictureAnswers):
        return Pictures(data, data.answers, preprocess, workers)
    return Boxes(data, preprocess) if data.has_boxes else Items(data)


def augmented_alone(raw: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """Images that nothing has to go along with, changed.

    Raises:
        DataError: They come back in another form.
    """
    changed = augment(raw, generator)
    if changed.shape != raw.shape or changed.dtype != torch.uint8:
        raise DataError(
            f"augmentation turned {tuple(raw.shape)} of uint8 into {tuple(changed.shape)} of {changed.dtype}",
            "an augmentation keeps shape and type",
        )
    return changed


def fit_mask(mask: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
    """A mask where `edgespa.data.prepare.fit_image` puts its image: the nearest value, `IGNORED` where there is none.

    Args:
        mask: uint8 [H, W].
        preprocess: What is wanted.
    """
    return preprocess.placement(*mask.shape).mask(mask, IGNORED)


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that read; what is not begun when the block is left is not begun any more.

    Args:
        workers: Their number.
    """
    threads = ThreadPoolExecutor(workers, thread_name_prefix="edgespa-decode")
    try:
        yield threads
    finally:
        # A reader that stops early, or at a damaged image, must not wait for the rest.
        threads.shutdown(wait=True, cancel_futures=True)
