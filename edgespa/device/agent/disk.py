"""The file system below the folder: whether what is written there stays, and what it can do."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any

from edgespa.device.agent.system import System, table_of, text_of

_IN_MEMORY = ("tmpfs", "ramfs", "rootfs")
_ON_BOOT = (  # what the kernel was started with, where an overlay's upper folder cannot be seen any more
    (r"\bboot=overlay\b", "raspi-config's overlay file system"),
    (r"\boverlayroot=(?!disabled)\S*tmpfs", "overlayroot"),
    (r"\bsystemd\.volatile=overlay\b", "systemd.volatile"),
    (r"^(?!.*\bpersistence\b).*\bboot=live\b", "a live system"),
    (r"^(?!.*\bpersistent\b).*\bboot=casper\b", "a live system"),
    (r"^(?!.*\brd\.live\.overlay=).*\brd\.live\.image\b", "a live system"),
)


def storage(root: Path, system: System | None = None) -> dict[str, Any]:
    """What the folder lies on.

    Args:
        root: Where edgespa keeps things, or would.
        system: Where the system's files are.

    Returns:
        ``type`` of the file system (None where it cannot be found out), its ``mount`` point, ``in_memory``: why what is
        written there is gone after a reboot, in words, or None, and ``free_bytes`` and ``free_files`` (None where it
        does not count them).
    """
    system = system or System()
    there = nearest(root)
    state = os.statvfs(str(there))
    mounts = _mounts(system)
    found = _mount_of(mounts, os.path.realpath(str(there)))
    return {
        "type": found[1] if found else None,
        "mount": found[0] if found else None,
        "in_memory": _in_memory(system, mounts, found, state) if found else None,
        "free_bytes": state.f_bavail * state.f_frsize,
        "free_files": state.f_favail if state.f_files else None,
    }


def nearest(root: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next((each for each in (root, *root.parents) if each.is_dir()), Path("/"))


def _mounts(system: System) -> list[tuple[str, str, str, str]]:
    """Of each: where, its type, its source, its options."""
    rows = []
    for line in (text_of(system.proc / "self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        own, rest = before.split(" "), after.split(" ")
        if len(own) >= 6 and len(rest) >= 2:
            rows.append((_plain(own[4]), rest[0], _plain(rest[1]), _plain(" ".join(rest[2:]))))
    return rows


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), text)


def _mount_of(mounts: list[tuple[str, str, str, str]], path: str) -> tuple[str, str, str, str] | None:
    """The mount that a path lies on: the longest, and of equal ones the last, which covers the others."""
    found = None
    for mount in mounts:
        below = path == mount[0] or path.startswith(mount[0].rstrip("/") + "/")
        if below and (found is None or len(mount[0]) >= len(found[0])):
            found = mount
    return found


def _in_memory(
    system: System,
    mounts: list[tuple[str, str, str, str]],
    mount: tuple[str, str, str, str],
    state: Any,
    depth: int = 4,
) -> str | None:
    where, kind, source, options = mount
    if kind in _IN_MEMORY:
        return f"{where} is a {kind}"
    if re.match(r"^/dev/(zram|ram)\d", source):
        return f"{where} is on {source}"
    loop = re.match(r"^/dev/(loop\d+)", source)
    below = None
    if loop:
        below = text_of(system.sys / "block" / loop.group(1) / "loop/backing_file")
    elif kind in ("overlay", "overlayfs"):
        below = next((each[9:] for each in options.split(",") if each.startswith("upperdir=")), None)
        if below is None:
            return None  # nothing can be written at all
    elif kind == "aufs":
        branches = sorted((system.sys / "fs/aufs").glob("si_*/br[0-9]*"))
        texts = [text_of(branch) or "" for branch in branches]
        below = next((text.rpartition("=")[0] for text in texts if text.endswith("=rw")), None)
    if below is None or depth == 0:
        return None
    inner = _mount_of(mounts, below) if os.path.isabs(below) else None
    if inner is not None and inner != mount:
        why = _in_memory(system, mounts, inner, state, depth - 1)
        return f"{where} is {_named(kind)}, and what is written goes to {below}: {why}" if why else None
    if loop:
        return None
    # The upper folder was mounted before this root, and cannot be seen from here.
    started = text_of(system.proc / "cmdline") or ""
    for pattern, name in _ON_BOOT:
        if re.search(pattern, started):
            return f"{where} is {_named(kind)} whose writes go to memory: {name}"
    half = table_of(system.proc / "meminfo").get("MemTotal", 0) * 1024 // 2  # as large as a tmpfs is by default
    size = state.f_blocks * state.f_frsize
    if half and abs(size - half) <= half // 50:
        return f"{where} is {_named(kind)}, and as large as half of the memory: its writes go there"
    return None


def _named(kind: str) -> str:
    return "an overlay" if kind.startswith("overlay") else f"of type {kind}"


def shortcomings(root: Path) -> list[str]:
    """What cannot be done in the folder and has to be: tried, in phrases; a full or read-only disk is an error.

    A version is put in use by the rename of a symbolic link over another.
    """
    root.mkdir(parents=True, exist_ok=True)
    place = root / f".try.{os.getpid()}"
    for left in root.glob(".try.*"):
        shutil.rmtree(str(left), ignore_errors=True)
    place.mkdir()
    try:
        (place / "one").mkdir()
        (place / "file").write_bytes(b"x")
        found = _tried("a file's mode cannot be changed", lambda: os.chmod(str(place / "file"), 0o444))
        found += _tried("a folder cannot be renamed", lambda: os.replace(str(place / "one"), str(place / "two")))
        links = _tried("there are no symbolic links", lambda: _link(place, "first"))
        if not links:
            _link(place, "second")
            links = _tried("a link cannot be replaced", lambda: os.replace(str(place / "second"), str(place / "first")))
            if not links and os.readlink(str(place / "first")) != "two":
                links = ["links lead elsewhere"]
        return found + links
    finally:
        shutil.rmtree(str(place), ignore_errors=True)


def _link(place: Path, name: str) -> None:
    os.symlink("two", str(place / name))


def _tried(what: str, action: Any) -> list[str]:
    try:
        action()
    except OSError as error:
        if is_full(error) or error.errno == errno.EROFS:
            raise
        return [f"{what} ({error.strerror})"]
    except (NotImplementedError, AttributeError):
        return [what]
    return []


def is_full(error: OSError) -> bool:
    """Whether it says that there is no space: no free bytes, no free files, or no quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, so that they survive a power cut."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    sync_path(path.parent)


def delete(path: Path) -> None:
    """Remove whatever has that name; a link is not followed, and a pipe not opened, as `shutil.rmtree` would."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path), ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def sync_path(path: Path) -> None:
    """Let what a file or a folder has survive a power cut; a file system that cannot do it does what it can."""
    descriptor = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
