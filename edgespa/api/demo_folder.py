"""The folder of a demo: one of its own, told before anything is trained, and known again by a mark."""

from __future__ import annotations

import os
from pathlib import Path

from edgespa.errors import OutputExistsError
from edgespa.system.files import require_folder_possible, require_writable, write_whole

MARK = ".edgespa-demo"


def require_own_folder(output: Path) -> None:
    """Refuse a folder that holds something else than an earlier demo, or that cannot be written.

    Raises:
        OutputExistsError: Something else is there.
        OSError: Nothing can be written there.
    """
    if not os.path.lexists(output):
        require_folder_possible(output)
        return
    if not output.is_dir() or (any(output.iterdir()) and not (output / MARK).is_file()):
        raise OutputExistsError(
            output, ", and is no folder of an earlier demo", "name another folder with --output, or remove it yourself"
        )
    require_writable(output / MARK)


def take_folder(output: Path) -> None:
    """Make the folder, or take that of an earlier demo; nothing in it is touched by that.

    Raises:
        OutputExistsError: As `require_own_folder`.
        OSError: Likewise.
    """
    require_own_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / MARK, b"Made by edgespa demo, which replaces what it made here.\n")
