"""Digests: what is asked for in the same words is the same, in whatever process and order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgespa.system.files import expanded, open_plain

LENGTH = 16
"""Hexadecimal digits: with a million trials two are alike once in thirty million searches."""
_PIECE = 1 << 20


def digest_of(values: Mapping[str, Any]) -> str:
    """Of plain values, in whatever order their keys are.

    Args:
        values: As JSON has them.
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def content_of(spec: str) -> str | None:
    """What lies where a spec of a model or of data points: a digest; None where it names no file or folder.

    A file counts by its content, a folder by the names and sizes of all files in it: looked through whole it would take
    as long as a pass over the images.

    Args:
        spec: ``net.py:build``, ``fashion:train``, ``photos/``, a file.
    """
    path = next((each for each in _paths(spec) if _is_there(each)), None)
    if path is None:
        return None
    seen = hashlib.sha256()
    if path.is_dir():
        for each in sorted(path.rglob("*")):
            if each.is_file():
                seen.update(f"{each.relative_to(path).as_posix()}\0{each.stat().st_size}\n".encode(errors="replace"))
    else:
        with open_plain(path) as stream:
            while piece := stream.read(_PIECE):
                seen.update(piece)
    return seen.hexdigest()[:LENGTH]


def _paths(spec: str) -> list[Path]:
    head, colon, _ = spec.rpartition(":")
    return [expanded(spec), *([expanded(head)] if colon and head else [])]


def _is_there(path: Path) -> bool:
    try:
        return path.is_file() or path.is_dir()
    except (OSError, ValueError):
        return False


def absolute(spec: str) -> str:
    """A spec that means the same in a process with another current folder.

    Args:
        spec: As `content_of`.
    """
    for path, tail in zip(_paths(spec), ("", f":{spec.rpartition(':')[2]}"), strict=False):
        if _is_there(path):
            return f"{path.absolute()}{tail}"
    return spec
