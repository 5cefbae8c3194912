"""Files and folders that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgespa.errors import OutputExistsError

with contextlib.suppress(ImportError):  # Windows has none, and there nothing is held or removed
    import fcntl
_LOCKS = "fcntl" in globals()

MAX_TEXT = 1 << 24
"""Bytes of what somebody may have written by hand."""
_PROBE_BYTES = 4096
_HEX = "[0-9a-f]{8}"


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise before any work is done if an output file cannot be written where it should go.

    Raises:
        OutputExistsError: If the path exists and may not be replaced, or is a folder.
        FileNotFoundError: If its folder does not exist.
        OSError: If nothing can be written in that folder, or its disk is full; or if it is a device or a pipe.
    """
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputExistsError(path)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(2, "the folder for the output does not exist", str(path.parent))
    _require_a_file(path)
    require_writable(path)


def _require_a_file(path: Path) -> None:
    """Refuse to put a file into the place of ``/dev/null``, a pipe or a socket.

    Raises:
        OSError: If that is there.
    """
    if str(path.absolute().parent) in ("/dev", "/dev/fd", "/proc/self/fd"):  # links such as /dev/stdout, too
        raise OSError(errno.EEXIST, "devices are there, which a file would replace", str(path))
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EEXIST, "it is a device, a pipe or a socket, which a file would replace", str(path))


def require_writable(path: Path) -> None:
    """Raise if no file can be written at a path, in a folder that is there: tried, because rights do not say all of it.

    Raises:
        OSError: With the path, and the reason: the disk is full or read-only, the folder is another user's, the name is
            too long.
    """
    remove_abandoned(path, "try")
    probe = sibling(path, "try")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)
        with _made(probe, 0o666) as stream:
            stream.write(bytes(_PROBE_BYTES))
            stream.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with uninterrupted():
            probe.unlink(missing_ok=True)


def require_folder_possible(path: Path) -> None:
    """Raise if no folder can be made at a path, with the folders above it.

    Raises:
        OSError: As `require_writable`, for the first folder above that is there.
    """
    missing = path.absolute()
    while not os.path.lexists(missing.parent) and missing.parent != missing:
        missing = missing.parent
    if not missing.parent.is_dir():
        raise NotADirectoryError(20, "it is a file, not a folder", str(missing.parent))
    require_writable(missing)


def expanded(text: str | Path) -> Path:
    """A path with its ``~`` replaced; as it is where there is no such user.

    Whoever has no home folder at all, as an unknown user in a container, gets ``/``, as docker has it: where nothing
    can be written there, nothing is kept.

    Args:
        text: The path, from wherever.
    """
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError):
        path = Path(text)
        return Path("/", *path.parts[1:]) if path.parts[:1] == ("~",) else path


def open_plain(path: Path) -> BinaryIO:
    """Open a file to read that lies in a folder of whomever: what has no end, or nothing to give, is not waited for.

    Args:
        path: Of a file, or of a link to one.

    Raises:
        OSError: It cannot be opened, or is a pipe, a device or a folder.
    """
    stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    return stream


def plain_text(path: Path, encoding: str = "utf-8", most: int = MAX_TEXT) -> str:
    """The text in a file of whomever, with the ends of lines that Unix has.

    Args:
        path: See `open_plain`.
        encoding: In Python's words.
        most: More bytes are not a file of the kind that is looked for.

    Raises:
        OSError: It cannot be read, or is larger.
        UnicodeDecodeError: It is not text.
    """
    with open_plain(path) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most / 2**20:g} MiB, and should be a short text", str(path))
    return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; what cannot be a path, or may not be looked at, is not there.

    Args:
        path: From wherever: too long, with any character.
    """
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def write_whole(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file beside its target, flush it to the disk and rename it into place.

    Args:
        path: The file.
        content: All of it.
        mode: Rights of the file, less those that the umask takes.

    Raises:
        OSError: If the disk is full or the folder cannot be written; nothing is left behind then.
    """
    with whole_file(path, mode=mode) as stream:
        stream.write(content)


