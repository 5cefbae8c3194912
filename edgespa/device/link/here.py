"""This machine, as a device."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence

from edgespa.device.board import DEFAULT_FOLDER
from edgespa.device.link.transport import Completed, Connection
from edgespa.system.files import expanded


class LocalConnection(Connection):
    """This machine, as a device: the same calls, with no network and this Python."""

    @property
    def python(self) -> list[str]:
        """This Python."""
        return [sys.executable, "-I", "-S"]

    @property
    def folder(self) -> str:
        """As everywhere, but ``XDG_DATA_HOME`` is heeded; without a home that can be written, one for temporary files.

        Users of containers have such homes. Whether the folder is ours alone is looked at there as everywhere.
        """
        base, asked = os.environ.get("XDG_DATA_HOME"), super().folder
        at_home = os.path.expanduser(asked)
        homeless = at_home.startswith("~")
        if asked != DEFAULT_FOLDER:
            return str(expanded(asked)) if homeless else asked
        if base:
            return os.path.join(base, "edgespa")
        return asked if not homeless and _can_be_made(at_home) else _temporary_folder()

    def _command(self, argv: Sequence[str]) -> tuple[list[str], Mapping[str, str] | None]:
        return list(argv), None

    def by_hand(self, argv: Sequence[str] = ()) -> str:
        """The program itself."""
        return shlex.join(argv)

    def _check(self, done: Completed) -> None:
        """There is no way that could fail."""


def _can_be_made(path: str) -> bool:
    """Whether a folder is there and can be written, or can be made with those above it."""
    if not os.path.isabs(path):  # there is no home at all
        return False
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def _temporary_folder() -> str:
    return os.path.join(tempfile.gettempdir(), f"edgespa-{os.getuid()}")
