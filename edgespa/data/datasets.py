"""The user's own ``torch.utils.data.Dataset``."""

from __future__ import annotations

import reprlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from edgespa.data.answers import ItemAnswers, as_mask, look_at_masks, picture_as_mask
from edgespa.data.beside import boxes_of, is_boxes, is_picture, is_row, pictures_of, rows_of
from edgespa.data.images import ImageData, Progress
from edgespa.data.labels import checked_labels, no_classes
from edgespa.data.source import ImageSource
from edgespa.errors import DataError, EdgespaError
from edgespa.models.imports import find_object
from edgespa.pixels.picture import TooManyBits, upright_pixels

_ITEM = (
    "items must be (image, label): a PIL image, a uint8 array [H, W, C], a uint8 tensor [C, H, W], "
    "or a float tensor [C, H, W] that is preprocessed already; or (inputs, label) of a model that takes no images: one "
    "array or tensor, a tuple of them, or a dict by the names of its inputs; label an integer from 0, a row of "
    "numbers, a mask of class numbers [H, W], a dict of boxes and labels, or a picture"
)
_REPORT_EVERY = 256
# Of items that are dicts, as Hugging Face's data sets give them.
_IMAGE_KEYS = ("image", "img", "pixel_values")
_LABEL_KEYS = ("label", "labels", "targets", "target")


class DatasetSource(ImageSource):
    """Items of a data set, read one at a time, because user code is seldom made for threads.

    Args:
        dataset: Has ``__len__`` and ``__getitem__``; may have ``collate``, or ``collate_fn``, that makes a batch of a
            list of items: it is given one item at a time.
        spec: Its spec, for messages.
    """

    def __init__(self, dataset: Any, spec: str) -> None:
        self._dataset = dataset
        self._spec = spec
        self._lock = threading.Lock()
        self._last = threading.local()
        self._count = len(dataset)
        found = getattr(dataset, "collate", None) or getattr(dataset, "collate_fn", None)
        self._collate = found if callable(found) else None
        self.preprocessed = _is_no_image(self.item(0)[0])

    def __len__(self) -> int:
        return self._count

    def item(self, index: int) -> tuple[Any, Any]:
        """Image and label as the data set gives them; label None if it gives images alone.

        Raises:
            DataError: Reading it raised.
        """
        try:
            with self._lock:
                item = self._dataset[index]
                if self._collate is not None:
                    item = _alone(self._collate([item]))
        except EdgespaError:
            raise
        except Exception as error:  # user code
            raise DataError(
                f"{self._spec}: item {index} cannot be read: {type(error).__name__}: {error}",
                "correct the data set, or leave this item out of it",
            ) from error
        if isinstance(item, Mapping):
            image, label = (
                next((item[key] for key in keys if key in item), None) for keys in (_IMAGE_KEYS, _LABEL_KEYS)
            )
            rest = {key: each for key, each in item.items() if key not in _LABEL_KEYS}
            item = (rest if image is None else image, label)
        if not isinstance(item, tuple | list):
            item = (item, None)
        if not item:
            raise DataError(f"{self._spec}: item {index} is empty", _ITEM)
        self._last.read = (index, item[1] if len(item) > 1 else None)
        return item[0], self._last.read[1]

    def answer(self, index: int) -> Any:
        """What comes with an item; of the same draw as its image, if this thread has just read that."""
        read, label = getattr(self._last, "read", (-1, None))
        self._last.read = (-1, None)
        return label if read == index else self.item(index)[1]

    def image(self, index: int) -> NDArray[np.uint8]:
        """One image; see `ImageSource.image`."""
        raw = self.item(index)[0]
        if isinstance(raw, Image.Image):
            try:
                pixels = upright_pixels(raw)
            except TooManyBits as error:
                raise DataError(
                    f"{self._spec}: item {index} is {error}", "convert it to 8 bits, with a scale that suits the data"
                ) from error
        elif isinstance(raw, Tensor) and raw.ndim == 3:
            pixels = raw.detach().cpu().permute(1, 2, 0).numpy()
        else:
            pixels = np.asarray(raw)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
            raise DataError(
                f"{self._spec}: item {index} has an image of type {_kind(raw)}, shape {tuple(pixels.shape)}", _ITEM
            )
        return pixels

    def tensor(self, index: int) -> Tensor:
        """One preprocessed item; see `ImageSource.tensor`."""
        raw = self.item(index)[0]
        if isinstance(raw, np.ndarray) and raw.dtype.kind == "f":
            raw = torch.from_numpy(np.array(raw, order="C"))
        if not isinstance(raw, Tensor) or not raw.is_floating_point() or raw.ndim != 3:
            shape = tuple(raw.shape) if isinstance(raw, Tensor) else "none"
            raise DataError(
                f"{self._spec}: item {index} is a {_kind(raw)} of shape {shape}, and the model takes a float tensor "
                "[C, H, W]",
                _ITEM,
            )
        if not bool(torch.isfinite(raw).all()):
            raise DataError(f"{self._spec}: item {index} has values that are not finite", "correct its preprocessing")
        return raw.detach().to("cpu", torch.float32)

    def tensors(self, index: int) -> Any:
        """One item that is no image; see `ImageSource.tensors`."""
        raw = self.item(index)[0]
        if not _is_no_image(raw):
            raise DataError(f"{self._spec}: item {index} is a {_kind(raw)}, item 0 is no image", _ITEM)
        return raw if isinstance(raw, Mapping | tuple | list) else (raw,)


