"""What of a sweep there is to do, and why: what was asked for, beside the notes of what was done."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgespa.api.sweep_file import PATHS, TRACKERS, SweepAsked, TaskAsked
from edgespa.api.sweep_stages import bundle_path, note, task_path, times_of
from edgespa.errors import EdgespaError
from edgespa.system.bounds import shown
from edgespa.trials.contents import Contents
from edgespa.trials.digests import digest_of

_MOST_WORDS = 60


@dataclasses.dataclass(frozen=True)
class Planned:
    """What there is to do for a task, or for the base.

    Attributes:
        name: Of the task; None for the base.
        asked: Stage -> what its note has to say, by keyword; paths by the digests of what lies there.
        why: Stage -> why it has to be done; those that need not be are left out.
    """

    name: str | None
    asked: Mapping[str, Mapping[str, Any]]
    why: Mapping[str, str]

    @property
    def reason(self) -> str:
        """The first reason; empty where nothing is to be done."""
        return next(iter(self.why.values()), "")


def base_of(sweep: SweepAsked, contents: Contents) -> dict[str, Any]:
    """The base as jobs are told: with a digest of its files.

    Args:
        sweep: Asked for.
        contents: Of files.
    """
    return {**sweep.base, "digest": digest_of(_compared(sweep.base, contents, ("model", "weights")))}


def planned(sweep: SweepAsked, folder: Path, contents: Contents, again: frozenset[str]) -> list[Planned]:
    """What there is to do; the base comes first where it is exported.

    Args:
        sweep: Asked for.
        folder: Of the sweep.
        contents: Of files.
        again: Names of tasks that are made anew.
    """
    base = {"base": base_of(sweep, contents)["digest"], "input_shape": sweep.base.get("input_shape")}
    found = [_of_task(each, folder, contents, base, each.name in again) for each in sweep.tasks]
    if sweep.baseline is not None:
        found.insert(0, _of_base(sweep, folder, contents, base))
    return found


def _of_task(task: TaskAsked, folder: Path, contents: Contents, base: dict[str, Any], again: bool) -> Planned:
    asked: dict[str, Mapping[str, Any]] = {"task": {**base, "by": task.verb, **_compared(task.making, contents, PATHS)}}
    why: dict[str, str] = {}
    path = task_path(folder, task.name)
    known = note(folder, task.name, "task")
    begun = note(folder, task.name, "begun")
    if again:
        why["task"] = "asked for"
    elif known is None:
        why["task"] = "new" if begun is None else "not finished"
    elif differing := _differing(known["asked"], asked["task"]):
        why["task"] = differing
    elif not path.is_file() or _sha256(path) != known["found"].get("sha256"):
        why["task"] = "its file is gone, or another one"
    if task.exporting is not None:
        asked["bundle"] = _compared(task.exporting, contents, PATHS)
        sha = None if known is None else known["found"].get("sha256")
        why |= _of_bundle(folder, task.name, {**asked["bundle"], "task": sha}, "its task is new" if why else "")
        _measured(asked, why, folder, task.name, task)
    return Planned(task.name, asked, why)


def _of_base(sweep: SweepAsked, folder: Path, contents: Contents, base: dict[str, Any]) -> Planned:
    assert sweep.baseline is not None
    asked: dict[str, Mapping[str, Any]] = {"bundle": {**base, **_compared(sweep.baseline, contents, PATHS)}}
    why = _of_bundle(folder, None, asked["bundle"], "")
    for device, task in measured_on(sweep).items():
        _measured(asked, why, folder, None, dataclasses.replace(task, devices=(device,)))
    return Planned(None, asked, why)


def measured_on(sweep: SweepAsked) -> dict[str, TaskAsked]:
    """All devices that something is measured on, each with the first task that is.

    Args:
        sweep: Asked for.
    """
    found: dict[str, TaskAsked] = {}
    for task in sweep.tasks:
        for device in task.devices if task.exporting is not None else ():
            found.setdefault(device, task)
    return found


def _of_bundle(folder: Path, name: str | None, asked: Mapping[str, Any], before: str) -> dict[str, str]:
    known = note(folder, name, "bundle")
    if before:
        return {"bundle": before}
    if known is None:
        return {"bundle": "no bundle yet"}
    if differing := _differing(known["asked"], asked):
        return {"bundle": differing}
    return {} if _is_whole(bundle_path(folder, name), known["found"]) else {"bundle": "its bundle is gone, or damaged"}


def _measured(
    asked: dict[str, Mapping[str, Any]], why: dict[str, str], folder: Path, name: str | None, task: TaskAsked
) -> None:
    """Add what is measured of a bundle."""
    bundle = note(folder, name, "bundle")
    sha = None if bundle is None else bundle["found"].get("sha256")
    for device in task.devices:
        stage = times_of(device)
        asked[stage] = dict(task.profiling)
        known = note(folder, name, stage)
        if "bundle" in why:
            why[stage] = "its bundle is new"
        elif known is None:
            why[stage] = f"not measured on {device}"
        elif differing := _differing(known["asked"], {**task.profiling, "bundle": sha}):
            why[stage] = differing


def _compared(values: Mapping[str, Any], contents: Contents, paths: tuple[str, ...]) -> dict[str, Any]:
    """Values as notes have them: what lies at a path in its place."""
    return {
        name: contents.named(each) if name in paths and isinstance(each, str) else each
        for name, each in sorted(values.items())
        if name not in TRACKERS
    }


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is not as it was, in words."""
    names = [name for name in {**now, **before} if before.get(name) != now.get(name) and name not in TRACKERS]
    told = ", ".join(name.replace("_", "-") for name in names)
    return shown(f"{told} changed", _MOST_WORDS)[1:-1] if names else ""


def _sha256(path: Path) -> str | None:
    from edgespa.bundle import sha256_file

    try:
        return sha256_file(path)
    except OSError:
        return None


def _is_whole(path: Path, found: Mapping[str, Any]) -> bool:
    """Whether a bundle is what was exported, file by file."""
    from edgespa.bundle import open_bundle

    if _sha256(path / "manifest.json") != found.get("sha256"):
        return False
    try:
        with open_bundle(path):
            return True
    except (EdgespaError, OSError):
        return False
