"""Changes to the versions of a task: made ready, staged, switched to by one rename, kept or removed.

What is in use changes by the rename of a link alone, so whatever happens before leaves the old version in use, and
whatever happens after the new one. Everything that the link will lead to is on the disk before it is renamed, so that
a power cut finds it there. See `edgespa.device.agent.versions` for what lies where.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.cache import (
    cache_path,
    link_files,
    partial_path,
    require_space,
    sha256_of,
    sweep_cache,
)
from edgespa.device.agent.copies import Apart, make_room, repair, restore_cached, second_path
from edgespa.device.agent.disk import delete, is_full, make_folder, shortcomings, storage, sync_path
from edgespa.device.agent.protocol import AgentError
from edgespa.device.agent.versions import (
    CURRENT,
    MANIFEST,
    current_of,
    entries_of,
    is_finished,
    number_of,
    problems,
    task_folder,
    version_folder,
    versions_of,
    window_of,
)

SIGNATURE = "manifest.json.sig"
SPARE_FILES = 8
MOST_HEADER = 16 << 20  # bytes of a base's list of tensors


def ready(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """What can be known before anything is sent: the disk, what cannot be done there, and which bases there are.

    The request has ``files``, SHA-256 and size of each: the ones that are not there must find space.

    Returns:
        ``storage``, ``lacking``: phrases, ``bases``: digest of a base -> SHA-256 and size of its file, and
        ``missing_bytes``.
    """
    found, lacking = storage(root), shortcomings(root)
    missing, count = 0, 0
    for entry in request["files"]:
        path = cache_path(root, entry["sha256"])
        if not path.is_file():
            partial = partial_path(path)
            missing += max(0, entry["size_bytes"] - (partial.stat().st_size if partial.is_file() else 0))
            count += 1
    require_space(root, missing)
    files = count + len(request["files"]) + SPARE_FILES
    if count and found["free_files"] is not None and found["free_files"] < files:
        raise AgentError("full", f"{root}: {files} files are to be made, {found['free_files']} more can be")
    return {"storage": found, "lacking": lacking, "bases": _bases(root), "missing_bytes": missing}


def _bases(root: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in (root / "cache").glob("*"):
        try:
            if len(path.name) != 64 or not path.is_file():
                continue
            with path.open("rb") as file:
                size = struct.unpack("<Q", file.read(8))[0]
                if size > MOST_HEADER:
                    continue
                digest = json.loads(file.read(size).decode("utf-8"))["__metadata__"]["edgespa-base"]
            found[str(digest)] = {"sha256": path.name, "size_bytes": path.stat().st_size}
        except (OSError, ValueError, LookupError, TypeError, struct.error, RecursionError, MemoryError):
            continue
    return found


def stage(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Make a version of cached files, or find the one with the same manifest; nothing is in use by it yet.

    The request has ``task``, ``digest`` (of the manifest), and ``files`` (path, SHA-256 and size of each). What an
    earlier run has left unfinished is removed first: the caller holds the lock. Files of any version of the task that
    were found damaged are repaired, once good copies of them are in the cache.

    Returns:
        ``version``, its ``folder``, ``current``, the unfinished versions that were ``removed``, what was ``repaired``,
        what is ``shared`` with the version in use for want of space (paths), and ``damaged``: digests of cached files
        that are gone or have changed, and are to be sent again.
    """
    folder, files, digest = task_folder(root, request["task"]), request["files"], str(request["digest"])
    make_folder(folder)
    answer: dict[str, Any] = {"removed": tidy(folder), "repaired": [], "shared": [], "damaged": []}
    same = next((name for name in reversed(versions_of(folder)) if name.endswith(digest[:8])), None)
    if same is not None and not _unlike(folder / same, files):
        return _staged(folder, same, answer)
    answer["damaged"] = [entry["sha256"] for entry in files if not restore_cached(root, entry)]
    if answer["damaged"]:
        return _staged(folder, None, answer)
    if same is not None:
        repair(root, folder / same, files)
        answer["repaired"] = [same, *_repair_others(root, folder / same)]
        return _staged(folder, same, answer)
    last = versions_of(folder)[-1:] or ["0000-"]
    name = f"{number_of(last[0]) + 1:04d}-{digest[:8]}"
    current = current_of(folder)
    choose = Apart(root, None if current is None else folder / current)
    link_files(root, folder / name, files, choose)
    found = problems(folder / name)
    if found:
        delete(folder / name)
        raise AgentError("damaged", f"{request['task']}: {'; '.join(found)}")
    answer["shared"] = sorted({entry["path"] for entry in files if entry["sha256"] in choose.shared})
    return _staged(folder, name, answer)


