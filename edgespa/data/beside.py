"""What a data set of the user's gives beside an image: rows of numbers, boxes, or pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edgespa.data.arrays import checked_targets
from edgespa.data.boxes import BoxAnswers, Drawn, Objects
from edgespa.data.drawn.marked import box_problem
from edgespa.data.images import Kind, Progress
from edgespa.data.pictures import PictureAnswers, misfit, times
from edgespa.errors import DataError

_REPORT_EVERY = 256
_PICTURE = "give uint8, or floating-point from 0 to 1: [H, W, C] in arrays and [C, H, W] in tensors; nan: nobody knows"
_BOXES = "give {'boxes': [n, 4] x1, y1, x2, y2 in pixels of the image, 'labels': [n] from 0 without a background}"


def is_row(answer: Any) -> bool:
    """Whether an answer is numbers to predict, or noes and yeses: floating, or whole ones in one dimension."""
    if isinstance(answer, float | np.floating):
        return True
    if not isinstance(answer, Tensor | np.ndarray):
        return False
    floating = answer.is_floating_point() if isinstance(answer, Tensor) else answer.dtype.kind == "f"
    return answer.ndim < 2 and (bool(floating) or (answer.ndim == 1 and len(answer) > 1))


def rows_of(
    read: Callable[[int], Any], count: int, title: str, progress: Progress | None
) -> tuple[NDArray[np.float32], Kind]:
    """All rows, float32 [N, K], and what they are: ``regression`` or ``multi-label``.

    Args:
        read: Gives one.
        count: How many there are.
        title: Of the data, for messages.
        progress: Called with (done, total).

    Raises:
        DataError: They are of different widths, not finite, or whole numbers other than 0 and 1.
    """
    rows: list[NDArray[Any]] = []
    for index in range(count):
        answer = read(index)
        row = np.asarray(answer.detach().cpu() if isinstance(answer, Tensor) else answer)
        if rows and (row.shape, row.dtype.kind) != (rows[0].shape, rows[0].dtype.kind):
            raise DataError(
                f"{title}: item {index} has {row.shape} of {row.dtype} beside its image, item 0 {rows[0].shape} of "
                f"{rows[0].dtype}",
                "give as many numbers of one type for each image",
            )
        rows.append(row)
        _tell(progress, index + 1, count)
    table = np.stack(rows).reshape(count, -1)
    if table.dtype.kind == "f" and table.shape[1] > 1 and np.isin(table, (0, 1)).all() and (table.sum(1) == 1).all():
        raise DataError(
            f"{title}: floating-point rows with one 1 each",
            "give the number of the class, argmax(1); or several labels as integers or booleans",
        )
    return checked_targets(table, count, title)


def is_boxes(answer: Any) -> bool:
    """Whether an answer is objects of an image: `Objects`, or a dict of ``boxes`` and ``labels``."""
    return isinstance(answer, Objects) or (isinstance(answer, Mapping) and {"boxes", "labels"} <= set(answer))


def boxes_of(
    read: Callable[[int], tuple[Any, tuple[int, int]]], count: int, title: str, progress: Progress | None
) -> BoxAnswers:
    """All objects.

    Args:
        read: Gives those of an image, and its height and width.
        count: How many images there are.
        title: Of the data, for messages.
        progress: Called with (done, total).

    Raises:
        DataError: Those of an image are none; the message names it.
    """
    found = []
    for index in range(count):
        answer, size = read(index)
        found.append(Drawn(_objects(answer, size, f"{title}: item {index}"), size))
        _tell(progress, index + 1, count)
    return BoxAnswers.of(found)


def is_picture(answer: Any) -> bool:
    """Whether an answer is a picture that is wanted: in colour, or with channels; others may be masks."""
    if isinstance(answer, Image.Image):
        return answer.mode in ("RGB", "RGBA", "F")
    return isinstance(answer, Tensor | np.ndarray) and answer.ndim == 3


def pictures_of(
    read: Callable[[int], tuple[Any, tuple[int, int]]], count: int, title: str, progress: Progress | None
) -> PictureAnswers:
    """All wanted pictures, each of which is looked at once and read again when it is asked for.

    Args:
        read: Gives that of an image, and the image's height and width.
        count: How many images there are.
        title: Of the data, for messages.
        progress: Called with (done, total).

    Raises:
        DataError: One is no picture, or of another size than the others have beside their images.
    """
    sizes: list[tuple[int, int]] = []
    forms: list[tuple[int, int, int]] = []
    for index in range(count):
        answer, size = read(index)
        height, width, channels = _picture(answer, f"{title}: item {index}").shape
        form = height, width, channels
        first = (sizes or [size])[0], (forms or [form])[0]
        if problem := misfit(size, form, *first):
            raise DataError(
                f"{title}: the wanted picture of item {index} {problem}",
                "give all as large as their images, or the same whole number of times as large",
            )
        sizes.append(size)
        forms.append(form)
        _tell(progress, index + 1, count)
    return PictureAnswers(
        lambda index: _picture(read(index)[0], f"{title}: item {index}"),
        np.array(sizes, np.int64),
        times(sizes[0], forms[0]),
        forms[0][2],
        f"{count} pictures",
    )


def _picture(answer: Any, label: str) -> NDArray[np.float32]:
    """float32 [H, W, C]: of integers from 0 to 1, of floating-point numbers as they are."""
    if not is_picture(answer):
        raise DataError(f"{label} has {type(answer).__name__} beside its image, item 0 a picture", _PICTURE)
    if isinstance(answer, Tensor):
        values = answer.detach().cpu().numpy()
        values = values.transpose(1, 2, 0) if values.ndim == 3 else values
    else:
        values = np.asarray(answer)
    values = values[:, :, None] if values.ndim == 2 else values
    if values.dtype.kind == "f" and not np.isinf(values).any():
        return values.astype(np.float32)
    if values.dtype != np.uint8:
        raise DataError(f"{label} has a picture of {values.dtype} that is wanted", _PICTURE)
    return values.astype(np.float32) / np.float32(255)


def _objects(answer: Any, size: tuple[int, int], label: str) -> Objects:
    if not is_boxes(answer):
        raise DataError(f"{label} has no boxes, item 0 has", _BOXES)
    parts = dict(answer) if isinstance(answer, Mapping) else vars(answer)
    try:
        boxes = torch.as_tensor(parts["boxes"], dtype=torch.float32).detach().cpu().reshape(-1, 4)
        labels = torch.as_tensor(parts["labels"]).detach().cpu().reshape(-1)
        ignored = next((parts[key] for key in ("ignored", "iscrowd", "difficult") if key in parts), None)
        ignored = torch.zeros(len(boxes)) if ignored is None else torch.as_tensor(ignored).detach().cpu().reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{label}: {str(error).splitlines()[0]}", _BOXES) from error
    if not len(boxes) == len(labels) == len(ignored):
        raise DataError(f"{label} has {len(boxes)} boxes and {len(labels)} labels", _BOXES)
    if labels.is_floating_point() and len(labels):
        raise DataError(f"{label} has labels of {labels.dtype}", _BOXES)
    for box, number in zip(boxes.tolist(), labels.tolist(), strict=True):
        if problem := box_problem(box, *size):
            raise DataError(f"{label}: {problem}", _BOXES)
        if number < 0:
            raise DataError(f"{label} has the label {number}", _BOXES)
    return Objects(boxes, labels.long(), ignored.bool()).inside(*size)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None and (done % _REPORT_EVERY == 0 or done == total):
        progress(done, total)
