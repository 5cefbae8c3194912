"""Pulling: a device behind a router gets its tasks by itself, from a folder that any web server serves.

The order is that of `edgespa.device.shipment.ship`: all is fetched and checked by its digest, a version is made of it
beside those that are there, it passes its self-check, and then one rename puts it in use. Whatever ends this earlier
leaves the old version in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator  # for annotations only: Python 3.8 cannot subscript it
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

from edgespa.device.agent.cache import cache_path, partial_path, require_space
from edgespa.device.agent.fetching import Patience, Source
from edgespa.device.agent.guard import put_pulled, waits_for_window, why_left, window_plan
from edgespa.device.agent.index import INDEX, MOST_INDEX, Index, Release, file_name, read_index, releases_for
from edgespa.device.agent.processes import lock_descriptor
from edgespa.device.agent.protocol import AgentError, as_error
from edgespa.device.agent.remembered import PullConfig, PullState, pull_folder, write_json
from edgespa.device.agent.self_check import check_version
from edgespa.device.agent.tasks import SIGNATURE, discard, stage
from edgespa.device.agent.versions import (
    MANIFEST,
    MOST_MANIFEST,
    current_of,
    entries_in,
    problems,
    read_small,
    record_of,
    task_folder,
)
from edgespa.device.agent.watch import settle

MOST_FILES = 10_000  # of a version
MOST_TIMES = 5  # that a version is tried which fails its self-check
SHIP_LOCK = "ship.lock"  # what `edgespa ship` holds while it works here


def pull(root: Path, config: PullConfig, patience: Patience, again: bool = False) -> dict[str, Any]:
    """Have what the index says is for this device.

    Args:
        root: Where edgespa keeps things.
        config: How this device was set up.
        patience: How long the server is waited for.
        again: Try what has failed too often, and put what was gone back from in use again.

    Returns:
        The report, which is written beside the configuration too: one row per task, and an ``error`` where nothing
        could be done at all.
    """
    began = time.monotonic()
    report: dict[str, Any] = {"format_version": 1, "started": _now(), "url": None, "serial": None}
    report.update({"index_created": None, "signed_by": None, "tasks": [], "error": None, "notes": []})
    source = None
    try:
        with _lock(root, "pull.lock", f"edgespa-agent pull, begun {_now()}"):
            settle(root)  # health windows that a restart has interrupted
            source = Source(config.url, patience)
            report["url"] = source.url
            _pull(root, config, source, again, report)
            _finish(root, report, source, began)
    except Exception as error:  # a report is to say it, whatever it is
        report["error"] = as_error(error)
        busy = isinstance(error, AgentError) and error.kind == "busy"
        _finish(None if busy else root, report, source, began)  # the report is the other one's
    return report


def _finish(root: Path | None, report: dict[str, Any], source: Source | None, began: float) -> None:
    report["bytes_received"] = 0 if source is None else source.bytes_received
    report["seconds"] = round(time.monotonic() - began, 3)
    if root is not None:
        try:
            write_json(pull_folder(root) / "report.json", report)
        except OSError as error:  # it is printed nevertheless
            report["notes"].append(f"the report cannot be kept: {error.strerror}")


def _pull(root: Path, config: PullConfig, source: Source, again: bool, report: dict[str, Any]) -> None:
    state = PullState(root)
    if state.lost:
        report["notes"].append("what was known of earlier pulls was lost: the versions that are there tell it")
    index = read_index(source.small(INDEX, MOST_INDEX), config.signers, f"{source.url}/{INDEX}")
    report.update({"serial": index.serial, "index_created": index.created, "signed_by": index.signed_by})
    _require_newer(index, state)
    if (index.serial, index.digest) != (state.serial, state.index):
        # At once: from now on nothing older counts, whatever becomes of the rest.
        state.serial, state.index = index.serial, index.digest
        state.save()
    kinds = (config.name, *config.kinds, os.uname().machine)
    for release in releases_for(index, config.groups, kinds):
        row: dict[str, Any] = {"task": release.task, "number": release.number, "outcome": "failed"}
        row.update({"version": None, "previous": None, "checks": [], "notes": [], "error": None})
        report["tasks"].append(row)
        try:
            _Pulling(root, config, source, index, state).one(release, again, row)
        except Exception as error:  # one task that fails stops no other
            row["error"] = as_error(error)


def _require_newer(index: Index, state: PullState) -> None:
    """Refuse an index that was read before a newer one: somebody plays it again, or a copy is stale."""
    if index.serial < state.serial:
        raise AgentError(
            "older", f"the index has serial {index.serial}, and {state.serial} was here already: it is an old one"
        )
    if index.serial == state.serial and state.index and index.digest != state.index:
        raise AgentError("older", f"there are two indexes with serial {index.serial}: this is not the one known here")


class _Pulling:
    """One task after the other, from one index."""

    def __init__(self, root: Path, config: PullConfig, source: Source, index: Index, state: PullState) -> None:
        self.root, self.config, self.source, self.index, self.state = root, config, source, index, state

    def one(self, release: Release, again: bool, row: dict[str, Any]) -> None:
        """Have one release in use; ``row`` is told what came of it."""
        folder = task_folder(self.root, release.task)
        current = current_of(folder)
        row["version"] = row["previous"] = current
        known = self.state.tasks.get(release.task, {})
        number = known.get("number")
        known_one = number == release.number and known.get("manifest") == release.manifest
        if number is not None and release.number <= number and not (known_one or release.downgrade):
            raise AgentError("older", f"release {release.number} is not newer than {number}, which was here already")
        record = record_of(folder, current)[0] if current is not None else None
        same = record is not None and record.get("digest") == release.manifest
        if known_one and not same and not again and current is not None:
            row["outcome"] = "left"
            why = why_left(folder, release.manifest)
            row["notes"].append(f"release {number} was in use here, and was gone back from{why}: --again uses it again")
            return
        if same and current is not None and not problems(folder / current):
            row["outcome"] = "unchanged"
            self._remember(release)
            return
        if known.get("failed") == release.number and known.get("times", 0) >= MOST_TIMES and not again:
            raise AgentError("given-up", f"release {release.number} has failed here {MOST_TIMES} times: --again")
        files = self._fetched(release, folder)
        with _lock(self.root, SHIP_LOCK, f"edgespa-agent pull of {release.task}, begun {_now()}"):
            wait = waits_for_window(folder, self.config)
            if wait is not None:
                row["outcome"] = "left"
                row["notes"].append(wait)
                return
            self._use(release, files, row)
        self._remember(release)

    def _fetched(self, release: Release, folder: Path) -> list[dict[str, Any]]:
        """The files of a release, all in the cache."""
        manifest = {"sha256": release.manifest, "size_bytes": release.manifest_bytes}
        if release.manifest_bytes > MOST_MANIFEST:
            raise AgentError("odd", f"a manifest of {release.manifest_bytes:,} bytes")
        self._fetch([manifest])
        try:
            text = read_small(cache_path(self.root, release.manifest), MOST_MANIFEST)
            files = entries_in(text, folder)
        except ValueError as error:
            raise AgentError("odd", f"the manifest of {release.task}: {error}") from error
        files[0] = {**manifest, "path": MANIFEST}
        if release.signature is not None:
            files.append({"path": SIGNATURE, "sha256": release.signature, "size_bytes": release.signature_bytes})
        paths = [entry["path"] for entry in files]
        if len(files) > MOST_FILES or len(set(paths)) < len(paths) or min(each["size_bytes"] for each in files) < 0:
            raise AgentError("odd", f"the manifest of {release.task} lists files that cannot be")
        self._fetch(files)
        return files

    def _fetch(self, files: list[dict[str, Any]]) -> None:
        """Have files in the cache; what is there is looked at when a version is made of it."""
        missing = {}
        for entry in files:
            path = cache_path(self.root, entry["sha256"])
            if not (path.is_file() and path.stat().st_size == entry["size_bytes"]):
                missing[entry["sha256"]] = entry
        there = [partial_path(cache_path(self.root, digest)) for digest in missing]
        came = sum(path.stat().st_size for path in there if path.is_file())
        if missing:
            (self.root / "cache").mkdir(parents=True, exist_ok=True)
            require_space(self.root / "cache", sum(each["size_bytes"] for each in missing.values()) - came)
        for digest, entry in missing.items():
            self.source.file(self.root, file_name(digest), entry)

    def _use(self, release: Release, files: list[dict[str, Any]], row: dict[str, Any]) -> None:
        nothing = BytesIO()
        request = {"task": release.task, "digest": release.manifest, "files": files}
        staged = stage(self.root, request, nothing)
        if staged["damaged"]:  # the cache, or a version that it goes into, had changed on the disk
            self._fetch([entry for entry in files if entry["sha256"] in staged["damaged"]])
            staged = stage(self.root, request, nothing)
        if staged["damaged"]:
            raise AgentError("damaged", "files change on this disk after they were written: check or replace it")
        version = str(staged["version"])
        own = {"task": release.task, "version": version}
        try:
            checks = check_version(self.root, Path(staged["folder"]), self.config.python, self.config.threads)
        except AgentError as error:
            if version != staged["current"]:
                with contextlib.suppress(OSError, AgentError):  # `stage` removes it the next time
                    discard(self.root, own, nothing)
            if error.kind == "self-check":
                self._failed(release)
            raise
        record = {
            "created": _now(),
            "edgespa": "pulled",
            "digest": release.manifest,
            "signed_by": self.index.signed_by,
            "checks": checks,
            "pulled": {"serial": self.index.serial, "number": release.number},
        }
        row["checks"] = [{"name": each["name"], "status": each["status"]} for each in checks]
        window = None  # what is only repaired is in use already, and its window is as it was
        if version != staged["current"]:
            window = window_plan(self.root, Path(staged["folder"]), self.config, checks)
        try:
            answer = put_pulled(self.root, own, record, window)
        except AgentError:
            if version != staged["current"]:
                with contextlib.suppress(OSError, AgentError):
                    discard(self.root, own, nothing)
            raise
        row["previous"] = answer["previous"]
        row["version"], row["outcome"] = version, "switched" if row["previous"] != version else "repaired"
        row["notes"] += answer["notes"]
        if staged["shared"] and row["previous"] not in (None, version):
            names = ", ".join(staged["shared"])
            row["notes"].append(f"no space for a copy of its own: damage to {names} would damage the one before too")
        try:
            discard(self.root, {"task": release.task, "keep": self.config.keep}, nothing)
        except OSError as error:
            row["notes"].append(f"older versions could not be removed: {error.strerror}")

    def _remember(self, release: Release) -> None:
        known = {"number": release.number, "manifest": release.manifest}
        if self.state.tasks.get(release.task) != known:
            self.state.tasks[release.task] = known
            self.state.save()

    def _failed(self, release: Release) -> None:
        known = self.state.tasks.setdefault(release.task, {})
        times = known.get("times", 0) if known.get("failed") == release.number else 0
        known.update({"failed": release.number, "times": times + 1})
        with contextlib.suppress(OSError):
            self.state.save()


@contextlib.contextmanager
def _lock(root: Path, name: str, what: str) -> Iterator[None]:
    """Hold a lock as `edgespa.device.agent.processes.hold` does, as long as the block runs."""
    root.mkdir(parents=True, exist_ok=True)
    descriptor = lock_descriptor(root, root / "locks" / name)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            with contextlib.suppress(OSError):
                what = os.pread(descriptor, 1000, 0).decode("utf-8", "replace").strip()
            raise AgentError("busy", f"another edgespa works here: {what}") from error
        with contextlib.suppress(OSError):  # for whoever finds it taken; a full disk has no place for it
            os.truncate(descriptor, 0)
            os.write(descriptor, what.encode("utf-8", "replace"))
        yield
        with contextlib.suppress(OSError):
            os.truncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _now() -> str:
    """By this machine's clock, for people: nothing is decided by it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
