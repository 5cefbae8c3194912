"""The versions of each task on the device: staged, judged, switched to by one rename, kept or removed.

    tasks/TASK/0007-3fa2b1c9/       a version: the files of a bundle, and the base if it needs one
    tasks/TASK/0007-3fa2b1c9.json   written once the version has passed its self-check here
    tasks/TASK/current              a link to the version in use

A version without its record is unfinished and may be removed. What is in use changes by the rename of a link alone, so
whatever happens before leaves the old version in use, and whatever happens after the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.cache import cache_path, link_files, sha256_of, sync_folder
from edgespa.device.agent.protocol import AgentError, within

VERSION = re.compile(r"^(\d{4,})-([0-9a-f]{8})$")
TASK = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
CURRENT, MANIFEST, SIGNATURE = "current", "manifest.json", "manifest.json.sig"
BASE = "base.safetensors"


def task_folder(root: Path, name: Any) -> Path:
    """The folder of a task."""
    if not isinstance(name, str) or not TASK.match(name):
        raise AgentError("usage", f"{name!r} cannot be the name of a task")
    return within(root, f"tasks/{name}")


def version_folder(root: Path, request: dict[str, Any]) -> Path:
    """The folder of a version that is there."""
    folder, version = task_folder(root, request["task"]), request["version"]
    if not isinstance(version, str) or not VERSION.match(version) or not (folder / version).is_dir():
        there = ", ".join(versions_of(folder)) or "none"
        raise AgentError("no-version", f"task {request['task']} has no version {version}; it has: {there}")
    return folder / version


def versions_of(folder: Path) -> list[str]:
    """The versions in a task's folder, the oldest first; unfinished ones too."""
    found = [path.name for path in folder.glob("*") if VERSION.match(path.name) and path.is_dir()]
    return sorted(found, key=lambda name: int(name.split("-")[0]))


def current_of(folder: Path) -> str | None:
    """The version in use; None where there is none."""
    try:
        name = os.path.basename(os.readlink(str(folder / CURRENT)))
    except OSError:
        return None
    return name if VERSION.match(name) and (folder / name).is_dir() else None


