"""What is right for each sample, as batches have it: rows of a table, masks and boxes at the model's size, anything."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
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
from edgespa.errors import DataError

if TYPE_CHECKING:
    from edgespa.data.prepare import Augment


class Targets(ABC):
    """What is right for the samples of a data set.

    Attributes:
        table: All of it, where it is rows: int64 [N], or float32 [N, K].
    """

    table: Tensor | None = None

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
        """Images and their masks, changed alike.

        Raises:
            DataError: The augmentation knows images alone.
        """
        together = getattr(augment, "with_masks", None)
        if together is None:
            raise DataError(f"{self._data.name}: this augmentation does not move masks", "give it with_masks")
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

    def _one(self, index: int) -> Any:
        if index not in self._read:
            return self._data.answer(index)
        return self._read[index] if self._kept else self._read.pop(index)


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
