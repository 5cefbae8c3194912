"""What a device has of each task, read only: whatever lies there is told, and stops nothing.

    tasks/TASK/0007-3fa2b1c9/       a version: the files of a bundle, and the base if it needs one
    tasks/TASK/0007-3fa2b1c9.json   written once the version has passed its self-check here
    tasks/TASK/.0007-3fa2b1c9.link  a link that is ready to be put in the place of the one below
    tasks/TASK/current              a link to the version in use
    tasks/TASK/window.json          its health window, see `edgespa.device.agent.window`
    tasks/TASK/update.lock          held by applications that use it, see `edgespa.device.agent.update_lock`

A version without its record is unfinished. Its name ends with the beginning of its manifest's SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import stat
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.cache import sha256_of
from edgespa.device.agent.disk import storage
from edgespa.device.agent.protocol import AgentError, is_digest, within

VERSION = re.compile(r"^([0-9]{4,12})-([0-9a-f]{8})$")
TASK = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
CURRENT, MANIFEST, WINDOW = "current", "manifest.json", "window.json"
BASE = "base.safetensors"
MOST_RECORD, MOST_MANIFEST = 1 << 20, 64 << 20  # bytes; what is larger is none of ours
MOST_TASKS = 1000


def task_folder(root: Path, name: Any) -> Path:
    """The folder of a task."""
    if not isinstance(name, str) or not TASK.match(name):
        raise AgentError("usage", f"{name!r} cannot be the name of a task")
    return within(root, f"tasks/{name}")


def version_folder(root: Path, request: dict[str, Any]) -> Path:
    """The folder of a version that is there."""
    folder, version = task_folder(root, request["task"]), request["version"]
    if not isinstance(version, str) or version not in versions_of(folder):
        there = ", ".join(versions_of(folder)) or "none"
        raise AgentError("no-version", f"task {request['task']} has no version {version}; it has: {there}")
    return folder / version


def versions_of(folder: Path) -> list[str]:
    """The versions in a task's folder, the oldest first; unfinished ones too."""
    try:
        names = os.listdir(str(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [name for name in names if VERSION.match(name) and _is_folder(folder / name)]
    return sorted(found, key=number_of)


def number_of(version: str) -> int:
    """By which versions are in order."""
    return int(version.split("-")[0])


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(str(path)).st_mode)
    except OSError:
        return False


def current_of(folder: Path) -> str | None:
    """The version in use; None where there is none, or where the link leads elsewhere."""
    try:
        name = os.readlink(str(folder / CURRENT))
    except OSError:
        return None
    return name if VERSION.match(name) and _is_folder(folder / name) else None


def read_small(path: Path, most: int) -> bytes:
    """The content of a regular file that is not larger; a pipe or a link there is not waited for, or followed."""
    descriptor = os.open(str(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is no regular file")
        if state.st_size > most:
            raise ValueError(f"it has {state.st_size:,} bytes")
        if not state.st_size:
            raise ValueError("it is empty")
        return file.read(most)


def record_of(folder: Path, version: str) -> tuple[dict[str, Any] | None, str | None]:
    """What was written when a version had passed its self-check, and what is wrong with it; two None: unfinished."""
    path = folder / f"{version}.json"
    if not os.path.lexists(str(path)):
        return None, None
    try:
        record = json.loads(read_small(path, MOST_RECORD).decode("utf-8"))
        if isinstance(record, dict):
            return record, None
        return None, "its record is no table"
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        return None, f"its record cannot be read: {_reason(error)}"


def window_of(folder: Path) -> dict[str, Any] | None:
    """How the last health window of a task stands; None where there was none, or what is written of it is odd."""
    try:
        state = json.loads(read_small(folder / WINDOW, MOST_RECORD).decode("utf-8"))
    except (OSError, ValueError, RecursionError, MemoryError):
        return None
    return state if isinstance(state, dict) and isinstance(state.get("state"), str) else None


def read_report(root: Path) -> dict[str, Any] | None:
    """What came of the last pull, see `edgespa.device.agent.pull`; None where there was none, or it cannot be read."""
    try:
        found = json.loads(read_small(root / "pull" / "report.json", MOST_RECORD).decode("utf-8"))
    except (OSError, ValueError, RecursionError, MemoryError):
        return None
    return found if isinstance(found, dict) else None


def is_finished(folder: Path, version: str) -> bool:
    """Whether a version has passed its self-check once: a record that was damaged since says so too."""
    return os.path.lexists(str(folder / f"{version}.json"))


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) else str(error)
    return " ".join(str(text or type(error).__name__).split())[:200]


def entries_of(folder: Path) -> list[dict[str, Any]]:
    """``path``, ``sha256`` and ``size_bytes`` of the files of a version, by its manifest.

    Raises:
        ValueError: The manifest is not the one that the version is named after, or no manifest.
        OSError: It cannot be read.
    """
    text = read_small(folder / MANIFEST, MOST_MANIFEST)
    named = VERSION.match(folder.name)
    if named and not hashlib.sha256(text).hexdigest().startswith(named.group(2)):
        raise ValueError("it has changed")
    return entries_in(text, folder)


def entries_in(text: bytes, folder: Path) -> list[dict[str, Any]]:
    """The same of a manifest that is at hand.

    Args:
        text: Its bytes.
        folder: Where its files are to lie, and nowhere else.

    Raises:
        ValueError: It is no manifest.
    """
    try:
        manifest = json.loads(text.decode("utf-8"))
        rows = [(entry["path"], entry["sha256"], entry["size_bytes"]) for entry in manifest["files"]]
        needs = [variant["weights"] for variant in manifest["variants"] if variant.get("weights")]
        rows += [(BASE, weights["base_sha256"], weights["base_size_bytes"]) for weights in needs[:1]]
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is odd: {type(error).__name__}: {_reason(error)}") from error
    entries = [{"path": MANIFEST, "sha256": hashlib.sha256(text).hexdigest(), "size_bytes": len(text)}]
    for path, sha256, size in rows:
        if not (isinstance(path, str) and is_digest(sha256) and isinstance(size, int)):
            raise ValueError("it is odd: a file in it has no path, digest or size")
        try:
            within(folder, path)
        except (AgentError, ValueError) as error:
            raise ValueError(f"it is odd: {_reason(error)}") from error
        entries.append({"path": path, "sha256": sha256, "size_bytes": size})
    return entries


def problems(folder: Path) -> list[str]:
    """What is wrong with the files of a version, in phrases: sizes and SHA-256 against its manifest."""
    try:
        entries = entries_of(folder)
    except (OSError, ValueError, MemoryError) as error:
        return [f"{MANIFEST}: {_reason(error)}"]
    found = []
    for entry in entries:
        what = _changed(folder / entry["path"], entry)
        if what:
            found.append(f"{entry['path']} {what}")
    return found


def _changed(path: Path, entry: dict[str, Any]) -> str | None:
    try:
        state = os.lstat(str(path))
        if not stat.S_ISREG(state.st_mode):
            return "is no regular file"
        if state.st_size != entry["size_bytes"]:
            return f"has changed: {state.st_size:,} of {entry['size_bytes']:,} bytes"
        return None if sha256_of(path) == entry["sha256"] else "has changed"
    except OSError as error:
        return f"cannot be read: {_reason(error)}"


def tasks(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """All tasks with their versions; with ``check`` the files of the versions in use are read for their digests.

    The request may name some (``only``); after ``within_s`` seconds the agent ends, whatever it reads.

    Returns:
        ``tasks``, ``unfinished``: what first shipments that failed have left, ``odd``: names there that are no tasks,
        and the folder with its ``storage``.
    """
    if request.get("within_s"):
        signal.alarm(int(request["within_s"]))
    try:
        names = sorted(os.listdir(str(root / "tasks")))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    rows, unfinished = [], []
    own = [name for name in names if TASK.match(name) and name in request.get("only", [name])]
    for name in own[:MOST_TASKS]:
        try:
            row = _task(root / "tasks" / name, bool(request.get("check")))
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            row = {"task": name, "current": None, "link": None, "versions": [], "odd": [_reason(error)]}
        if row is None:
            unfinished.append(name)
        else:
            rows.append(row)
    cached = 0
    for path in (root / "cache").glob("*"):
        try:
            cached += os.lstat(str(path)).st_size
        except OSError:
            continue
    odd = [f"more than {MOST_TASKS} tasks"] if len(own) > MOST_TASKS else []
    found = storage(root)
    answer = {"tasks": rows, "unfinished": unfinished, "odd": odd, "storage": found, "pull": read_report(root)}
    signal.alarm(0)
    return {**answer, "free_bytes": found["free_bytes"], "cached_bytes": cached, "folder": str(root)}


def _task(folder: Path, check: bool) -> dict[str, Any] | None:
    """What there is of a task; None where only unfinished versions are, and nothing that was ever in use."""
    if not _is_folder(folder):
        raise ValueError("it is no folder")
    current, link = current_of(folder), _link_of(folder)
    names = versions_of(folder)
    if link is None and not any(is_finished(folder, name) for name in names):
        return None
    versions = []
    for name in names:
        record, wrong = record_of(folder, name)
        row: dict[str, Any] = {"version": name, "record": record, "finished": is_finished(folder, name)}
        row["odd"] = [wrong] if wrong else []
        row["problems"] = problems(folder / name) if check and name == current else None
        row.update(_sizes(folder / name))
        versions.append(row)
    row = {"task": folder.name, "current": current, "link": link, "versions": versions, "odd": []}
    return {**row, "window": window_of(folder)}


def _link_of(folder: Path) -> str | None:
    """Where what should lead to the version in use leads; None where there is nothing of that name."""
    path = str(folder / CURRENT)
    if not os.path.lexists(path):
        return None
    try:
        return os.readlink(path)
    except OSError:
        return "not a link"


def _sizes(folder: Path) -> dict[str, int]:
    total, base = 0, 0
    for place, _, names in os.walk(str(folder)):
        for name in names:
            try:
                size = os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
            total += size
            base += size if name == BASE and place == str(folder) else 0
    return {"size_bytes": total, "base_bytes": base}
