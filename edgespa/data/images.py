"""A set of images with classes, and the parts that can be taken of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgespa.data.answers import Answers, MaskAnswers
from edgespa.data.boxes import BoxAnswers
from edgespa.data.labels import no_classes
from edgespa.data.parts import drawn_evenly, held_out
from edgespa.data.source import Examined, ImageSource, LeftOut
from edgespa.errors import DataError
from edgespa.models.imports import nearest
from edgespa.system.bounds import names_problem, readable

Kind = str
"""What is to be learned: the name of an objective, such as ``classes``, ``regression``, ``segmentation``."""
Progress = Callable[[int, int], None]
"""Called with (done, total) while images are read."""


class ImageData:
    """Images and their classes, in a fixed order. Every method that takes a part of it returns a new object.

    Args:
        source: Where the pixels come from.
        labels: Class index of each image of the source, int64 [N], or None for images without classes.
        classes: Class names; ``labels`` index it.
        title: Short name, such as ``fashion:train``.
        targets: Instead of labels, what there is to learn per image, float32 [N, K]: numbers, or 0 and 1 per class.
        kind: What that is; ``classes`` without targets.
        answers: Instead of both, where what there is to learn is no row of a table: masks, or what a data set gives.
    """

    def __init__(
        self,
        source: ImageSource,
        labels: NDArray[np.int64] | None,
        classes: Sequence[str],
        title: str,
        targets: NDArray[np.float32] | None = None,
        kind: Kind = "classes",
        answers: Answers | None = None,
    ) -> None:
        self._source = source
        self._answers = answers
        self._indices = np.arange(len(source), dtype=np.int64)
        self._labels = labels
        self._title = readable(title)
        self.classes = _named(classes, self._title)
        self._total = len(source)
        self.targets = targets
        self.kind = answers.kind if answers is not None else kind
        self.left_out: tuple[LeftOut, ...] = ()
        self.no_images: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self._indices)

    def __repr__(self) -> str:
        return f"ImageData({self.name}; {len(self.classes)} classes)"

    @property
    def name(self) -> str:
        """Short text for tables and records, such as ``fashion:train, 1000 of 60000``."""
        return self._title if len(self) == self._total else f"{self._title}, {len(self)} of {self._total}"

    @property
    def labelled(self) -> bool:
        """Whether the images have classes."""
        return self._labels is not None

    @property
    def answered(self) -> bool:
        """Whether it is known of each image what is right, be it a class, numbers, a mask or something else."""
        return self.labelled or self.targets is not None or self._answers is not None

    def of_kind(self, kind: Kind) -> Self:
        """The same, to be learned as something else: what is known of each image stays as it is.

        Args:
            kind: The name of an objective.
        """
        part = self._part(np.arange(len(self)), self._labels)
        part.kind = kind
        return part

    def unanswered(self) -> Self:
        """The images alone: nothing is known of them, and there are no classes."""
        part = type(self)(self._source, None, (), self._title, kind=self.kind)
        part._indices, part._total, part.left_out = self._indices, self._total, self.left_out
        return part

    @property
    def has_masks(self) -> bool:
        """Whether it is known of each pixel what is right."""
        return isinstance(self._answers, MaskAnswers)

    @property
    def has_boxes(self) -> bool:
        """Whether it is known of each image which objects are where: `edgespa.data.boxes.BoxAnswers`."""
        return isinstance(self._answers, BoxAnswers)

    @property
    def answers(self) -> Answers | None:
        """What is right for each image of the source, where that is no row of a table."""
        return self._answers

    @property
    def form(self) -> str:
        """What is known of each image, see `edgespa.objectives.base.Known`."""
        return "table" if self._answers is None else self._answers.form

    @property
    def has_table(self) -> bool:
        """Whether that is a class or a row of numbers."""
        return self._answers is None

    @property
    def pixels_of_classes(self) -> NDArray[np.int64]:
        """How many pixels of all masks have each value, int64 [256]; only where there are masks."""
        assert isinstance(self._answers, MaskAnswers)
        return np.asarray(self._answers.counts[self._indices].sum(0))

    def answer(self, index: int) -> Any:
        """What is right for one image, read now, where that is no row of a table; see `edgespa.data.answers.Answers`.

        Args:
            index: Position in this data set, from 0.

        Raises:
            DataError: It cannot be read.
        """
        assert self._answers is not None
        return self._answers[int(self._indices[index])]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each image, int64 [N].

        Raises:
            DataError: The images have no classes.
        """
        if self._labels is None:
            raise no_classes(self._title)
        return self._labels

    @property
    def digest(self) -> str:
        """Of how many there are, and what is known of each: another one means other samples. Pixels are not read."""
        known = self._labels if self.targets is None else self.targets
        digest = hashlib.sha256(f"{len(self)} {self.kind} {self.classes!r}".encode("utf-8", errors="surrogatepass"))
        if known is not None:
            digest.update(np.ascontiguousarray(known).tobytes())
        if self._answers is not None:
            digest.update(f"{self._answers.digest} {self._indices.tolist()}".encode())
        return f"{len(self)} samples, {digest.hexdigest()[:16]}"

    @property
    def preprocessed(self) -> bool:
        """True if the items are float tensors that go to the model as they are; see `tensor`."""
        return self._source.preprocessed

    @property
    def in_files(self) -> bool:
        """Whether each image is a file."""
        return self._source.in_files

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Height, width and channels, if all images are in memory and of one size, else None."""
        array = self._source.array
        return None if array is None else (array.shape[1], array.shape[2], array.shape[3])

    @property
    def array(self) -> NDArray[np.uint8] | None:
        """A copy of all images as uint8 [N, H, W, C], if the source has them in memory, else None."""
        return None if self._source.array is None else self._source.array[self._indices]

    def image(self, index: int) -> NDArray[np.uint8]:
        """One image, decoded now.

        Args:
            index: Position in this data set, from 0.

        Returns:
            uint8 [H, W, C] with C of 1, 3 or 4.

        Raises:
            DataError: It cannot be read, or the items are preprocessed tensors.
        """
        if self.preprocessed:
            raise DataError(
                f"{self._title} gives float tensors, which are taken as preprocessed, not images",
                "let the data set return PIL images or uint8 arrays where images are wanted",
            )
        return self._source.image(int(self._indices[index]))

    @property
    def positions(self) -> NDArray[np.int64]:
        """Of each image its place in the source, int64 [N]."""
        return self._indices.copy()

    def file(self, index: int) -> str:
        """What an image is called, see `ImageSource.name`.

        Args:
            index: Position in this data set, from 0.
        """
        return self._source.name(int(self._indices[index]))

    def examined(self, index: int) -> Examined:
        """One image, decoded now, and what its file says; see `image`.

        Args:
            index: Position in this data set, from 0.
        """
        return self._source.examined(int(self._indices[index]))

    def fault(self, index: int) -> str | None:
        """What is the matter with an image, see `ImageSource.fault`.

        Args:
            index: Position in this data set, from 0.
        """
        return self._source.fault(int(self._indices[index]))

    def tensor(self, index: int) -> Tensor:
        """One preprocessed item as float32 [C, H, W]; only if `preprocessed`."""
        return self._source.tensor(int(self._indices[index]))

    def tensors(self, index: int) -> Any:
        """One item that is no image, for `edgespa.data.inputs.matched`; only if `preprocessed`."""
        return self._source.tensors(int(self._indices[index]))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Self:
        """The images at some positions, in the order given.

        Raises:
            DataError: A position is outside of the data set.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise DataError(
                f"{self.name}: position {int(chosen.min()) if chosen.min() < 0 else int(chosen.max())} is outside",
                f"positions go from 0 to {len(self) - 1}",
            )
        return self._part(chosen, None if self._labels is None else self._labels[chosen])

    def limit(self, n: int, seed: int = 0) -> Self:
        """A random part with as equal a number of each class as there is, in the original order.

        With one seed, a smaller limit is contained in a larger one.

        Args:
            n: Number of images.
            seed: Which part.

        Raises:
            DataError: ``n`` is not positive, or more than there are.
        """
        if n < 1:
            raise DataError(f"{self.name}: a limit of {n} images", "take at least 1")
        if n > len(self):
            raise DataError(f"{self.name}: a limit of {n} images, but there are {len(self)}", "take that many or fewer")
        return self.subset(drawn_evenly(self._groups(), n, seed))

    def split(self, fraction: float, seed: int = 0, *, block: bool = False) -> tuple[Self, Self]:
        """Hold out a fraction, with the classes in proportion.

        At least one image of every class stays in the rest.

        Args:
            fraction: Fraction to hold out, in (0, 1).
            seed: Which part.
            block: Hold out images that follow each other, of each class so many in a row: neighbours of one video are
                then apart, but for those at the ends of the row.

        Returns:
            The rest and the held-out part, both in the original order.

        Raises:
            DataError: The fraction is outside (0, 1), or so small or large that one part would be empty.
        """
        if not 0 < fraction < 1:
            raise DataError(f"{self.name}: cannot hold out a fraction of {fraction}", "take one between 0 and 1")
        groups = self._groups()
        out = held_out(groups, fraction, seed, block=block)
        if not out.any() or out.all():
            raise DataError(
                f"{self.name}: {len(self)} images in {len(np.unique(groups))} classes, too few to hold out {fraction}",
                "take a larger fraction or more images",
            )
        return self.subset(np.flatnonzero(~out)), self.subset(np.flatnonzero(out))

    def select_classes(self, chosen: Sequence[str | int]) -> Self:
        """The images of some classes; these are numbered anew in the order given.

        Args:
            chosen: Class names, or class indices as integers.

        Raises:
            DataError: There is no such class, or one is named twice, or none.
        """
        current = self.labels
        old = [self._class_index(each) for each in chosen]
        if not old or len(set(old)) != len(old):
            raise DataError(f"{self.name}: classes {list(chosen)}", "name each class once, and at least one")
        renumbered = np.full(len(self.classes), -1, dtype=np.int64)
        renumbered[old] = np.arange(len(old))
        labels = renumbered[current]
        keep = labels >= 0
        part = self._part(np.flatnonzero(keep), labels[keep])
        part._title = f"{self._title} ({len(old)} of {len(self.classes)} classes)"
        part._total = int(keep.sum())
        part.classes = tuple(self.classes[index] for index in old)
        return part

    def renumbered(self, labels: NDArray[np.int64], classes: Sequence[str]) -> Self:
        """The same images with other class indices and names.

        Args:
            labels: Class index of each image, int64 [N].
            classes: Class names; ``labels`` index it.
        """
        part = self._part(np.arange(len(self)), np.asarray(labels, dtype=np.int64))
        part.classes = _named(classes, self._title)
        return part

    def with_classes(self, numbers: NDArray[np.int64], classes: Sequence[str]) -> Self:
        """The same images, each class with another index and name.

        Args:
            numbers: The new index of each class that there are images or objects of, int64 [classes].
            classes: Class names; ``numbers`` index it.
        """
        if self._labels is not None:
            return self.renumbered(numbers[self._labels], classes)
        part = self._part(np.arange(len(self)), None)
        if isinstance(self._answers, BoxAnswers):
            part._answers = self._answers.renumbered(numbers)
        part.classes = _named(classes, self._title)
        return part

    @property
    def used_classes(self) -> NDArray[np.bool_]:
        """Of which classes there are images or objects, bool [classes]."""
        if isinstance(self._answers, BoxAnswers):
            counts = self._answers.counts(self._indices, len(self.classes))
        else:
            counts = np.bincount(self.labels, minlength=len(self.classes))
        return np.asarray(counts > 0)

    def _class_index(self, chosen: str | int) -> int:
        if isinstance(chosen, str):
            if chosen in self.classes:
                return self.classes.index(chosen)
            near = nearest(chosen, self.classes)
        elif 0 <= chosen < len(self.classes):
            return int(chosen)
        else:
            near = []
        raise DataError(
            f"{self.name} has no class {chosen!r}",
            f"nearest: {', '.join(near)}" if near else f"classes: {', '.join(self.classes)}",
        )

    def _part(self, positions: NDArray[np.int64], labels: NDArray[np.int64] | None) -> Self:
        targets = None if self.targets is None else self.targets[positions]
        part = type(self)(self._source, labels, self.classes, self._title, targets, self.kind, self._answers)
        part._indices, part.kind = self._indices[positions], self.kind
        part._total, part.left_out, part.no_images = self._total, self.left_out, self.no_images
        return part

    def without(self, left_out: Sequence[LeftOut]) -> Self:
        """The same, with what was left out of it because it cannot be used.

        Args:
            left_out: The files.
        """
        part = self._part(np.arange(len(self)), self._labels)
        part.left_out = (*self.left_out, *left_out)
        return part

    def _groups(self) -> NDArray[np.int64]:
        """What to balance over: the classes, what the answers say, or all images as one."""
        if self._answers is not None:
            return self._answers.groups(self._indices)
        return np.zeros(len(self), dtype=np.int64) if self._labels is None else self._labels


def _named(classes: Sequence[str], title: str) -> tuple[str, ...]:
    """Names of classes, each of which will be a line of ``labels.txt``.

    Raises:
        DataError: With the one that cannot be.
    """
    if problem := names_problem(classes):
        raise DataError(
            f"{title}: a class: {problem}", "rename its folder, or name it otherwise where the classes are listed"
        )
    return tuple(classes)
