"""From images of any size to batches that the model takes."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgespa.config import Preprocess
from edgespa.data.images import ImageData, Progress
from edgespa.data.targets import Items, Masks, Table, Targets, augmented_alone, pool, targets_of
from edgespa.data.whole import below, summary
from edgespa.errors import DataError
from edgespa.pixels.picture import model_pixels
from edgespa.pixels.values import SCALINGS

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""(uint8 [N, C, H, W], generator) -> uint8 [N, C, H, W]; draws only from the generator. Where there are masks or
boxes it has ``with_masks`` or ``with_boxes`` too, from both to both: `edgespa.adaptation.augment.Augmentation`."""

CACHE_BYTES = 2 << 30
_IMAGE_CHANNELS = (1, 3, 4)
_CHUNK = 256
_MOST_FAULTS = 100
_MOST_WORKERS = 4


def fit_image(image: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Give an image the model's channels and size, as a bundle's runner does: `edgespa.pixels.picture.model_pixels`.

    Args:
        image: uint8 [H, W, C] with C of 1, 3 or 4.
        preprocess: What is wanted.

    Returns:
        uint8 [channels, height, width].

    Raises:
        ValueError: With its proportions kept the image would be too large.
    """
    return model_pixels(image, _plain(preprocess))


@functools.lru_cache(maxsize=8)
def _plain(preprocess: Preprocess) -> dict[str, Any]:
    return preprocess.model_dump()


class Prepared:
    """A data set at the model's size. Made by `prepare`.

    Attributes:
        classes: Class names.
        labels: Class index of each image, int64 [N]; -1 for images without classes. Targets, float32 [N, K], if the
            data have those.
        targets: What is right for each image; of a table the labels themselves.
        kind: What that is: the name of an objective.
        preprocess: The preprocessing; None where the samples are no images, see `edgespa.data.tensors`.
        preprocessed: True if the items came as float tensors, which are passed on as they are.
        cached: Whether all items are in memory; else each batch is decoded as it is needed.
        name: The name of the data set.
    """

    def __init__(
        self,
        data: ImageData,
        preprocess: Preprocess | None,
        cache: Tensor | None,
        workers: int,
        targets: Targets | None = None,
    ) -> None:
        self.classes = data.classes
        if data.targets is not None:
            self.labels = torch.from_numpy(data.targets.copy())
        else:
            self.labels = torch.from_numpy(data.labels.copy()) if data.labelled else torch.full((len(data),), -1)
        self.targets = targets or Table(self.labels)
        self.kind = data.kind
        self.answered = data.answered
        self.preprocess = preprocess
        self.preprocessed = data.preprocessed
        self.cached = cache is not None
        self.name = data.name
        self._data = data
        self._cache = cache
        self._workers = workers
        if preprocess is not None:
            self._mean = torch.tensor(preprocess.mean, dtype=torch.float32).reshape(1, -1, 1, 1)
            self._std = torch.tensor(preprocess.std, dtype=torch.float32).reshape(1, -1, 1, 1)

    def __len__(self) -> int:
        return len(self._data)

    @property
    def digest(self) -> str:
        """Of what is right for each sample, see `edgespa.data.ImageData.digest`."""
        return self._data.digest

    def file(self, index: int) -> str:
        """What a sample is called, see `edgespa.data.ImageData.file`.

        Args:
            index: Its position, from 0.
        """
        return self._data.file(index)

    def with_targets(self, targets: Targets) -> Prepared:
        """The same with something else that is right for each of them.

        Args:
            targets: What.
        """
        other = copy.copy(self)
        other.targets, other.answered = targets, True
        return other

    @property
    def axes(self) -> tuple[int, ...]:
        """Along which dimension the samples of a batch are, of each input."""
        return (0,)

    def likewise(self, data: ImageData) -> Prepared:
        """Other data as these became inputs."""
        assert self.preprocess is not None
        return prepare(data, self.preprocess)

    def num_batches(self, batch_size: int, drop_last: bool = False) -> int:
        """How many batches `batches` gives.

        Args:
            batch_size: Images in a batch.
            drop_last: Leave out a last batch that is smaller.

        Raises:
            DataError: The batch size is not positive.
        """
        if batch_size < 1:
            raise DataError(f"{self.name}: a batch size of {batch_size}", "take at least 1")
        return len(self) // batch_size if drop_last else -(-len(self) // batch_size)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        drop_last: bool = False,
        augment: Augment | None = None,
        part: tuple[int, int] = (0, 1),
        behind: int = 0,
        draws: torch.Generator | None = None,
    ) -> Iterator[tuple[Any, Any]]:
        """Go through the data once.

        Order and augmentation depend on ``shuffle_seed`` alone: an epoch that is begun again with its seed is the same.
        One that was left after some batches is gone on with by their number and the generator's state after them.

        Args:
            batch_size: Images in a batch.
            shuffle_seed: Seed of the order and of ``augment``; None for the original order (``augment`` gets seed 0).
            drop_last: Leave out a last batch that is smaller.
            augment: Changes the images before they are normalised; refused for preprocessed items.
            part: ``(i, n)`` gives only the ith of n interleaved parts of each batch, as one of n processes takes it;
                together they are the batch, augmented alike.
            behind: Batches that are left out at the beginning.
            draws: What ``augment`` draws from, as it was left; seeded anew where no batch is behind.

        Yields:
            Images, float32 [N, C, H, W], normalised, or `edgespa.data.inputs.Inputs`; and what is right for them:
            labels, int64 [N]; targets, float32 [N, K]; masks, int64 [N, H, W]; or what a data set gives, put together.

        Raises:
            DataError: An image cannot be read, or ``augment`` does not fit.
        """
        count = self.num_batches(batch_size, drop_last)
        if augment is not None and self.preprocessed:
            raise DataError(
                f"{self.name}: the items are preprocessed tensors, which are not augmented here",
                "augment inside the data set, or let it return images",
            )
        if augment is not None:
            self.targets.require_movable(augment)
        return self._batches(batch_size, count, shuffle_seed, augment, part, behind, draws)

    def _batches(
        self,
        batch_size: int,
        count: int,
        shuffle_seed: int | None,
        augment: Augment | None,
        part: tuple[int, int],
        behind: int,
        draws: torch.Generator | None,
    ) -> Iterator[tuple[Any, Any]]:
        generator = torch.Generator().manual_seed(shuffle_seed or 0)
        order = torch.arange(len(self))
        if shuffle_seed is not None:
            order = torch.randperm(len(self), generator=generator)
        if draws is not None:
            if not behind:
                draws.set_state(generator.get_state())
            generator = draws
        chunks = [order[start * batch_size : (start + 1) * batch_size] for start in range(behind, count)]
        own = slice(part[0], None, part[1])
        if augment is None:
            chunks = [chunk[own] for chunk in chunks]
        for chunk, raw in zip(chunks, self._read_all(chunks, answers=True), strict=True):
            if augment is None:
                inputs = self._normalise(raw)
                yield inputs, self.targets.beside(inputs, chunk)
            elif (both := self.targets.augmented(raw, chunk, augment, generator)) is not None:
                changed, targets = both  # it draws for the whole batch
                yield self._normalise(changed[own]), targets[own]
            else:
                inputs = self._normalise(augmented_alone(raw, augment, generator)[own])
                yield inputs, self.targets.beside(inputs, chunk[own])

    def tensor(self, indices: Sequence[int] | NDArray[np.int64] | Tensor) -> Any:
        """Some images as the model takes them.

        Args:
            indices: Positions, from 0.

        Returns:
            float32 [N, C, H, W], normalised; or `edgespa.data.inputs.Inputs`.

        Raises:
            DataError: An image cannot be read.
        """
        chunk = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        return self._normalise(next(self._read_all([chunk])))

    def pixels(self, indices: Sequence[int] | NDArray[np.int64] | Tensor) -> Tensor:
        """Some images at the model's size, before they are normalised.

        Args:
            indices: Positions, from 0.

        Returns:
            uint8 [N, C, H, W].

        Raises:
            DataError: An image cannot be read, or the items are preprocessed tensors.
        """
        if self.preprocessed:
            raise DataError(f"{self.name}: preprocessed tensors have no pixels", "let the data set return images")
        pixels: Tensor = next(self._read_all([torch.as_tensor(indices, dtype=torch.int64).reshape(-1)]))
        return pixels

    def _normalise(self, raw: Any) -> Any:
        if self.preprocessed or self.preprocess is None:
            return raw
        # As `edgespa.pixels.values.normalised`, which a stand-alone runner has: results are equal to the last bit.
        by, less = SCALINGS[self.preprocess.scale]
        values: Tensor = raw.to(torch.float32).div_(by).sub_(less).sub_(self._mean).div_(self._std)
        return values

    def _read_all(self, chunks: list[Tensor], answers: bool = False) -> Iterator[Any]:
        """Raw items of each chunk of positions, in order; with what is right for them, if that is to be read beside."""
        preprocess = self.preprocess
        assert preprocess is not None
        if self._cache is not None:
            for chunk in chunks:
                yield self._cache[chunk]
            return
        with pool(self._workers) as threads:

            def one(index: int) -> Tensor:
                item = _item(self._data, preprocess, index)
                if answers and isinstance(self.targets, Items):
                    self.targets.fill([index])
                return item

            def begin(chunk: Tensor) -> list[Future[Tensor]]:
                return [threads.submit(one, int(index)) for index in chunk]

            # One batch ahead, so that decoding goes on while the model works.
            ahead = begin(chunks[0]) if chunks else []
            for position, chunk in enumerate(chunks):
                ready, ahead = ahead, begin(chunks[position + 1]) if position + 1 < len(chunks) else []
                items = [future.result() for future in ready]
                yield torch.stack(items) if len(chunk) else self._empty()

    def _empty(self) -> Tensor:
        assert self.preprocess is not None
        shape = (0, self.preprocess.channels, self.preprocess.height, self.preprocess.width)
        return torch.empty(shape, dtype=torch.float32 if self.preprocessed else torch.uint8)


def prepare(
    data: ImageData,
    preprocess: Preprocess,
    *,
    cache_bytes: int = CACHE_BYTES,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Bring a data set to the model's size, and keep it in memory if it fits.

    Items that come as float tensors are taken as preprocessed: neither resized nor normalised, but of the right shape.
    What is kept is read once; randomness in a user's data set is then drawn once, too.

    Args:
        data: The images.
        preprocess: The model's input.
        cache_bytes: The most memory to keep images in; beyond it each batch is decoded when it is needed.
        workers: Threads that decode; by default one per core, at most 4.
        progress: Called with (done, total) while images are read into memory.

    Raises:
        DataError: There are no images, an image cannot be read, or the number of channels is not 1, 3 or 4.
    """
    if len(data) == 0:
        raise DataError(f"{data.name}: no images", "take a larger part of the data")
    if preprocess.channels not in _IMAGE_CHANNELS and not data.preprocessed:
        raise DataError(
            f"{data.name}: the model takes {preprocess.channels} channels, and images have 1, 3 or 4",
            "give a data set (module:callable) that returns preprocessed float tensors",
        )
    workers = workers or min(_MOST_WORKERS, os.cpu_count() or 1)
    shape = (len(data), preprocess.channels, preprocess.height, preprocess.width)
    dtype = torch.float32 if data.preprocessed else torch.uint8
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    targets: Targets | None = None
    if not data.has_table:
        targets = targets_of(data, preprocess, workers)
    if size > cache_bytes:
        return Prepared(data, preprocess, None, workers, targets)
    cache = torch.empty(shape, dtype=dtype)
    if isinstance(targets, Masks | Items):
        targets.keep()
    array = data.array if _same_size(data.image_shape, preprocess) else None
    if array is not None:
        cache.copy_(torch.from_numpy(array).permute(0, 3, 1, 2))
        if progress is not None:
            progress(len(data), len(data))
        if isinstance(targets, Masks | Items):
            targets.fill(range(len(data)))
        return Prepared(data, preprocess, cache, workers, targets)

    faults: dict[int, DataError] = {}

    def fill(start: int) -> int:
        stop = min(start + _CHUNK, len(data))
        for index in range(start, stop):
            if len(faults) >= _MOST_FAULTS:
                break
            try:
                cache[index] = _item(data, preprocess, index)
                if isinstance(targets, Masks | Items):
                    targets.fill([index])
            except DataError as error:
                if not data.in_files:
                    raise
                faults[index] = error
        return stop

    with pool(workers) as threads:
        for done in threads.map(fill, range(0, len(data), _CHUNK)):
            if progress is not None:
                progress(done, len(data))
    if faults:
        first = faults[min(faults)]
        if len(faults) == 1:
            raise first
        told = [below(data, index, faults[index].message) for index in sorted(faults)]
        raise DataError(summary(data.name, told, len(data)), first.hint)
    return Prepared(data, preprocess, cache, workers, targets)


def _same_size(image_shape: tuple[int, int, int] | None, preprocess: Preprocess) -> bool:
    """Whether nothing is to be done but to repeat grey values."""
    if image_shape is None:
        return False
    height, width, channels = image_shape
    fits = channels == preprocess.channels or (channels == 1 and preprocess.channels == 3)
    return fits and preprocess.channel_order == "rgb" and preprocess.placement(height, width).unchanged


def _item(data: ImageData, preprocess: Preprocess, index: int) -> Tensor:
    if not data.preprocessed:
        image = data.image(index)
        try:
            fitted = fit_image(image, preprocess)
        except ValueError as error:
            raise DataError(
                f"{data.name}: item {index}: {error}", "leave this image out, or give --resize stretch"
            ) from error
        # A copy, because Pillow's memory is not writable.
        return torch.from_numpy(np.array(fitted, order="C"))
    tensor = data.tensor(index)
    wanted = (preprocess.channels, preprocess.height, preprocess.width)
    if tuple(tensor.shape) != wanted:
        raise DataError(
            f"{data.name}: item {index} is a preprocessed tensor {list(tensor.shape)}, the model takes {list(wanted)}",
            "resize inside the data set, or let it return images",
        )
    return tensor
