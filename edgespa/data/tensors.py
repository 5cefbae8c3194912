"""From samples that are no images to batches that the model takes: tensors as they are, one or several."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from edgespa.config import Preprocess
from edgespa.data.images import ImageData, Progress
from edgespa.data.inputs import Inputs, Taken, matched, takes_of
from edgespa.data.prepare import CACHE_BYTES, Prepared, prepare
from edgespa.data.targets import Items, Targets
from edgespa.errors import DataError
from edgespa.graph.program import Program

_REPORT_EVERY = 256


class PreparedTensors(Prepared):
    """A data set of tensors as a program takes them. Made by `prepare_tensors`.

    Args:
        data: The samples.
        takes: What the program takes of each.
        cache: Of each input all samples, ``[N, ...]``; None: each is read as it is needed.
        targets: What is right where that is no row of a table.
    """

    def __init__(
        self, data: ImageData, takes: tuple[Taken, ...], cache: list[Tensor] | None, targets: Targets | None
    ) -> None:
        super().__init__(data, None, None, 1, targets)
        self.takes = takes
        self.cached = cache is not None
        self._tensors = cache

    @property
    def axes(self) -> tuple[int, ...]:
        """See `Prepared.axes`."""
        return tuple(each.axis for each in self.takes)

    def likewise(self, data: ImageData) -> Prepared:
        """See `Prepared.likewise`."""
        return prepare_tensors(data, self.takes)

    def _read_all(self, chunks: list[Tensor], answers: bool = False) -> Iterator[Inputs]:
        for chunk in chunks:
            if self._tensors is not None:
                yield self._batch([each[chunk] for each in self._tensors])
                continue
            samples = []
            for index in chunk.tolist():
                samples.append(_sample(self._data, self.takes, index))
                if answers and isinstance(self.targets, Items):
                    self.targets.fill([index])
            columns = zip(*samples, strict=True) if samples else [()] * len(self.takes)
            yield self._batch([
                torch.stack(column) if column else torch.empty((0, *each.shape), dtype=each.dtype)
                for each, column in zip(self.takes, columns, strict=True)
            ])  # fmt: skip

    def _batch(self, parts: list[Tensor]) -> Inputs:
        placed = tuple(part.movedim(0, each.axis) for part, each in zip(parts, self.takes, strict=True))
        return placed if len(placed) > 1 else placed[0]


def prepare_tensors(
    data: ImageData, takes: tuple[Taken, ...], *, cache_bytes: int = CACHE_BYTES, progress: Progress | None = None
) -> PreparedTensors:
    """Check every sample against what a program takes, and keep them in memory if they fit.

    Args:
        data: The samples.
        takes: From `edgespa.data.inputs.takes_of`.
        cache_bytes: The most memory to keep them in.
        progress: Called with (done, total).

    Raises:
        DataError: There are none; they are images; or one is of another shape, type or number of inputs.
    """
    if len(data) == 0:
        raise DataError(f"{data.name}: no samples", "take a larger part of the data")
    if not data.preprocessed:
        raise DataError(
            f"{data.name} has images, and the model takes {'; '.join(map(str, takes))}",
            "give an .npz of arrays named as the inputs, or a data set that returns tensors: module:callable",
        )
    targets = None if data.has_table else Items(data)
    _sample(data, takes, 0)
    if len(data) * sum(math.prod(each.shape) * each.dtype.itemsize for each in takes) > cache_bytes:
        return PreparedTensors(data, takes, None, targets)
    cache = [torch.empty((len(data), *each.shape), dtype=each.dtype) for each in takes]
    if targets is not None:
        targets.keep()
    for index in range(len(data)):
        for store, part in zip(cache, _sample(data, takes, index), strict=True):
            store[index] = part
        if targets is not None:
            targets.fill([index])
        if progress is not None and ((index + 1) % _REPORT_EVERY == 0 or index + 1 == len(data)):
            progress(index + 1, len(data))
    return PreparedTensors(data, takes, cache, targets)


def prepare_for(
    program: Program, data: ImageData, preprocess: Preprocess | None, progress: Progress | None = None
) -> Prepared:
    """Data as a program takes them.

    Args:
        program: The program.
        data: The samples.
        preprocess: How an image becomes its input; None where it takes no images.
        progress: Called with (done, total).
    """
    if preprocess is not None:
        return prepare(data, preprocess, progress=progress)
    return prepare_tensors(data, takes_of(program), progress=progress)


def _sample(data: ImageData, takes: tuple[Taken, ...], index: int) -> tuple[Tensor, ...]:
    return matched(data.tensors(index), takes, f"{data.name}: sample {index}")