def load_dataset(spec: str, labelled: bool, items: str | None, progress: Progress | None) -> ImageData:
    """A data set from ``module:callable`` or ``path/file.py:callable``; also one that is finished.

    Labels are taken from its ``targets`` or ``labels`` if it has them in full, else from reading every item once.
    Class names are its ``classes``, else the numbers.
    """
    found = find_object(spec, DataError, "data set")
    dataset = found.value
    if isinstance(dataset, type) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        if not callable(dataset):
            raise DataError(f"{spec} is a {type(dataset).__name__}", "name a function that returns a Dataset")
        dataset = found.call()
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise DataError(
            f"{spec} gave a {type(dataset).__name__}, which has no length or cannot be indexed",
            "return a torch.utils.data.Dataset with __len__ and __getitem__",
        )
    return _image_data(dataset, spec, labelled, items, progress)


def of_dataset(
    given: Any, name: str, labelled: bool, items: str | None = None, progress: Progress | None = None
) -> ImageData:
    """What a Python user has at hand as images.

    Args:
        given: A ``torch.utils.data.Dataset``; a ``DataLoader``, of which the data set counts, in its own order; or
            (images, labels) or images alone as arrays or tensors, the samples first: uint8 [N, H, W, C] in arrays and
            [N, C, H, W] in tensors, or float32 [N, C, H, W] that go to the model as they are.
        name: For messages and records.
        labelled: What is right for each image is needed.
        items: That is whatever comes with it, for the objective of this name.
        progress: Called with (done, total) if it has to be read through for its labels.

    Raises:
        DataError: It is something else, or its items are.
    """
    if isinstance(given, DataLoader):
        given = given.dataset if given.collate_fn is default_collate else _Collated(given.dataset, given.collate_fn)
    parts = given if isinstance(given, tuple | list) and len(given) in (1, 2) else (given,)
    if all(isinstance(each, np.ndarray | Tensor) for each in parts):
        given = _Arrays(parts, name)
    if not (hasattr(given, "__getitem__") and hasattr(given, "__len__")):
        raise DataError(
            f"{name} has no length or cannot be indexed",
            "give a Dataset with __len__ and __getitem__, a DataLoader of one, (images, labels) as arrays, or a path",
        )
    return _image_data(given, name, labelled, items, progress)


