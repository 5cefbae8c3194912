"""Key points that were drawn on pictures: each thing a sample, or each picture where no picture has two of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgespa.data.drawn.coco import KeyPoints
from edgespa.data.drawn.marked import Looked
from edgespa.data.points import PointAnswers, windows_of
from edgespa.errors import DataError


@dataclasses.dataclass(frozen=True)
class Things:
    """Samples with key points.

    Attributes:
        files: The pictures.
        answers: The key points of each sample.
        windows: What of which picture each sample is: owners int64 [N] and int64 [N, 4]; None: each is a whole picture.
    """

    files: list[str]
    answers: PointAnswers
    windows: tuple[NDArray[np.int64], NDArray[np.int64]] | None


def things_of(good: Sequence[Looked], points: KeyPoints, title: str) -> Things:
    """The things that have a key point; crowds and pictures without one are left out.

    Args:
        good: What is drawn on each picture.
        points: What the key points are.
        title: Of the data, for messages.

    Raises:
        DataError: There are none.
    """
    chosen = [
        (index, row)
        for index, each in enumerate(good)
        for row, mark in enumerate(each.marked.marks)
        if not mark.ignored and (each.points[row, :, 2] > 0).any()
    ]
    if not chosen:
        raise DataError(f"{title}: nothing in it has a key point", "name another file or split")
    used = sorted({index for index, _ in chosen})
    place = {index: number for number, index in enumerate(used)}
    owners = np.array([place[index] for index, _ in chosen], np.int64)
    found = np.stack([good[index].points[row] for index, row in chosen]).astype(np.float32)
    boxes = np.stack([good[index].boxes[row] for index, row in chosen])
    sizes = np.array([good[index].size for index, _ in chosen], np.int64)
    files = [good[index].marked.picture for index in used]
    windows = None
    if len(used) < len(chosen):
        cut = windows_of(boxes, sizes)
        found[:, :, :2] -= cut[:, None, :2]
        sizes = (cut[:, 2:] - cut[:, :2])[:, ::-1].copy()
        windows = owners, cut
    return Things(files, PointAnswers(found, sizes, sides_of(points), points.lines), windows)


def sides_of(points: KeyPoints) -> tuple[tuple[int, int], ...] | None:
    """Which key points change places in a mirror; None where their names do not say it of all of them."""
    paired = {number for pair in points.pairs for number in pair}
    sided = {n for n, each in enumerate(points.names) if re.search(r"left|right|(?<![a-z])[lr](?![a-z])", each.lower())}
    return points.pairs if paired and sided <= paired else None