def _staged(folder: Path, version: str | None, answer: dict[str, Any]) -> dict[str, Any]:
    path = None if version is None else str(folder / version)
    return {**answer, "version": version, "folder": path, "current": current_of(folder)}


def _unlike(folder: Path, files: list[dict[str, Any]]) -> bool:
    """Whether a version is not made of these files, as they should be."""
    paths = [folder / entry["path"] for entry in files]
    there = all(path.is_file() and path.stat().st_size == entry["size_bytes"] for path, entry in zip(paths, files))
    return not there or any(sha256_of(path) != entry["sha256"] for path, entry in zip(paths, files))


def _repair_others(root: Path, but: Path) -> list[str]:
    """The other versions, of other tasks too, that were damaged, and are not any more."""
    found = []
    for folder in sorted((root / "tasks").glob("[A-Za-z0-9]*")):
        for name in versions_of(folder):
            if folder / name != but and mend(root, folder / name):
                found.append(name if folder == but.parent else f"{folder.name}/{name}")
    return found


def mend(root: Path, folder: Path) -> list[str]:
    """Repair a version by its own manifest; the files that were repaired."""
    try:
        return repair(root, folder, entries_of(folder))
    except (OSError, ValueError):
        return []


def examine(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """One version: its folder, what of its files was ``repaired``, and what is wrong with them still."""
    folder = version_folder(root, request)
    found = problems(folder)
    repaired = mend(root, folder) if found else []
    return {"folder": str(folder), "repaired": repaired, "problems": problems(folder) if repaired else found}


def tidy(folder: Path) -> list[str]:
    """Remove what was left unfinished in a task's folder; the versions among it."""
    keep = current_of(folder)
    removed = [name for name in versions_of(folder) if name != keep and not is_finished(folder, name)]
    for name in removed:
        _remove(folder, name)
    spare = {_spare(folder, name).name for name in versions_of(folder)}
    for name in os.listdir(str(folder)):
        left = name.startswith(".") and name.endswith((".new", ".tmp", ".link")) and name not in spare
        if left or name.startswith(f".{CURRENT}."):
            delete(folder / name)
    return removed


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


def switch(root: Path, request: dict[str, Any], stream: BinaryIO | None = None) -> dict[str, Any]:
    """Use another version from now on: write its record, then replace the link by one rename.

    The request has ``task``, ``version`` and ``record``; with null for the record, the one that is there stays. Then
    nothing is written at all: links to go back by were made while there was space.
    """
    version = version_folder(root, request)
    folder, before = version.parent, current_of(version.parent)
    record = folder / f"{version.name}.json"
    old = is_finished(folder, version.name)
    if os.path.isdir(str(folder / CURRENT)) and not os.path.islink(str(folder / CURRENT)):
        raise AgentError("odd", f"{folder / CURRENT} is a folder, and should be a link: move it away")
    if request.get("record") is not None:
        _write(record, json.dumps(request["record"], indent=1, sort_keys=True))
    elif not old:
        raise AgentError("usage", f"{version.name} has not passed its self-check")
    if before != version.name:
        try:
            _use(root, folder, version.name)
        except OSError:
            if not old:  # a record says that the version was in use
                with contextlib.suppress(OSError):
                    record.unlink()
            raise
    for name in versions_of(folder):
        if is_finished(folder, name):
            with contextlib.suppress(OSError):
                _make_spare(folder, name)
    return {"current": version.name, "previous": before}


def _use(root: Path, folder: Path, version: str) -> None:
    try:
        spare = _make_spare(folder, version)
    except OSError as error:
        if not is_full(error) or not make_room(root):
            raise
        spare = _make_spare(folder, version)
    os.replace(str(spare), str(folder / CURRENT))
    sync_path(folder)


def _spare(folder: Path, version: str) -> Path:
    return folder / f".{version}.link"


def _make_spare(folder: Path, version: str) -> Path:
    """A link to a version, ready to be put in the place of the one in use: on a full disk, none could be made."""
    path = _spare(folder, version)
    if not (path.is_symlink() and os.readlink(str(path)) == version):
        delete(path)
        os.symlink(version, str(path))
    return path


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    delete(temporary)
    if path.is_dir():
        delete(path)
    with temporary.open("x", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(str(temporary), str(path))
    sync_path(path.parent)


def discard(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Remove one version that is not in use, or with ``keep`` all but the newest so many; never the one in use.

    Nor, of many, the one that a health window would go back to. A task of which nothing is left, because its first
    shipment failed, is gone with it.
    """
    folder = task_folder(root, request["task"])
    current, there = current_of(folder), versions_of(folder)
    if request.get("version"):
        chosen = [version_folder(root, request).name]
    else:
        window = window_of(folder) or {}
        needed = window.get("previous") if window.get("state") == "watching" else None
        others = [name for name in there if name not in (current, needed)]
        chosen = others[: max(0, len(there) - int(request["keep"]))]
    removed = [name for name in chosen if name != current]
    freed = sum(_remove(folder, name, root) for name in removed)
    with contextlib.suppress(OSError):
        folder.rmdir()
    freed += sweep_cache(root, (".part", ".copy", ".tmp"))
    return {"removed": removed, "removed_bytes": freed}


def remove(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Remove a task with all its versions, the one in use too; whatever its folder holds.

    Returns:
        ``removed``: whether there was one, its ``versions``, and ``removed_bytes``.
    """
    folder = task_folder(root, request["task"])
    for left in folder.parent.glob(".*.new"):  # of a run that was ended in the middle
        delete(left)
    if not os.path.lexists(str(folder)):
        return {"removed": False, "versions": [], "removed_bytes": 0}
    versions = [] if folder.is_symlink() else versions_of(folder)
    digests = {digest for name in versions for digest in _digests(folder / name)}
    gone = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    os.replace(str(folder), str(gone))
    sync_path(folder.parent)
    delete(gone)
    return {"removed": True, "versions": versions, "removed_bytes": _free(root, digests)}


def _remove(folder: Path, version: str, root: Path | None = None) -> int:
    """Remove a version, and with the root given those of its files in the cache that nothing else uses; their bytes."""
    digests = _digests(folder / version) if root is not None else []
    for path in (folder / f"{version}.json", _spare(folder, version)):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    gone = folder / f".{version}.{os.getpid()}.new"  # `tidy` removes what is left of it
    os.replace(str(folder / version), str(gone))
    delete(gone)
    return _free(root, digests) if root is not None else 0


def _free(root: Path, digests: Any) -> int:
    freed = 0
    for digest in digests:
        first = cache_path(root, digest)
        for path in (first, second_path(first)):
            with contextlib.suppress(OSError):
                if path.is_file() and path.stat().st_nlink == 1:
                    freed += path.stat().st_size
                    path.unlink()
    return freed


def _digests(folder: Path) -> list[str]:
    """Of the files of a version that no other is likely to have; its base stays."""
    try:
        return [str(entry["sha256"]) for entry in entries_of(folder) if entry["path"] != "base.safetensors"]
    except (OSError, ValueError):
        return []
