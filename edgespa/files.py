"""Files and folders that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

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
    with whole_file(path) as stream:
        stream.write(content)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """As `write_whole`, for content that comes in pieces: it is in its place once the block is left without an error.

    Yields:
        The stream to write to.

    Raises:
        OSError: If the disk is full or the folder cannot be written; nothing is left behind then.
    """
    # Named before it is made: an interrupt straight afterwards must still find what to remove.
    temporary = sibling(path, "tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with uninterrupted():
            temporary.unlink(missing_ok=True)
        name_file(error, path)
        raise


def name_file(error: BaseException | None, path: Path) -> None:
    """Let an error of the system say which output it is about: that of a write does not."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)


def sibling(path: Path, kind: str) -> Path:
    """A hidden name that is not taken, on the same file system."""
    return path.absolute().with_name(f".{path.name[:60]}.{kind}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C for a moment: for cleaning up after one, which a second must not cut short."""
    if threading.current_thread() is not threading.main_thread():  # only there can it arrive, or be ignored
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        # None: it was set by other than Python code, and cannot be put back.
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
