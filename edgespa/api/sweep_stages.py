"""The stages of a task of a sweep, as jobs for workers: public calls, whose results are noted beside what they made.

What a stage was asked for and what it gave is written last: a stage whose note is as it should be is never done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.errors import EdgespaError
from edgespa.system.files import plain_text, write_whole
from edgespa.system.plain import to_plain
from edgespa.tasks.unfinished import state_path
from edgespa.trials.digests import digest_of

if TYPE_CHECKING:
    from edgespa.api.task_results import TaskFile

MAKE, MEASURE, TABLES = (f"edgespa.api.sweep_stages:{name}" for name in ("make", "measure", "tables"))
TASKS, BUNDLES, STAGES, BASELINE = "tasks", "bundles", "stages", "base"
OF_BASE = ".base"
"""The folder of the notes of the baseline: no task has such a name."""
_BEGUN = "begun"
_MOST = 64 << 20


def task_path(folder: Path, name: str) -> Path:
    """Where the task file of a task lies, in the folder of the sweep."""
    return folder / TASKS / f"{name}.spa"


def bundle_path(folder: Path, name: str | None) -> Path:
    """Where a task's bundle lies; for None that of the base."""
    return folder / BASELINE if name is None else folder / BUNDLES / name


def times_of(device: str) -> str:
    """The note that says what was measured on a device."""
    return f"on-{digest_of({'device': device})}"


def written(name: str | None) -> tuple[str, ...]:
    """What `make` writes in the folder of the sweep, the notes last.

    Args:
        name: Of the task; None for the base.
    """
    if name is None:
        return BASELINE, f"{STAGES}/{OF_BASE}"
    task = f"{TASKS}/{name}.spa"
    return task, state_path(Path(task)).as_posix(), f"{BUNDLES}/{name}", f"{STAGES}/{name}"


def note(folder: Path, name: str | None, stage: str) -> dict[str, Any] | None:
    """What a stage was asked for and gave: ``asked``, ``found``; None where it is not done.

    Args:
        folder: Of the sweep.
        name: Of the task; None for the base.
        stage: ``task``, ``bundle``, or what `times_of` gives.
    """
    try:
        found = json.loads(plain_text(_note(folder, name, stage), most=_MOST))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and isinstance(found.get("asked"), dict) and isinstance(found.get("found"), dict)
    return found if whole else None


def _note(folder: Path, name: str | None, stage: str) -> Path:
    return folder / STAGES / (OF_BASE if name is None else name) / f"{stage}.json"


def _write(folder: Path, name: str | None, stage: str, asked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    path = _note(folder, name, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"asked": dict(asked), "found": to_plain(found)}, indent=1).encode())


