"""What lies at paths, by digests that are kept: what has the same size and time of change is not read again."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from edgespa.models.imports import split_file_spec
from edgespa.models.sources import code_digest
from edgespa.system.files import expanded, open_plain, plain_text, write_whole
from edgespa.trials.digests import LENGTH, is_there, paths_of

_PIECE = 1 << 20
_LIBRARIES = ("torchvision", "timm", "transformers", "scikit-learn")
"""Whose models and data have names instead of files."""
_MOST_TEXT = 1 << 30


class Contents:
    """Digests of files, folders and code.

    Args:
        kept: A file of ours with those that were known when it was last saved; it need not be there.
    """

    def __init__(self, kept: Path) -> None:
        self._kept = kept
        self._before = _read(kept)
        self._now: dict[str, list[Any]] = {}
        self._specs: dict[str, str | None] = {}

    def of(self, spec: str) -> str | None:
        """What a spec of a model or of data stands for; None where it names no file or folder.

        A folder counts by the names and the content of all files in it, Python code with all that it imports from
        beside it (`edgespa.models.sources`); what code reads is not seen.

        Args:
            spec: ``net.py:build``, ``fashion:train``, ``photos/``, a file.
        """
        if spec not in self._specs:
            self._specs[spec] = self._looked_at(spec)
        return self._specs[spec]

    def named(self, spec: str) -> list[str | None]:
        """A spec as one compares it: the same when the folder of all of it was moved.

        Args:
            spec: As `of`. One that is no path counts by its words, and by the versions of libraries it may be of.
        """
        found = self.of(spec)
        if found is not None:
            return [Path(spec).name, found]
        return [spec, *(f"{name} {version}" for name in _LIBRARIES if (version := _version(name)) is not None)]

    def file(self, path: Path) -> str:
        """A file's digest, in as many digits as all of them.

        Args:
            path: Of the file.

        Raises:
            OSError: It cannot be read.
        """
        name, state = str(path.absolute()), path.stat()
        known = self._now.get(name) or self._before.get(name)
        if known is not None and known[:2] == [state.st_size, state.st_mtime_ns]:
            self._now[name] = known
            return str(known[2])
        seen = hashlib.sha256()
        with open_plain(path) as stream:
            while piece := stream.read(_PIECE):
                seen.update(piece)
        self._now[name] = [state.st_size, state.st_mtime_ns, seen.hexdigest()[:LENGTH]]
        return str(self._now[name][2])

    def save(self) -> None:
        """Keep what is known for the next time."""
        if self._now != self._before:
            write_whole(self._kept, json.dumps(self._now).encode())

    def _looked_at(self, spec: str) -> str | None:
        path = next((each for each in paths_of(spec) if is_there(each)), None)
        if path is None:
            return None
        if path.is_file():
            return self.file(path) if split_file_spec(spec) is None else code_digest(path, path.parent)[:LENGTH]
        seen = hashlib.sha256()
        for each in sorted(path.rglob("*")):
            if each.is_file():
                seen.update(f"{each.relative_to(path).as_posix()}\0{self.file(each)}\n".encode(errors="replace"))
        return seen.hexdigest()[:LENGTH]


def placed(spec: str, folder: Path) -> str:
    """A spec whose path begins at a folder, as one that holds in any; what is no path there stays as it is.

    Args:
        spec: As `Contents.of`.
        folder: Where it begins.
    """
    here = expanded(spec) if spec.startswith("~") else folder / spec
    if is_there(here):
        return str(here.absolute())
    head, colon, tail = spec.rpartition(":")
    if colon and head:
        here = expanded(head) if head.startswith("~") else folder / head
        if is_there(here):
            return f"{here.absolute()}:{tail}"
    return spec


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        found = json.loads(plain_text(path, most=_MOST_TEXT))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): each for name, each in found.items() if isinstance(each, list) and len(each) == 3}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