def record_of(folder: Path, version: str) -> dict[str, Any] | None:
    """What was written when a version had passed its self-check; None for an unfinished one."""
    try:
        record = json.loads((folder / f"{version}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def stage(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Make a version of cached files, or find the one with the same manifest; nothing is in use by it yet.

    The request has ``task``, ``digest`` (of the manifest), and ``files`` (path, SHA-256 and size of each). What an
    earlier run has left unfinished is removed first: the caller holds the lock.

    Returns:
        ``version``, its ``folder``, ``current``, the unfinished versions that were ``removed``, and ``damaged``:
        digests of cached files that are gone or have changed, and are to be sent again.
    """
    folder, files, digest = task_folder(root, request["task"]), request["files"], str(request["digest"])
    folder.mkdir(parents=True, exist_ok=True)
    removed = tidy(folder)
    same = [name for name in versions_of(folder) if name.endswith(digest[:8]) and _is_of(folder / name, digest)]
    for name in same:
        if not problems(folder / name):
            return _staged(folder, name, removed, [])
    damaged = _damaged(root, files)
    if damaged:
        return _staged(folder, None, removed, damaged)
    last = versions_of(folder)[-1:] or ["0000-"]
    name = f"{int(last[0].split('-')[0]) + 1:04d}-{digest[:8]}"
    link_files(root, folder / name, files)
    found = problems(folder / name)
    if found:
        shutil.rmtree(str(folder / name))
        raise AgentError("damaged", f"{request['task']}: {'; '.join(found)}")
    return _staged(folder, name, removed, [])


def _staged(folder: Path, version: str | None, removed: list[str], damaged: list[str]) -> dict[str, Any]:
    path = None if version is None else str(folder / version)
    answer = {"version": version, "folder": path, "current": current_of(folder)}
    return {**answer, "removed": removed, "damaged": damaged}


def _is_of(folder: Path, digest: str) -> bool:
    path = folder / MANIFEST
    return path.is_file() and sha256_of(path) == digest


def _damaged(root: Path, files: list[dict[str, Any]]) -> list[str]:
    """Digests of cached files that are not what they should be; they are removed."""
    found = set()
    for entry in files:
        path = cache_path(root, entry["sha256"])
        good = path.is_file() and path.stat().st_size == entry["size_bytes"] and sha256_of(path) == entry["sha256"]
        if not good:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            found.add(entry["sha256"])
    return sorted(found)


def tidy(folder: Path) -> list[str]:
    """Remove what was left unfinished in a task's folder; the versions among it."""
    keep = current_of(folder)
    removed = [name for name in versions_of(folder) if name != keep and record_of(folder, name) is None]
    for name in removed:
        _remove(folder, name)
    for path in [*folder.glob(".*.new"), *folder.glob(f".{CURRENT}.*"), *folder.glob(".*.tmp")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(str(path), ignore_errors=True)
        else:
            path.unlink()
    return removed


def problems(folder: Path) -> list[str]:
    """What is wrong with the files of a version, in phrases: sizes and SHA-256 against its manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        entries = [(entry["path"], entry["size_bytes"], entry["sha256"]) for entry in manifest["files"]]
        for variant in manifest["variants"]:
            weights = variant.get("weights")
            if weights:
                entries.append((BASE, weights["base_size_bytes"], weights["base_sha256"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return [f"{MANIFEST} cannot be read: {error}"]
    found = []
    for name, size, digest in entries:
        path = within(folder, name)
        try:
            if path.stat().st_size != size or sha256_of(path) != digest:
                found.append(f"{name} has changed")
        except OSError as error:
            found.append(f"{name}: {error.strerror or error}")
    return found


def examine(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """One version: its folder, its record, and what is wrong with its files."""
    folder = version_folder(root, request)
    record = record_of(folder.parent, folder.name)
    return {"folder": str(folder), "record": record, "problems": problems(folder)}


def check_signed(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Check a version's signature with the device's own ssh-keygen.

    The request has ``signers`` (the content of such a file), ``identity`` and ``namespace``.

    Returns:
        ``status``: ``good``, ``bad`` or ``unable`` (no ssh-keygen, or one that is too old), and what it ``said``.
    """
    folder = version_folder(root, request)
    if shutil.which("ssh-keygen") is None:
        return {"status": "unable", "said": "there is no ssh-keygen"}
    with tempfile.TemporaryDirectory(prefix="edgespa-") as place:
        signers = Path(place) / "signers"
        signers.write_text(request["signers"], encoding="utf-8")
        names = ["-I", request["identity"], "-n", request["namespace"], "-s", str(folder / SIGNATURE)]
        with (folder / MANIFEST).open("rb") as content:
            done = subprocess.run(
                ["ssh-keygen", "-Y", "verify", "-f", str(signers), *names],
                stdin=content,
                capture_output=True,
                timeout=60,
                check=False,
            )
    said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
    if done.returncode == 0:
        return {"status": "good", "said": said}
    old = "unknown option" in said or "Unsupported operation" in said
    return {"status": "unable" if old else "bad", "said": said}


def switch(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Use another version from now on: write its record, then replace the link by one rename.

    The request has ``task``, ``version`` and ``record``; with null for the record, the one that is there stays.
    """
    version = version_folder(root, request)
    folder, before = version.parent, current_of(version.parent)
    if request.get("record") is not None:
        _write(folder / f"{version.name}.json", json.dumps(request["record"], indent=1, sort_keys=True))
    elif record_of(folder, version.name) is None:
        raise AgentError("usage", f"{version.name} has not passed its self-check")
    if before != version.name:
        link = folder / f".{CURRENT}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        os.symlink(version.name, str(link))
        os.replace(str(link), str(folder / CURRENT))
        sync_folder(folder)
    return {"current": version.name, "previous": before}


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(str(temporary), str(path))
    sync_folder(path.parent)


def discard(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Remove one version that is not in use, or with ``keep`` all but the newest so many; never the one in use."""
    folder = task_folder(root, request["task"])
    current, there = current_of(folder), versions_of(folder)
    if request.get("version"):
        chosen = [version_folder(root, request).name]
    else:
        others = [name for name in there if name != current]
        chosen = others[: max(0, len(there) - int(request["keep"]))]
    removed = [name for name in chosen if name != current]
    freed = sum(_remove(folder, name, root) for name in removed)
    return {"removed": removed, "removed_bytes": freed}


def _remove(folder: Path, version: str, root: Path | None = None) -> int:
    """Remove a version, and with the root given those of its files in the cache that nothing else uses; their bytes."""
    digests = _digests(folder / version) if root is not None else []
    with contextlib.suppress(FileNotFoundError):
        (folder / f"{version}.json").unlink()
    gone = folder / f".{version}.{os.getpid()}.new"  # `tidy` removes what is left of it
    os.replace(str(folder / version), str(gone))
    shutil.rmtree(str(gone), ignore_errors=True)
    freed = 0
    for digest in digests:
        path = cache_path(root, digest) if root is not None else folder
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_nlink == 1:
                freed += path.stat().st_size
                path.unlink()
    return freed


def _digests(folder: Path) -> list[str]:
    """Of the files of a version that no other is likely to have; its base stays."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return [sha256_of(folder / MANIFEST), *(str(entry["sha256"]) for entry in manifest["files"])]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def tasks(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """All tasks with their versions; with ``check`` the files of the versions in use are read for their digests."""
    rows = []
    for folder in sorted((root / "tasks").glob("*")):
        if TASK.match(folder.name) and folder.is_dir() and request.get("task") in (None, folder.name):
            rows.append(_task(folder, bool(request.get("check"))))
    free = shutil.disk_usage(str(root if root.is_dir() else Path.home())).free
    cached = sum(path.stat().st_size for path in (root / "cache").glob("*"))
    return {"tasks": rows, "free_bytes": free, "cached_bytes": cached, "folder": str(root)}


def _task(folder: Path, check: bool) -> dict[str, Any]:
    current = current_of(folder)
    versions = []
    for name in versions_of(folder):
        files = [path for path in (folder / name).glob("**/*") if path.is_file()]
        sizes = {path.name: path.stat().st_size for path in files}
        row = {"version": name, "size_bytes": sum(sizes.values()), "base_bytes": sizes.get(BASE, 0)}
        row["record"] = record_of(folder, name)
        row["problems"] = problems(folder / name) if check and name == current else None
        versions.append(row)
    broken = (folder / CURRENT).is_symlink() and current is None
    return {"task": folder.name, "current": current, "broken": broken, "versions": versions}