def make(
    folder: str,
    name: str | None,
    base: Mapping[str, Any],
    verb: str,
    making: Mapping[str, Any] | None,
    exporting: Mapping[str, Any] | None,
    asked: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Make a task's file and its bundle, or what of them is not there.

    Args:
        folder: Of the sweep.
        name: Of the task; None for the base, which has a bundle alone.
        base: ``model``, ``weights``, ``input_shape``, and ``digest`` of what lies there.
        verb: ``adapt`` or ``prune``.
        making: Its keywords; None where the task file is there.
        exporting: Keywords of the export; None where the bundle is there, or none is wanted.
        asked: What is noted of each stage.

    Returns:
        What the stages gave.
    """
    from edgespa.exporting.conversion import kept_converters
    from edgespa.tasks.base import kept_open

    place = Path(folder)
    found: dict[str, Any] = {}
    with kept_open(str(base["digest"])), kept_converters():
        if making is not None and name is not None:
            found["task"] = _task(place, name, base, verb, making, asked["task"])
        if exporting is not None:
            found["bundle"] = _bundle(place, name, base, exporting, asked["bundle"])
    return found


def _task(
    place: Path, name: str, base: Mapping[str, Any], verb: str, making: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    import edgespa as es
    from edgespa.bundle import sha256_file
    from edgespa.objectives.measured import measured

    began, path = time.monotonic(), task_path(place, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    call: Callable[..., TaskFile] = getattr(es, verb)

    def made(**how: bool) -> TaskFile:
        return call(base["model"], output=path, overwrite=True, progress=False, **_opening(base), **making, **how)

    same = (note(place, name, _BEGUN) or {}).get("asked") == dict(asked)
    _write(place, name, _BEGUN, asked, {})
    if not state_path(path).exists():
        task = made()
    elif same:
        try:
            task = made(resume=True)
        except EdgespaError:  # a state that cannot be gone on with is no reason to give up the task
            task = made(fresh=True)
    else:
        task = made(fresh=True)
    quality = [vars(each) | {"measure": vars(each.measure)} for each in measured(task.metrics) if not each.store]
    found = {
        "sha256": sha256_file(path),
        "size_bytes": task.size_bytes,
        "parameters": task.parameters,
        "base_parameters": task.base_parameters,
        "macs": task.macs,
        "base_macs": task.base_macs,
        "quality": quality,
        "seconds": round(time.monotonic() - began, 3),
    }
    _write(place, name, "task", asked, found)
    return found


def _bundle(
    place: Path, name: str | None, base: Mapping[str, Any], exporting: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    import edgespa as es
    from edgespa.bundle import sha256_file

    began, path = time.monotonic(), bundle_path(place, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {**exporting, "output": path, "overwrite": True, "progress": False}
    if name is None:
        bundle = es.export(base["model"], **_opening(base), **how)
    else:
        task = task_path(place, name)
        asked = {**asked, "task": sha256_file(task)}
        bundle = es.export(task, base=base["model"], weights=base.get("weights"), trust=True, **how)
    found = {
        "sha256": sha256_file(path / "manifest.json"),
        "variants": [_variant(each) for each in bundle.manifest.variants],
        "measure": vars(bundle.manifest.measure),
        "left_out": [str(each["variant"]) for each in bundle.left_out],
        "seconds": round(time.monotonic() - began, 3),
    }
    _write(place, name, "bundle", asked, found)
    return found


def _variant(each: Any) -> dict[str, Any]:
    quality = None if each.accuracy is None else each.accuracy.value
    return {"name": each.name, "size_bytes": each.size_bytes, "quality": quality}


def measure(
    folder: str, name: str | None, device: str, profiling: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure a bundle's files on a device; the fastest of each variant is noted.

    Args:
        folder: Of the sweep.
        name: Of the task; None for the base.
        device: Where.
        profiling: Keywords of `edgespa.profile`.
        asked: What is noted.
    """
    import edgespa as es

    path = bundle_path(Path(folder), name)
    profile = es.profile(path, device=device, progress=False, **profiling)
    own = [each for each in profile.measured.results if each.bundle == path.name]
    best = min(own, key=lambda each: each.p50_ms)
    found = {
        "device": device,
        "variant": best.variant,
        "runtime": best.runtime,
        "ms": best.p50_ms,
        "clean": best.clean,
        "threads": best.threads,
    }
    _write(Path(folder), name, times_of(device), asked, found)
    return found


def tables(base: Mapping[str, Any], device: str, variant: str, threads: int) -> None:
    """See that a device's latency table has all layers of the base.

    Args:
        base: As of `make`.
        device: Which.
        variant: Of what files.
        threads: Of the runtime.
    """
    import edgespa as es
    from edgespa.tasks.base import kept_open

    with kept_open(str(base["digest"])):
        es.latencies(
            device, model=base["model"], variants=variant, threads=threads, progress=False, **_opening(base)
        )  # fmt: skip


def _opening(base: Mapping[str, Any]) -> dict[str, Any]:
    return {name: base[name] for name in ("weights", "input_shape") if base.get(name) is not None}