@contextlib.contextmanager
def whole_file(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """As `write_whole`, for content that comes in pieces: it is in its place once the block is left without an error.

    What a killed process left of an earlier try is removed.

    Args:
        path: The file.
        mode: As `write_whole`.

    Yields:
        The stream to write to.

    Raises:
        OSError: If the disk is full or the folder cannot be written; nothing is left behind then.
    """
    _require_a_file(path)
    remove_abandoned(path)
    # Named before it is made: an interrupt straight afterwards must still find what to remove.
    temporary = sibling(path, "tmp")
    try:
        with _made(temporary, mode) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            if _LOCKS:
                os.replace(temporary, path)  # while it is held: afterwards it would be taken for abandoned
        if not _LOCKS:
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
    return path.absolute().with_name(f"{_stem(path, kind)}{secrets.token_hex(4)}")


def _stem(path: Path, kind: str) -> str:
    return f".{path.name[:60]}.{kind}-"


def _made(path: Path, mode: int) -> BinaryIO:
    while True:
        stream = open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
        if _held_new(stream.fileno(), path):
            return stream
        stream.close()


def make_held_folder(path: Path) -> int | None:
    """Make a folder that is in use, see `hold`.

    Args:
        path: The folder.

    Returns:
        A descriptor of it, for as long as it is open; None where folders cannot be opened.

    Raises:
        OSError: It cannot be made.
    """
    while True:
        path.mkdir()
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        if _held_new(descriptor, path):
            return descriptor
        os.close(descriptor)


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A hidden folder on the file system of a path, for the while; what killed processes left of such is removed.

    Args:
        path: Its folder is there.

    Raises:
        OSError: It cannot be made.
    """
    remove_abandoned(path)
    folder = sibling(path, "tmp")
    held = None
    try:
        held = make_held_folder(folder)
        yield folder
    finally:
        with uninterrupted():
            shutil.rmtree(folder, ignore_errors=True)
            if held is not None:
                os.close(held)


def _held_new(descriptor: int, path: Path) -> bool:
    """Hold what has just been made; False if another process took it for abandoned before that."""
    hold(descriptor, wait=True)  # for whoever is removing it
    return os.path.lexists(path)


def hold(descriptor: int, *, wait: bool = False) -> None:
    """Mark a temporary file or folder as in use, for as long as it is open here or in a child.

    Args:
        descriptor: Of it, open.
        wait: Until nobody else has it.
    """
    if _LOCKS:
        with contextlib.suppress(OSError):  # a file system without locks: nothing is ever removed there
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Whether another process, or this one, has a file in use, see `hold`; False where that cannot be seen."""
    if not _LOCKS:
        return False
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def remove_abandoned(path: Path, kind: str = "tmp") -> None:
    """Remove what killed processes left beside an output: siblings that nobody holds, see `hold`.

    Args:
        path: The output.
        kind: Of `sibling`.
    """
    _remove_left(path.absolute().parent, re.compile(re.escape(_stem(path, kind)) + _HEX))


def remove_abandoned_in(folder: Path) -> None:
    """As `remove_abandoned`, of all outputs: for a folder that nobody else writes, and whose names do not come again.

    Args:
        folder: It.
    """
    _remove_left(folder, re.compile(rf"\..+\.tmp-{_HEX}"))


def _remove_left(folder: Path, names: re.Pattern[str]) -> None:
    if not _LOCKS:
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if names.fullmatch(name):
                _remove_unheld(folder / name)


def _remove_unheld(found: Path) -> None:
    try:
        descriptor = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if found.is_dir():
            shutil.rmtree(found, ignore_errors=True)
        else:
            found.unlink()
    except OSError:
        pass  # it is held, or somebody else was faster
    finally:
        os.close(descriptor)


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
