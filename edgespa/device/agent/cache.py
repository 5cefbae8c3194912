"""Files by their SHA-256: received once, resumed after a break, linked into folders that are whole."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable  # for annotations only: Python 3.8 cannot subscript them
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.disk import delete, make_folder, sync_path
from edgespa.device.agent.protocol import AgentError, is_digest, named, within

SPARE_BYTES = 8 << 20  # a disk filled to the last byte is a broken device
KEPT_DAYS = 7  # a cached file that nothing uses any more


def cache_path(root: Path, digest: Any) -> Path:
    """Where a file of that digest lies, or would."""
    if not is_digest(digest):
        raise AgentError("usage", f"{digest!r} is not a SHA-256")
    return root / "cache" / str(digest)


def partial_path(path: Path) -> Path:
    """What has been received of a file so far."""
    return path.with_name(path.name + ".part")


def have(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Of each digest: whether the file is there, and else how many bytes of it."""
    found = {}
    for digest in request["digests"]:
        path = cache_path(root, digest)
        partial = partial_path(path)
        whole = path.is_file()
        size = path.stat().st_size if whole else partial.stat().st_size if partial.is_file() else 0
        found[digest] = {"whole": whole, "size_bytes": size}
    return {"files": found}


def receive(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Take the rest of each file from the stream; what has come stays, should the stream end too early.

    The request lists the files in the order of the stream, each with its digest, its size, and the offset at which its
    part of the stream begins.
    """
    files = request["files"]
    make_folder(root / "cache")
    require_space(root / "cache", sum(int(entry["size_bytes"]) - int(entry["offset"]) for entry in files))
    for entry in files:
        _receive_one(cache_path(root, entry["sha256"]), int(entry["size_bytes"]), int(entry["offset"]), stream)
    sync_path(root / "cache")
    return {"received": len(files)}


def _receive_one(path: Path, size: int, offset: int, stream: BinaryIO) -> None:
    partial = partial_path(path)
    for other in (path, partial):
        if not other.is_file():
            delete(other)
    with named(partial), partial.open("ab") as target:
        try:
            fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AgentError("busy", f"another edgespa sends {path}") from error
        if target.seek(0, os.SEEK_END) < offset:
            raise AgentError("offset", f"{partial} is shorter than {offset} bytes")
        target.truncate(offset)
        try:
            there = _copy(stream, target.fileno(), offset, size)
        except OSError:
            partial.unlink()  # most likely the disk is full: what is there cannot be used
            raise
        os.fsync(target.fileno())
        if there < size:
            raise AgentError("cut", f"{path}: {there} of {size} bytes have come")
        if sha256_of(partial) != path.name:
            partial.unlink()
            raise AgentError("damaged", f"{path}: what has come has another SHA-256")
        os.chmod(partial, 0o444)
        os.replace(partial, path)


def _copy(stream: BinaryIO, target: int, offset: int, size: int) -> int:
    """Write at most the missing bytes, as they come; how many there are then."""
    while offset < size:
        piece = stream.read1(min(1 << 18, size - offset))  # type: ignore[attr-defined]  # stdin's buffer has it
        if not piece:
            break
        view = memoryview(piece)
        while view:
            view = view[os.write(target, view) :]
        offset += len(piece)
    return offset


def place(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Make a folder of cached files: hard links, each checked, under another name until all are there.

    The request has the folder's name below the root, and path, digest and size of each file. A folder that is there
    and whole is left as it is; one that is not is replaced. With ``probe`` it is only looked at.

    Returns:
        The folder's path, whether it is whole, and ``damaged``: digests of cached files that are not there or had
        changed, and are removed; the host is to send them again.
    """
    folder, files = within(root, request["folder"]), request["files"]
    whole = all(_is_file(within(folder, entry["path"]), entry) for entry in files)
    damaged = []
    if whole:
        os.utime(str(folder))  # `sweep` keeps what was used last
    elif not request.get("probe"):
        for entry in files:
            path = cache_path(root, entry["sha256"])
            if not _is_file(path, entry):
                path.unlink(missing_ok=True)
                damaged.append(entry["sha256"])
        if not damaged:
            link_files(root, folder, files)
            whole = True
    return {"folder": str(folder), "whole": whole, "damaged": sorted(set(damaged))}


def link_files(
    root: Path,
    folder: Path,
    files: list[dict[str, Any]],
    choose: Callable[[dict[str, Any]], Path] | None = None,
) -> None:
    """Make a folder of cached files; it is whole or not there, also after a power cut.

    Args:
        root: Where edgespa keeps things.
        folder: To be made.
        files: Path, digest and size of each.
        choose: Which copy of a file to link; by default the first one.
    """
    make_folder(folder.parent)
    for left in folder.parent.glob(f".{folder.name}.*.new"):  # of a run that was ended in the middle
        delete(left)
    new = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    new.mkdir()
    try:
        for entry in files:
            target = within(new, entry["path"])
            target.parent.mkdir(parents=True, exist_ok=True)
            source = choose(entry) if choose is not None else cache_path(root, entry["sha256"])
            try:
                os.link(source, target)
            except OSError:  # a file system without hard links
                shutil.copyfile(source, target)
                sync_path(target)
        for place, _, _ in os.walk(str(new), topdown=False):
            sync_path(Path(place))
        delete(folder)
        os.replace(new, folder)
    except BaseException:
        delete(new)
        raise
    sync_path(folder.parent)


def sweep(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Remove folders of ``folder`` but the ``keep`` last used, and old cached files that nothing uses."""
    parent = within(root, request["folder"])
    folders = [path for path in parent.glob("*") if path.is_dir()] if parent.is_dir() else []
    folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in folders[int(request["keep"]) :]:
        shutil.rmtree(path, ignore_errors=True)
    return {"removed_bytes": sweep_cache(root), "removed_folders": max(0, len(folders) - int(request["keep"]))}


def sweep_cache(root: Path, endings: tuple[str, ...] = ("",)) -> int:
    """Remove old cached files that nothing uses, and what transfers that nobody goes on with have left; their bytes.

    Args:
        root: Where edgespa keeps things.
        endings: Of their names; by default any.
    """
    removed, oldest = 0, time.time() - KEPT_DAYS * 86400
    for path in (root / "cache").glob("*"):
        with contextlib.suppress(OSError):
            state = path.stat()
            if state.st_nlink == 1 and state.st_mtime < oldest and path.name.endswith(endings):
                path.unlink()
                removed += state.st_size
    return removed


def require_space(folder: Path, needed: int) -> None:
    """Refuse what does not fit on the disk, before it is begun."""
    free = shutil.disk_usage(folder).free
    if needed > 0 and needed + SPARE_BYTES > free:
        what = f"{needed:,} bytes and {SPARE_BYTES:,} to spare are needed"
        raise AgentError("full", f"{folder}: {what}, {free:,} bytes are free")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def _is_file(path: Path, entry: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["size_bytes"] and sha256_of(path) == entry["sha256"]
