"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from edgespa.errors import OutputExistsError


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise before any work is done if an output file cannot be written where it should go.

    Raises:
        OutputExistsError: If the path exists and may not be replaced, or is a folder.
        FileNotFoundError: If its folder does not exist.
    """
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputExistsError(path)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(2, "the folder for the output does not exist", str(path.parent))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its target, flush it to the disk and rename it into place.

    Raises:
        OSError: If the disk is full or the folder cannot be written; nothing is left behind then.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.absolute().parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
