"""The package's own files as text, wherever it is installed: in a folder, or in a zip file on the path."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable


def own_source(*parts: str) -> str:
    """The text of a file of the package.

    Args:
        *parts: Its path below the package.
    """
    return resources.files("edgespa").joinpath(*parts).read_text(encoding="utf-8")


def own_sources(*parts: str) -> Iterator[str]:
    """The texts of all Python files below a room, in order of their paths.

    Args:
        *parts: Path of the room below the package.
    """
    yield from _below(resources.files("edgespa").joinpath(*parts))


def _below(folder: Traversable) -> Iterator[str]:
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if each.is_dir():
            yield from _below(each)
        elif each.name.endswith(".py"):
            yield each.read_text(encoding="utf-8")
