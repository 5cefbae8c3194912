"""Where the ``edgespa.toml`` of a folder is, and which commands look for it: quick, for each of them does."""

from __future__ import annotations

import os
from pathlib import Path

from edgespa.system.files import expanded

NAME = "edgespa.toml"
COMMANDS = (
    "inspect", "adapt", "prune", "heal", "export", "compress", "verify", "profile", "ship", "card",
)  # fmt: skip
"""Those that take values from it."""


def find_project(folder: Path, home: Path | None = None) -> Path | None:
    """The project's file of a folder: in it, or in the nearest folder above that has one.

    Looking ends with the first folder that has a ``.git``, and before the home folder and the root of the file system:
    what lies there is no project of what is below. A file that belongs to somebody else than this user or root is
    passed over, so that nobody who may write to a folder above, as to ``/tmp``, has a say.

    Args:
        folder: To begin in.
        home: The home folder; this user's by default.
    """
    home = expanded("~") if home is None else home
    folder = Path(os.path.abspath(folder))
    for each in (folder, *folder.parents):
        if each != folder and (each == home or each == each.parent):
            return None
        file = each / NAME
        if _is_ours(file):
            return file
        if os.path.lexists(each / ".git"):
            return None
    return None


def _is_ours(file: Path) -> bool:
    try:
        return file.is_file() and file.stat().st_uid in (os.geteuid(), 0)
    except OSError:
        return False
