"""What a shell around the public calls adds to one: the command line does, and no signature shows it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Shell:
    """What is added.

    Attributes:
        only_check: The call ends with `Checked` where all that can be known early is right, and does nothing.
        command: Asked, when a run begins, what its state is to say of how to go on: `edgespa.tasks.unfinished.marked`.
        lines: Where there is no terminal, a line now and then says how far long work is.
        quiet: No bar and no such line.
        stage: Told what a call that makes others is at; None for the log.
    """

    only_check: bool = False
    command: Callable[[], Mapping[str, Any]] | None = None
    lines: bool = False
    quiet: bool = False
    stage: Callable[[str], None] | None = None


class Checked(Exception):
    """All that can be known early is right, and nothing more was asked for."""


_SHELL: ContextVar[Shell] = ContextVar("shell", default=Shell())  # noqa: B039  # it is frozen


def current() -> Shell:
    """What holds for the call that is made."""
    return _SHELL.get()


def command_asked() -> Mapping[str, Any] | None:
    """What the state of an unfinished run says of how it is gone on with; None where no command began it."""
    found = current().command
    return found() if found is not None else None


@contextlib.contextmanager
def adding(**changes: Any) -> Iterator[None]:
    """Add something to the calls that are made while the block runs.

    Args:
        **changes: Attributes of `Shell`.
    """
    token = _SHELL.set(dataclasses.replace(_SHELL.get(), **changes))
    try:
        yield
    finally:
        _SHELL.reset(token)


def checked(*bundles: Path) -> None:
    """Say that all that can be known early is right: the end of a call that was only to be checked.

    Args:
        *bundles: What has to be there.

    Raises:
        Checked: It was.
        BundleError: A bundle is not there.
    """
    if current().only_check:
        from edgespa.api.early import require_bundles

        require_bundles(*bundles)
        raise Checked