class _Collated:
    """A data set whose loader makes batches in its own way."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any]) -> None:
        self._dataset = dataset
        self.collate = collate
        self.classes = getattr(dataset, "classes", None)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[index]


class _Arrays:
    """(images, labels) item by item."""

    def __init__(self, parts: Sequence[Any], name: str) -> None:
        # An array of floats is [C, H, W] per item like a tensor: nothing else could go to a model as it is.
        self._parts = [
            torch.from_numpy(np.ascontiguousarray(each, np.float32))
            if isinstance(each, np.ndarray) and each.dtype.kind == "f" and each.ndim == 4
            else each
            for each in parts
        ]
        if len({len(each) for each in parts}) > 1:
            counts = " and ".join(str(len(each)) for each in parts)
            raise DataError(f"{name}: {counts} images and labels", "give as many labels as images")

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(each[index] for each in self._parts)


def _image_data(dataset: Any, spec: str, labelled: bool, items: str | None, progress: Progress | None) -> ImageData:
    if len(dataset) == 0:
        raise DataError(f"{spec}: no images", "return a data set that is not empty")
    source = DatasetSource(dataset, spec)
    first = source.item(0)[1]
    if first is None and labelled:
        raise no_classes(spec)
    if items is not None and labelled:
        answers = ItemAnswers(source.answer, len(source), items)
        return ImageData(source, None, _named_classes(dataset), spec, answers=answers)
    if labelled and is_picture(first):
        pictures = pictures_of(lambda index: _with_size(source, index), len(source), spec, progress)
        return ImageData(source, None, (), spec, answers=pictures)
    if labelled and _is_mask(first):
        masks, classes = look_at_masks(
            lambda index: _mask(source, index, spec), len(source), _named_classes(dataset), spec
        )
        return ImageData(source, None, classes, spec, answers=masks)
    if labelled and is_row(first):
        table, kind = rows_of(lambda index: source.item(index)[1], len(source), spec, progress)
        named = _named_classes(dataset) or tuple(str(column) for column in range(table.shape[1]))
        if len(named) != table.shape[1]:
            raise DataError(f"{spec}: {table.shape[1]} columns, but {len(named)} names", "name each column")
        return ImageData(source, None, named, spec, table, kind)
    if labelled and is_boxes(first):
        boxes = boxes_of(lambda index: _with_size(source, index), len(source), spec, progress)
        return ImageData(source, None, _names_up_to(dataset, boxes.labels, spec), spec, answers=boxes)
    try:
        labels = checked_labels(_labels(dataset, source, spec, progress), len(source), spec)
    except DataError:
        if labelled:
            raise
        return ImageData(source, None, (), spec)  # masks, boxes, nothing: only images are asked for
    return ImageData(source, labels, _names_up_to(dataset, labels, spec), spec)


def _names_up_to(dataset: Any, labels: NDArray[np.int64], spec: str) -> tuple[str, ...]:
    """The names of the classes that labels number; the numbers where nothing names them."""
    highest = int(labels.max(initial=-1))
    classes = _named_classes(dataset)
    if classes and highest >= len(classes):
        raise DataError(
            f"{spec}: a label of {highest}, but {len(classes)} classes are named",
            "make classes and labels of the data set agree",
        )
    return classes or tuple(str(number) for number in range(highest + 1))


def _with_size(source: DatasetSource, index: int) -> tuple[Any, tuple[int, int]]:
    """What is right for an image, and its height and width as it is seen."""
    if source.preprocessed:
        height, width = source.tensor(index).shape[1:]
    else:
        height, width = source.image(index).shape[:2]
    return source.item(index)[1], (height, width)


def _named_classes(dataset: Any) -> tuple[str, ...]:
    names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return ()


def _is_no_image(value: Any) -> bool:
    """Whether an item goes to the model as it is: fractions, several tensors, or none of an image's form."""
    if isinstance(value, Mapping | tuple | list):
        return True
    if isinstance(value, Tensor):
        return value.is_floating_point() or value.dtype != torch.uint8 or value.ndim not in (2, 3)
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iufb" and (value.dtype != np.uint8 or value.ndim not in (2, 3))
    return False


def _alone(batch: Any) -> Any:
    """The only sample of a batch of one."""
    if isinstance(batch, Tensor | np.ndarray):
        return batch[0]
    if isinstance(batch, Mapping):
        return {key: _alone(each) for key, each in batch.items()}
    if isinstance(batch, tuple):
        return tuple(map(_alone, batch))
    if isinstance(batch, list):
        return batch[0] if len(batch) == 1 else [_alone(each) for each in batch]
    return batch


def _is_mask(answer: Any) -> bool:
    """Whether it is a picture, or whole numbers in two dimensions."""
    if isinstance(answer, Image.Image):
        return True
    if isinstance(answer, Tensor):
        return answer.ndim == 2 and not answer.is_floating_point()
    return isinstance(answer, np.ndarray) and answer.ndim == 2 and answer.dtype.kind in "iub"


def _mask(source: DatasetSource, index: int, spec: str) -> NDArray[np.uint8]:
    answer, label = source.item(index)[1], f"{spec}: the mask of item {index}"
    if not _is_mask(answer):
        raise DataError(f"{label} is a {_kind(answer)}, that of item 0 a mask", _ITEM)
    if isinstance(answer, Image.Image):
        return picture_as_mask(answer, label)
    return as_mask(answer.cpu().numpy() if isinstance(answer, Tensor) else answer, label)


def _labels(dataset: Any, source: DatasetSource, spec: str, progress: Progress | None) -> NDArray[np.generic]:
    # A transform of labels may change what `targets` says, so it is only trusted without one.
    if getattr(dataset, "target_transform", None) is None:
        for attribute in ("targets", "labels"):
            ready = getattr(dataset, attribute, None)
            if isinstance(ready, list | tuple | np.ndarray | Tensor) and len(ready) == len(source):
                array = np.asarray(ready)
                if array.ndim == 1 and array.dtype.kind in "iu" and int(array[0]) == _label(source, 0, spec):
                    return array
    labels = np.empty(len(source), dtype=np.int64)
    for index in range(len(source)):
        labels[index] = _label(source, index, spec)
        if progress is not None and ((index + 1) % _REPORT_EVERY == 0 or index + 1 == len(source)):
            progress(index + 1, len(source))
    return labels


def _label(source: DatasetSource, index: int, spec: str) -> int:
    raw = source.item(index)[1]
    if isinstance(raw, Tensor | np.ndarray) and tuple(raw.shape) in ((), (1,)):
        raw = raw.item()
    if isinstance(raw, bool) or not isinstance(raw, int | np.integer):
        shown = reprlib.repr(raw)
        raise DataError(f"{spec}: item {index} has the label {shown}, a {_kind(raw)}", _ITEM)
    return int(raw)


def _kind(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    return type(value).__name__ if dtype is None else f"{type(value).__name__} of {dtype}"
