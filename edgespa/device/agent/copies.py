"""Versions that do not hang on one copy of a file: a second one, and repair by digest.

Versions share files by hard links, so what damages such a file damages it in all of them. A new version takes of each
file the copy that the version in use does not have; of any file there are at most two, however many tasks have it.

    cache/DIGEST        the first copy
    cache/DIGEST.copy   the second one, made when a version needs it
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path
from typing import Any

from edgespa.device.agent.cache import SPARE_BYTES, cache_path, sha256_of
from edgespa.device.agent.disk import delete, is_full, sync_path
from edgespa.device.agent.protocol import within


def second_path(first: Path) -> Path:
    """Where the second copy of a cached file lies, or would."""
    return first.with_name(first.name + ".copy")


def is_like(path: Path, entry: dict[str, Any]) -> bool:
    """Whether it is a regular file of that ``size_bytes`` and ``sha256``."""
    try:
        state = os.lstat(str(path))
        same = stat.S_ISREG(state.st_mode) and state.st_size == entry["size_bytes"]
        return same and sha256_of(path) == entry["sha256"]
    except OSError:
        return False


class Apart:
    """Chooses for each file of a new version a copy that another version does not have.

    Args:
        root: Where edgespa keeps things.
        used: The folder of the version that would be gone back to; None for none.

    Attributes:
        shared: Digests of the files that both have, for want of space.
    """

    def __init__(self, root: Path, used: Path | None) -> None:
        self.root = root
        self.shared: list[str] = []
        self._used = set() if used is None else {_identity(path) for path in used.glob("**/*") if path.is_file()}

    def __call__(self, entry: dict[str, Any]) -> Path:
        """The copy to link; the first one is there, and is good."""
        first = cache_path(self.root, entry["sha256"])
        if _identity(first) not in self._used:
            return first
        second = second_path(first)
        if is_like(second, entry) and _identity(second) not in self._used:
            return second
        if shutil.disk_usage(str(first.parent)).free > entry["size_bytes"] + SPARE_BYTES:
            with contextlib.suppress(OSError):
                copy_whole(first, second)
                return second
        self.shared.append(entry["sha256"])
        return first


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file so that the copy is whole or not there, also after a power cut; it may not be written to."""
    new = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(str(source), str(new))
        os.chmod(str(new), 0o444)
        sync_path(new)
        os.replace(str(new), str(target))
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def restore_cached(root: Path, entry: dict[str, Any]) -> bool:
    """Whether a cached file is good, or could be replaced by its second copy; a bad one is removed."""
    first = cache_path(root, entry["sha256"])
    if is_like(first, entry):
        return True
    delete(first)
    second = second_path(first)
    if is_like(second, entry):
        os.replace(str(second), str(first))
        return True
    delete(second)
    return False


def repair(root: Path, folder: Path, entries: list[dict[str, Any]]) -> list[str]:
    """Replace files of a version that are not what they should be by good copies, as far as there are any.

    Args:
        root: Where edgespa keeps things.
        folder: Of the version.
        entries: ``path``, ``sha256`` and ``size_bytes`` of its files.

    Returns:
        The paths that were repaired.
    """
    repaired = []
    for entry in entries:
        path = within(folder, entry["path"])
        if is_like(path, entry):
            continue
        first = cache_path(root, entry["sha256"])
        others = [other / entry["path"] for other in sorted(folder.parent.glob("[0-9]*")) if other != folder]
        good = next((each for each in (first, second_path(first), *others) if is_like(each, entry)), None)
        if good is not None:
            _replace(good, path)
            repaired.append(entry["path"])
    return repaired


def _replace(good: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        delete(path)
    try:
        copy_whole(good, path)
    except OSError as error:
        if not is_full(error):
            raise
        # Without space for a copy, the good one serves both.
        new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        os.link(str(good), str(new))
        os.replace(str(new), str(path))
    sync_path(path.parent)


def make_room(root: Path) -> int:
    """On a full disk: remove cached files that no version has, which can be sent again; their bytes."""
    freed = 0
    for path in (root / "cache").glob("*"):
        with contextlib.suppress(OSError):
            state = os.lstat(str(path))
            if stat.S_ISREG(state.st_mode) and state.st_nlink == 1 and path.suffix != ".part":
                path.unlink()
                freed += state.st_size
    return freed
