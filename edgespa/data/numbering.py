"""Which class is which output of a model, where the order of the class folders does not say it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgespa.data.images import ImageData
from edgespa.errors import ConfigError, DataError
from edgespa.models.imports import nearest
from edgespa.system.bounds import names_problem
from edgespa.system.files import plain_text


@dataclass(frozen=True)
class Numbering:
    """How classes of data are numbered.

    Attributes:
        names: Class names in the order of the outputs; empty for the order of the data.
        offset: Class k is output k + offset; the outputs before, and those after the last class, have no images.
            Negative: the first classes, of which there are no images either, have no output. None: the classes are all
            the outputs.
        file: Where the names come from, for messages.
    """

    names: tuple[str, ...] = ()
    offset: int | None = None
    file: str = ""

    @classmethod
    def of(cls, labels: Path | tuple[str, ...] | None, offset: int | None) -> Numbering:
        """What ``--labels`` and ``--class-offset`` say.

        Raises:
            ConfigError: Both are given, or the file cannot be read or has an empty line.
        """
        if labels is None:
            return cls(offset=offset)
        if offset is not None:
            raise ConfigError(
                "--labels and --class-offset number classes in two ways",
                "give one: names of all outputs in a file, or how many outputs come before the classes",
            )
        if isinstance(labels, tuple):
            if problem := names_problem(labels):
                raise ConfigError(f"labels: {problem}", "give one class name for each output")
            return cls(labels, file="labels")
        try:
            lines = plain_text(labels, "utf-8-sig").rstrip().split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--labels {labels} cannot be read: {error}", "name a text file, a class a line"
            ) from error
        names = tuple(line.strip() for line in lines)
        if "" in names or not names:
            where = f"line {names.index('') + 1} of " if names else ""
            raise ConfigError(f"--labels {labels}: {where}it is empty", "write one class name per line")
        if problem := names_problem(names):
            raise ConfigError(f"--labels {labels}: {problem}", "write one class name per line, in UTF-8")
        return cls(names, file=str(labels))

    def __call__(self, data: ImageData) -> ImageData:
        """The data with its classes numbered so; data without classes as they are.

        Raises:
            ConfigError: The data have no classes but targets.
            DataError: A class has no name in the file, or no output.
        """
        if not (self.names or self.offset) or not (data.labelled or data.targets is not None or data.has_boxes):
            return data
        if data.kind != "classes" and not data.has_boxes:
            raise ConfigError(
                f"{data.name} is {data.kind} data, and has no classes to number",
                "leave out --labels and --class-offset",
            )
        return self._by_name(data) if self.names else self._shifted(data)

    def _by_name(self, data: ImageData) -> ImageData:
        if set(data.classes) <= set(self.names):
            counts = Counter(self.names)
            twice = next((name for name in data.classes if counts[name] > 1), None)
            if twice is not None:
                raise DataError(f"{self.file} names '{twice}' twice, and {data.name} has that class", "name it once")
            place = {name: index for index, name in enumerate(self.names)}
            return data.with_classes(np.array([place[name] for name in data.classes], np.int64), self.names)
        if are_numbers(data.classes):  # which are places in the file
            highest = int(np.flatnonzero(data.used_classes).max(initial=0))
            if highest >= len(self.names):
                raise DataError(
                    f"{data.name} has a label of {highest}, {self.file} has {len(self.names)} lines",
                    "name every output",
                )
            return data.with_classes(np.arange(len(data.classes)), self.names)
        absent = [name for name in data.classes if name not in self.names]
        near = nearest(absent[0], self.names)
        raise DataError(
            f"{len(absent)} of the {len(data.classes)} classes of {data.name} are not in {self.file}, such as "
            f"'{absent[0]}'",
            f"nearest: {', '.join(near)}" if near else "name classes there as their folders are named",
        )

    def _shifted(self, data: ImageData) -> ImageData:
        offset = self.offset or 0
        numbers = np.arange(len(data.classes)) + offset
        if (lost := data.used_classes & (numbers < 0)).any():
            first = data.classes[int(lost.argmax())]
            raise DataError(
                f"{data.name}: with --class-offset {offset} the class '{first}' has no output",
                "only classes without images can be left out",
            )
        if offset < 0:
            return data.with_classes(numbers, data.classes[-offset:])
        return data.with_classes(numbers, (*_without_images(range(offset)), *data.classes))

    def up_to(self, outputs: int | None, data: ImageData) -> ImageData:
        """The data with a class for each output of a model, where an offset says that the rest have no images.

        Args:
            outputs: Their number; None where it is not known.
            data: Numbered so.
        """
        if self.offset is None or outputs is None or len(data.classes) >= outputs:
            return data
        if data.kind != "classes" and not data.has_boxes:
            return data
        rest = range(len(data.classes), outputs)
        names = map(str, rest) if are_numbers(data.classes) else _without_images(rest)
        return data.with_classes(np.arange(len(data.classes)), (*data.classes, *names))


def _without_images(outputs: Iterable[int]) -> Iterator[str]:
    return (f"output {index}" for index in outputs)


def are_numbers(classes: Sequence[str]) -> bool:
    """Whether classes have no names."""
    return tuple(classes) == tuple(map(str, range(len(classes))))


def why_counts_differ(outputs: int, classes: int, *, numbers: bool = False) -> str:
    """What may be the matter where a model has another number of outputs than the data have classes, and what to do.

    Args:
        outputs: Of the model.
        classes: Of the data.
        numbers: The data's classes have no names.
    """
    more = outputs - classes
    by_name = "--labels FILE with the name of each output, a line each, where they are in another order"
    if more == 1:
        return f"--class-offset 1 if output 0 is a background, or {by_name}"
    if more == -1:
        return "--class-offset -1 if the first class is a background without images that the model has no output for"
    if more > 0 and numbers:
        return f"--class-offset 0 if the labels are the numbers of the outputs, or {by_name}"
    learned = f"to have the model learn these {classes} classes: edgespa adapt MODEL --data DATA, with a new last layer"
    if more > 0:
        return f"{learned}; or --class-offset {more} if the data's classes are the last outputs, or {by_name}"
    return f"give data of the model's own classes; or {learned}"
