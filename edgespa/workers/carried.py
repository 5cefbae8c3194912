"""Files that a job reads, as they travel to a node that does not see them: pieces of bytes, known by their digest."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgespa.errors import DataError
from edgespa.models.imports import split_file_spec
from edgespa.models.sources import code_files, named_beside
from edgespa.system.files import open_plain
from edgespa.trials.digests import is_there, paths_of

PIECE = 64 << 20
"""Bytes of a piece: what a node has in memory beside the file that it writes."""
MOST_FILES = 1_000_000
MOST_BYTES = 256 << 30
"""Of what one spec names."""
_READ = 1 << 20
_PREFIX = "hf:"
_BESIDE = (".data", "_data", ".onnx_data")
"""Behind the name of an ONNX file: its weights."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Carried:
    """What a spec names, as it lies on a disk.

    Attributes:
        spec: The spec.
        head: What stands before its path.
        path: The file or folder.
        tail: What stands behind its path.
        files: Below the folder that the path lies in: name, bytes, time of change in ns; sorted.
    """

    spec: str
    head: str
    path: Path
    tail: str
    files: tuple[tuple[str, int, int], ...]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(size for _, size, _ in self.files)

    @property
    def signature(self) -> str:
        """The same where the same files are seen, as over a network file system; nothing is read for it."""
        return hashlib.sha256(json.dumps(self.files).encode()).hexdigest()

    @property
    def real(self) -> str:
        """The spec with its path absolute and without links."""
        return f"{self.head}{self.path.resolve()}{self.tail}"

    def at(self, folder: Path) -> str:
        """The spec of a copy.

        Args:
            folder: That the copy lies in.
        """
        return f"{self.head}{folder / self.path.name}{self.tail}"

    def contents(self) -> list[tuple[str, int, str]]:
        """Name, bytes and SHA-256 of each file; all of them are read, those that were read before are not.

        Raises:
            OSError: One cannot be read.
        """
        folder = self.path.parent
        return [(name, size, _sha256(str(folder / name), size, changed)) for name, size, changed in self.files]

    def pieces(self) -> Iterator[bytes]:
        """The files one behind the other, in pieces of `PIECE` bytes.

        Raises:
            OSError: One cannot be read.
            DataError: One has changed meanwhile.
        """
        waiting = bytearray()
        for name, size, _ in self.files:
            path, read = self.path.parent / name, 0
            with open_plain(path) as stream:
                while content := stream.read(_READ):
                    read += len(content)
                    waiting += content
                    while len(waiting) >= PIECE:
                        yield bytes(waiting[:PIECE])
                        del waiting[:PIECE]
            if read != size:
                raise DataError(f"{path} changed while it was read for the nodes", "do it again when nobody writes it")
        if waiting:
            yield bytes(waiting)


def digest_of_contents(contents: Sequence[Sequence[Any]]) -> str:
    """By what a copy is known.

    Args:
        contents: Of `Carried.contents`.
    """
    return hashlib.sha256(json.dumps([list(each) for each in contents]).encode()).hexdigest()


def is_digest(text: str) -> bool:
    """Whether it is one: it becomes the name of a folder."""
    return _DIGEST.fullmatch(text) is not None


def look(spec: str) -> Carried | None:
    """What a spec names on this machine; None where it names no file or folder.

    A folder is all files in it. Python code is its file, what that imports from beside it, and the files beside it that
    it names in a text of its own; what it reads otherwise is not seen. A table is its own file, without the images that
    it names.

    Args:
        spec: ``net.py:build``, ``fashion:train``, ``photos/``, a file; absolute.

    Raises:
        DataError: There are more files, or bytes, than are carried.
        OSError: Code cannot be read.
    """
    head = _PREFIX if spec.startswith(_PREFIX) else ""
    rest = spec.removeprefix(head)
    path = next((each for each in paths_of(rest) if is_there(each)), None)
    if path is None or not path.is_absolute():
        return None
    tail = rest.removeprefix(str(path))
    folder = path.parent
    if path.is_dir():
        found: Iterable[Path] = path.rglob("*")
    elif split_file_spec(rest) is not None:
        found = _of_code(path)
    else:
        found = [path, *(each for end in _BESIDE if (each := path.with_name(f"{path.name}{end}")).is_file())]
    files = []
    for each in found:
        if each.is_file():
            state = each.stat()
            files.append((each.relative_to(folder).as_posix(), state.st_size, state.st_mtime_ns))
            if len(files) > MOST_FILES:
                raise _too_much(spec, f"more than {MOST_FILES:,} files")
    one = Carried(spec, head, path, tail, tuple(sorted(files)))
    if one.size_bytes > MOST_BYTES:
        raise _too_much(spec, f"{one.size_bytes / 2**30:,.0f} GiB")
    return one


def may_be_carried(values: Iterable[Any]) -> tuple[str, ...]:
    """Those of some values that are specs with an absolute path, each once.

    Args:
        values: Whatever calls are told.
    """
    texts = [each for each in values if isinstance(each, str)]
    return tuple(dict.fromkeys(each for each in texts if Path(each.removeprefix(_PREFIX)).is_absolute()))


def unpack(contents: Sequence[Sequence[Any]], pieces: Iterable[bytes], folder: Path) -> None:
    """Write a copy's files.

    Args:
        contents: Of `Carried.contents`.
        pieces: Of `Carried.pieces`.
        folder: An empty one.

    Raises:
        DataError: The pieces are not those files, or a name leads out of the folder.
        OSError: It cannot be written, with the file's name.
    """
    source = iter(pieces)
    left = memoryview(b"")
    for name, size, sha256 in contents:
        path = inside(folder, str(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        seen, missing = hashlib.sha256(), int(size)
        try:
            with path.open("xb") as stream:
                while missing:
                    if not left:
                        left = memoryview(next(source, b""))
                        if not left:
                            raise DataError(f"{name} has not arrived whole", "do it again")
                    part, left = left[:missing], left[missing:]
                    stream.write(part)
                    seen.update(part)
                    missing -= len(part)
        except OSError as error:
            error.filename = error.filename or str(path)
            raise
        if seen.hexdigest() != sha256:
            raise DataError(f"{name} has arrived damaged", "do it again")


def inside(folder: Path, name: str) -> Path:
    """A file below a folder.

    Args:
        folder: It.
        name: Parts between slashes.

    Raises:
        DataError: It leads elsewhere.
    """
    plain = PurePosixPath(name)
    if not name or plain.is_absolute() or ".." in plain.parts or "\\" in name or "\0" in name or not plain.parts:
        raise DataError(f"{name!r} is no name of a file of a job", "install the same edgespa everywhere")
    return folder.joinpath(*plain.parts)


def _of_code(path: Path) -> Iterator[Path]:
    root, seen = path.parent, set[Path]()
    for each, content in code_files(path, root):
        seen |= {each, *named_beside(content, root)}
    return (each for each in seen if each.is_relative_to(root))


@functools.lru_cache(maxsize=1 << 18)
def _sha256(path: str, size: int, changed: int) -> str:  # what has the same size and time of change is not read again
    seen = hashlib.sha256()
    with open_plain(Path(path)) as stream:
        while content := stream.read(_READ):
            seen.update(content)
    return seen.hexdigest()


def _too_much(spec: str, much: str) -> DataError:
    return DataError(
        f"{spec} has {much}, and is not carried to nodes that do not see it",
        "put it where all nodes see it under the same name, or name a smaller folder",
    )
