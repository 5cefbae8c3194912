"""Answers that are no row of a table: a mask for each image, or whatever a data set gives."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgespa.data.bounded import BAD_FILE, why_no_image
from edgespa.errors import DataError

IGNORED = 255
"""Of a mask: pixels that count nowhere. So there are at most 255 classes."""
NO_CLASS = frozenset({"unlabelled", "unlabeled", "void", "ignore", "ignored", "dontcare", "dont care", "don't care"})
"""Names of classes that say that nobody looked: their pixels count nowhere."""
_WORKERS = 4
_MOST_UNNAMED, _MOST_SHADES = 64, 12  # different values of masks whose classes nobody names
_FIX = "write masks as PNG whose pixel is the number of its class, from 0; 255 counts nowhere"


class Answers(ABC):
    """Where the answers of a data set come from. Reading is allowed from several threads at once.

    Attributes:
        kind: What is to be learned: the name of an objective.
        form: What is known of each sample, see `edgespa.objectives.base.Known`.
    """

    kind: str
    form: str

    @abstractmethod
    def __getitem__(self, index: int) -> Any:
        """What is right for one sample.

        Raises:
            DataError: It cannot be read; the message names it.
        """

    @property
    @abstractmethod
    def digest(self) -> str:
        """Of what they are; others have another one, as far as that is known without reading all of them again."""

    def groups(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """What a part of some samples is drawn evenly over, int64 [n]; all as one where nothing tells them apart.

        Args:
            indices: The samples, int64 [n].
        """
        return np.zeros(len(indices), dtype=np.int64)


class MaskAnswers(Answers):
    """Masks, all of which were looked at once. See `look_at_masks`.

    Args:
        read: Gives one as it is stored, uint8 [H, W].
        counts: Pixels of each value in each, int64 [N, 256].
        moved: The number of the class that each value stands for, uint8 [256].
    """

    kind = "segmentation"
    form = "masks"

    def __init__(
        self,
        read: Callable[[int], NDArray[np.uint8]],
        counts: NDArray[np.int64],
        moved: NDArray[np.uint8],
    ) -> None:
        self._read = read
        self._moved = moved
        self.counts = np.zeros_like(counts)
        np.add.at(self.counts.T, moved, counts.T)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self._moved[self._read(index)]

    @property
    def digest(self) -> str:
        """Of how many pixels of each mask have each class."""
        return hashlib.sha256(self.counts.tobytes()).hexdigest()[:16]


class ItemAnswers(Answers):
    """What a data set gives beside the image, for an objective of the user's own.

    Args:
        read: Gives one.
        count: How many there are.
        kind: The name of the objective.
    """

    form = "items"

    def __init__(self, read: Callable[[int], Any], count: int, kind: str) -> None:
        self.kind = kind
        self._read = read
        self._count = count

    def __getitem__(self, index: int) -> Any:
        return self._read(index)

    @property
    def digest(self) -> str:
        """Of how many there are: others are not told apart."""
        return f"{self._count} answers"


def decoded_mask(content: bytes, label: str) -> NDArray[np.uint8]:
    """A mask from an image file.

    Args:
        content: The file.
        label: Its name for messages.

    Returns:
        uint8 [H, W]: the numbers of the classes as they are stored; those of a palette, not its colours.

    Raises:
        DataError: It is damaged, or holds colours or larger numbers.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return picture_as_mask(image, label)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{label} is not a whole image: {why_no_image(error, content)}", BAD_FILE) from error


def picture_as_mask(image: Image.Image, label: str) -> NDArray[np.uint8]:
    """Class numbers of an image's pixels as uint8 [H, W]; see `decoded_mask`.

    Args:
        image: As it was opened.
        label: Its name for messages.

    Raises:
        DataError: It holds colours, or numbers that are no classes.
    """
    if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
        raise DataError(f"{label} is a mask of colours ({image.mode})", _FIX)
    return as_mask(np.asarray(image), label)


