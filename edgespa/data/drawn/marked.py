"""What a file says of a picture, looked at: that it can be, beside the picture that it is said of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgespa.data.answers import UNREADABLE
from edgespa.data.bounded import why_no_image
from edgespa.errors import DataError
from edgespa.pixels.picture import orientation, refuse_deep, stored_size, turned_size

Box = tuple[float, float, float, float]
_WORKERS = 4
_ROUNDING_PIXELS, _ROUNDING_SHARE = 2.0, 0.005
"""A box may reach that far out of its picture, in pixels or of a side: what is more is of another picture."""
_PICTURE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, RuntimeError)


class Wrong(Exception):
    """What is the matter with the annotation of one picture.

    Args:
        problem: Which file, where in it, and what.
        remedy: What to do.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


@dataclasses.dataclass(frozen=True)
class Mark:
    """One object, as a file has it.

    Attributes:
        box: x1, y1, x2, y2 from the upper left corner.
        label: Its class.
        place: Where in the file, for messages: ``line 12``.
        ignored: It is neither to be found nor wrong where found.
        points: Of a thing with key points: x, y and visibility of each (0: not there, 1: hidden, 2: seen).
    """

    box: Box
    label: int
    place: str
    ignored: bool = False
    points: tuple[tuple[float, float, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Marked:
    """What a file says of one picture.

    Attributes:
        picture: Path of the image file.
        file: Path of the file that says it, for messages.
        marks: The objects.
        size: Height and width as that file has them; None where it says nothing.
        shares: Coordinates are shares of width and height, not pixels.
        wrong: What is the matter, where it could not be read so far.
    """

    picture: str
    file: str
    marks: tuple[Mark, ...] = ()
    size: tuple[int, int] | None = None
    shares: bool = False
    wrong: Wrong | None = None


@dataclasses.dataclass(frozen=True)
class Looked:
    """The same in pixels of the picture as it is seen.

    Attributes:
        marked: What was said.
        boxes: float64 [n, 4], inside of the picture.
        points: float64 [n, K, 3].
        size: Height and width of the picture as it is seen.
    """

    marked: Marked
    boxes: NDArray[np.float64]
    points: NDArray[np.float64]
    size: tuple[int, int]


def look(
    pictures: Sequence[Marked], opened: Callable[[str], BinaryIO], where: str
) -> tuple[list[Looked], list[tuple[Marked, Wrong]]]:
    """Each annotation beside the header of its picture.

    Args:
        pictures: All of them.
        opened: Opens a picture; from several threads.
        where: The data set's own path, for messages.

    Returns:
        What can be used, in the same order, and what is wrong with the rest.
    """

    def one(marked: Marked) -> Looked | Wrong:
        try:
            if marked.wrong is not None:
                raise marked.wrong
            return _looked(marked, *_size_and_turn(marked.picture, opened, where), where)
        except Wrong as wrong:
            return wrong

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="edgespa-look") as threads:
        found = list(zip(pictures, threads.map(one, pictures), strict=True))
    good = [result for _, result in found if isinstance(result, Looked)]
    return good, [(marked, result) for marked, result in found if isinstance(result, Wrong)]


def _size_and_turn(picture: str, opened: Callable[[str], BinaryIO], where: str) -> tuple[tuple[int, int], int]:
    """Height and width as an image is stored, and its EXIF orientation; what cannot be opened is told here."""
    try:
        with opened(picture) as stream, Image.open(stream) as image:
            refuse_deep(image)
            return stored_size(image), orientation(image)
    except DataError as error:
        raise Wrong(error.message, error.hint or "replace or delete this file") from error
    except (*UNREADABLE, *_PICTURE) as error:
        raise Wrong(
            f"{where}/{picture} is not a whole image: {why_no_image(error)}", "replace or delete this file"
        ) from error


def _looked(marked: Marked, stored: tuple[int, int], turn: int, where: str) -> Looked:
    file = f"{where}/{marked.file}"
    seen = turned_size(stored, turn)
    as_stored = False
    if marked.size is not None and marked.size != seen:
        as_stored = marked.size == stored
        if not as_stored:
            raise Wrong(
                f"{file} is of a picture of {marked.size[1]} x {marked.size[0]}, and {marked.picture} has "
                f"{seen[1]} x {seen[0]}",
                "annotate the picture as it is now, or put the one there that was annotated",
            )
    height, width = stored if as_stored else seen
    boxes = np.array([mark.box for mark in marked.marks], np.float64).reshape(-1, 4)
    points = np.array([mark.points for mark in marked.marks], np.float64)
    points = points.reshape(len(boxes), len(marked.marks[0].points) if marked.marks else 0, 3)
    if marked.shares:
        boxes = boxes * (width, height, width, height)
        points = points * (width, height, 1)
    for mark, box in zip(marked.marks, boxes.tolist(), strict=True):
        if problem := box_problem(box, height, width):
            raise Wrong(f"{file}, {mark.place}: {problem}", "correct or delete that box")
    boxes = np.clip(boxes, 0, (width, height, width, height))
    if not np.isfinite(points).all():
        place = marked.marks[int(np.flatnonzero(~np.isfinite(points).all((1, 2)))[0])].place
        raise Wrong(f"{file}, {place}: a key point that is not a number", "correct or delete it")
    if as_stored:
        boxes, points = turned_boxes(boxes, turn, seen), turned_points(points, turn, seen)
    return Looked(marked, boxes, points, seen)


def box_problem(box: Iterable[float], height: int, width: int) -> str | None:
    """Why four numbers are no box of a picture; None where they are.

    Args:
        box: x1, y1, x2, y2 in pixels.
        height: Of the picture.
        width: Likewise.
    """
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return "a box with a coordinate that is not a number"
    shown = f"({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
    if x2 <= x1 or y2 <= y1:
        return f"a box from {shown}, which has no area"
    over_x, over_y = (max(_ROUNDING_PIXELS, _ROUNDING_SHARE * side) for side in (width, height))
    if x1 < -over_x or y1 < -over_y or x2 > width + over_x or y2 > height + over_y:
        return f"a box from {shown}, outside of the picture of {width} x {height}"
    if min(x2, width) <= max(x1, 0) or min(y2, height) <= max(y1, 0):
        return f"a box from {shown}, outside of the picture of {width} x {height}"
    return None


def turned_points(points: NDArray[np.float64], turn: int, seen: tuple[int, int]) -> NDArray[np.float64]:
    """Points of a picture as it is stored in the picture as it is seen, see `edgespa.pixels.picture.upright_pixels`.

    Args:
        points: [..., 2 or more]: x and y first.
        turn: EXIF orientation.
        seen: Height and width as it is seen.
    """
    made = points.copy()
    if turn >= 5:  # rows for columns
        made[..., [0, 1]] = made[..., [1, 0]]
    if turn in (3, 4, 7, 8):
        made[..., 1] = seen[0] - made[..., 1]
    if turn in (2, 3, 6, 7):
        made[..., 0] = seen[1] - made[..., 0]
    return made


def turned_boxes(boxes: NDArray[np.float64], turn: int, seen: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes likewise, [n, 4]."""
    corners = turned_points(boxes.reshape(-1, 2, 2), turn, seen)
    return np.concatenate([corners.min(1), corners.max(1)], 1)
