"""Where annotations lie, and the pictures that they are of: folders and files by their paths."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from edgespa.data.answers import UNREADABLE
from edgespa.data.pairs import holds_annotations
from edgespa.data.tree import Tree, join
from edgespa.errors import DataError
from edgespa.models.imports import nearest

MOST_TEXT = 1 << 24
"""Bytes of one file of annotations of one picture, or of names."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A data set's files.

    Attributes:
        tree: All of them.
        opened: Opens one to read; from several threads.
        where: The data set's own path, for messages.
    """

    tree: Tree
    opened: Callable[[str], BinaryIO]
    where: str

    def content(self, file: str, most: int = MOST_TEXT) -> bytes:
        """A file.

        Args:
            file: Its path.
            most: Bytes that it may have.

        Raises:
            DataError: It has more, or cannot be read.
        """
        try:
            with self.opened(file) as stream:
                found = stream.read(most + 1)
        except UNREADABLE as error:
            raise DataError(f"{self.where}/{file} cannot be read: {error}", "copy or make the data again") from error
        if len(found) > most:
            raise DataError(
                f"{self.where}/{file} has more than {most:,} bytes, too many for what it holds", "replace that file"
            )
        return found

    def lines(self, file: str) -> list[str]:
        """The lines of a text file without blanks around them, empty ones too: they are counted in messages."""
        return [line.strip() for line in self.content(file).decode("utf-8-sig", errors="replace").splitlines()]

    def top(self) -> str:
        """The folder that all lies in, below lone wrapping folders."""
        base = ""
        while True:
            inside = self.tree.children(base)
            if len(inside) != 1 or self.tree.images.get(base) or _data_files(self.tree, base):
                return base
            base = join(base, inside[0])

    def below(self, base: str) -> Iterator[str]:
        """A folder and all folders in it."""
        yield base
        for name in self.tree.children(base):
            yield from self.below(join(base, name))

    def others(self, base: str, *suffixes: str) -> list[str]:
        """Files below a folder that are no images, by the ends of their names; in order."""
        return sorted(
            file
            for folder in self.below(base)
            for file in self.tree.others.get(folder, ())
            if file.lower().endswith(suffixes)
        )

    def images(self, base: str) -> list[str]:
        """Photographs below a folder, in order: not those in folders of masks, where there are others."""
        files = sorted(file for folder in self.below(base) for file in self.tree.images.get(folder, ()))
        photographs = [file for file in files if not any(map(holds_annotations, file.split("/")[:-1][-1:]))]
        return photographs or files

    def no_split(self, split: str, there: Iterable[str]) -> DataError:
        """The error for a split that there is none of."""
        names = list(dict.fromkeys(there))
        near = nearest(split, names, 1)
        listed = f"splits there: {', '.join(names[:8])}" if names else "it has no splits: leave that out"
        return DataError(
            f"{self.where} has no split '{split}'", f"did you mean '{near[0]}'? {listed}" if near else listed
        )

    def name_a_split(self, there: Iterable[str]) -> DataError:
        """The error where all splits together would be taken."""
        names = list(dict.fromkeys(there))
        return DataError(f"{self.where} has splits: {', '.join(names)}", f"name one of them: {self.where}:{names[0]}")


class Pictures:
    """Images by their names, and which of several of one name lies nearest.

    Args:
        files: Their paths.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._by_stem: dict[str, list[str]] = {}
        self._by_name: dict[str, list[str]] = {}
        for file in files:
            self._by_stem.setdefault(stem(file), []).append(file)
            self._by_name.setdefault(name(file), []).append(file)

    def of_stem(self, wanted: str, beside: str) -> str | None:
        """The image whose name without its end is that; None where there is none, or several as near as another.

        Args:
            wanted: The name.
            beside: The file that names it.
        """
        return _nearest(self._by_stem.get(wanted, []), beside)

    def of_name(self, wanted: str, beside: str) -> str | None:
        """Likewise by the whole name, or by a path of which the end is there."""
        parts = [part for part in wanted.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        found = self._by_name.get(parts[-1], []) if parts else []
        for length in range(len(parts), 1, -1):
            tail = "/".join(parts[-length:])
            if exact := [file for file in found if f"/{file}".endswith(f"/{tail}")]:
                return _nearest(exact, beside)
        return _nearest(found, beside)


def _nearest(files: list[str], beside: str) -> str | None:
    """Of several files the one with the most of a path in common: first folders at its beginning, then at its end."""
    if len(files) < 2:
        return files[0] if files else None
    own = beside.split("/")[:-1]

    def common(file: str) -> tuple[int, int]:
        theirs = file.split("/")[:-1]
        return _same(own, theirs), _same(own[::-1], theirs[::-1])

    ranked = sorted(files, key=common, reverse=True)
    return ranked[0] if common(ranked[0]) > common(ranked[1]) else None


def _same(one: list[str], other: list[str]) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def _data_files(tree: Tree, base: str) -> bool:
    ends = (".json", ".xml", ".yaml", ".yml", ".names", "classes.txt", "names.txt", "labels.txt")
    return any(file.lower().endswith(ends) for file in tree.others.get(base, ()))


def stem(file: str) -> str:
    """The name of a file without its end."""
    return name(file).rpartition(".")[0]


def name(file: str) -> str:
    """The name of a file without its folders."""
    return file.rpartition("/")[2]