def as_mask(values: NDArray[Any], label: str) -> NDArray[np.uint8]:
    """Class numbers of pixels as uint8 [H, W].

    Args:
        values: Whole numbers [H, W].
        label: Their name for messages.

    Raises:
        DataError: They are of another shape or type, or larger than a mask has room for.
    """
    if values.ndim != 2 or not (values.dtype == np.bool_ or np.issubdtype(values.dtype, np.integer)):
        raise DataError(f"{label}: a mask of shape {values.shape} and type {values.dtype}", _FIX)
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= IGNORED:
        raise DataError(f"{label}: a mask with the value {int(values.max())}", _FIX)
    return values.astype(np.uint8)


def look_at_masks(
    read: Callable[[int], NDArray[np.uint8]],
    count: int,
    names: Sequence[str],
    title: str,
    *,
    once: Callable[[int], NDArray[np.uint8]] | None = None,
) -> tuple[MaskAnswers, tuple[str, ...]]:
    """All masks of a data set, read once: which classes there are.

    A class that is called as in `NO_CLASS` counts nowhere; the last one then is no class. Where nobody names them and
    most numbers are not there, as in masks of 0 and 255 or of 0, 90 and 180, the values are shades: each is a class,
    255 too, numbered in their order and called by their value.

    Args:
        read: Gives one as it is stored, uint8 [H, W]; from several threads.
        count: How many there are.
        names: Of the classes, as far as they are known; else they are called by their numbers.
        title: Of the data, for messages.
        once: Gives it this time, where more is looked at than later.

    Returns:
        The masks, and the names of their classes.

    Raises:
        DataError: One cannot be read, or has a class without a name.
    """
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="edgespa-masks") as threads:
        counts = np.stack(
            list(threads.map(lambda index: np.bincount((once or read)(index).reshape(-1), minlength=256), range(count)))
        ).astype(np.int64)
    there = np.flatnonzero(counts.any(0))
    moved = np.arange(256, dtype=np.uint8)
    classes = tuple(names)
    highest = max((int(value) for value in there if value != IGNORED), default=0)
    shades = not classes and (2 * len(there) < highest + 1 or there.tolist() == [0, IGNORED])
    if not classes and len(there) > (_MOST_SHADES if shades else _MOST_UNNAMED):
        raise DataError(
            f"{title}: the masks have {len(there)} different values: depths or shades, not classes",
            f"{_FIX}; and name the classes in classes.txt beside them, a line each",
        )
    if shades or (len(classes) == len(there) and there.tolist() == [0, IGNORED]):
        moved[there] = np.arange(len(there))
        return MaskAnswers(read, counts, moved), classes or tuple(map(str, there))
    if classes and highest >= len(classes):
        first = int(np.flatnonzero(counts[:, highest])[0])
        raise DataError(
            f"{title}: mask {first} has the value {highest}, and {len(classes)} classes are named",
            "name every class, a line each, in the order of their numbers",
        )
    nobody = [index for index, name in enumerate(classes) if name.strip().lower() in NO_CLASS]
    moved[nobody] = IGNORED
    if nobody and nobody[-1] == len(classes) - 1:
        classes = classes[:-1]
    return MaskAnswers(read, counts, moved), classes or tuple(str(index) for index in range(highest + 1))


def names_in(lines: Sequence[str]) -> tuple[str, ...]:
    """Names of classes, a line each, with their numbers in front of them or without.

    Args:
        lines: None of them empty.
    """
    numbered = [re.fullmatch(r"(\d+)\s*[:,;\t ]\s*(\S.*)", line) for line in lines]
    found = [match for match in numbered if match is not None]
    if len(found) == len(lines) and [int(match[1]) for match in found] == list(range(len(lines))):
        return tuple(match[2] for match in found)
    return tuple(lines)


UNREADABLE = (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error)
"""What reading a file, or a member of an archive, may raise."""
