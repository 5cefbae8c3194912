"""What is recorded of files that lie elsewhere for a while: on a node of a cluster a copy stands for the user's own.

What is written there, a task file or a bundle, is for where the job came from, so it names the base as it is named
there. Without this the same job would leave other bytes on each node.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True)
class Elsewhere:
    """Copies, and what they stand for.

    Attributes:
        specs: Spec of a copy -> the spec as it was typed, and the same with its path absolute and without links.
        folder: The folder that is written to here.
        stands_for: That which it will be moved to, without links; None where it is itself.
    """

    specs: Mapping[str, tuple[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    folder: Path | None = None
    stands_for: Path | None = None


_NOW: ContextVar[Elsewhere] = ContextVar("elsewhere", default=Elsewhere())  # noqa: B039  # it is frozen


@contextlib.contextmanager
def recorded_as(elsewhere: Elsewhere) -> Iterator[None]:
    """What is recorded while the block runs is of the originals.

    Args:
        elsewhere: Which copies there are.
    """
    token = _NOW.set(elsewhere)
    try:
        yield
    finally:
        _NOW.reset(token)


def places_of(spec: str) -> tuple[str, str] | None:
    """What a copy stands for: as typed, and absolute; None where a spec is of no copy.

    Args:
        spec: Of a model, or a file of weights.
    """
    return _NOW.get().specs.get(spec)


def named(spec: str) -> str:
    """A spec as it was typed, be it of a copy or not.

    Args:
        spec: As `places_of`.
    """
    found = places_of(spec)
    return spec if found is None else found[0]


def final_folder(folder: Path) -> Path:
    """Where a folder that is written to will be.

    Args:
        folder: As it is here.
    """
    now = _NOW.get()
    if now.folder is None or now.stands_for is None or not folder.absolute().is_relative_to(now.folder):
        return folder
    return now.stands_for / folder.absolute().relative_to(now.folder)
