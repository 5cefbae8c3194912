"""The stages of a trial, each a job for a worker: public calls, in a folder of the stage's own.

A stage is known by the digest of what it was asked for. What it gave stands in `RESULT`, which is written last: a stage
that has it is never done again, and trials that ask for the same share it. A training that was interrupted goes on.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgespa.adaptation.tracking import part_named
from edgespa.errors import AdapterError, BudgetError, EdgespaError, ExportError, GraphError
from edgespa.system.files import plain_text, write_whole
from edgespa.system.plain import to_plain
from edgespa.tasks.unfinished import state_path

if TYPE_CHECKING:
    from edgespa.api.task_results import TaskFile

RESULT, TASK, BUNDLE = "result.json", "task.spa", "bundle"
CALL = "edgespa.api.search_stages:run"
TRAINED = ("few", "full")
_OF_THE_RECIPE = (AdapterError, BudgetError, ExportError, GraphError)
"""Errors that come again whenever the same is asked for; others may be gone the next time."""


def run(
    stage: str, folder: str, asked: Mapping[str, Any], trackers: Mapping[str, str] | None = None, name: str = ""
) -> dict[str, Any]:
    """Do a stage, unless it was done.

    Args:
        stage: A key of `STAGES`.
        folder: Of the stage; it is made.
        asked: Keywords of its function.
        trackers: Keywords of `edgespa.adapt`, of a stage that trains: what is told how it goes.
        name: Of its run there.

    Returns:
        What it gave: plain values; ``failed`` with the reason where the recipe itself cannot be done.
    """
    path = Path(folder)
    if (known := result_of(path)) is not None:
        return known
    path.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        with part_named(name) if trackers else contextlib.nullcontext():
            found = STAGES[stage](path, **asked, **(trackers or {}))
    except _OF_THE_RECIPE as error:
        found = {"failed": error.message}
    found["seconds"] = round(time.monotonic() - began, 3)
    plain: dict[str, Any] = to_plain(found)
    write_whole(path / RESULT, json.dumps(plain, indent=1).encode())
    return plain


def result_of(folder: Path) -> dict[str, Any] | None:
    """What a stage gave; None where it is not done.

    Args:
        folder: Of the stage.
    """
    try:
        found = json.loads(plain_text(folder / RESULT))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _cut(
    folder: Path, *, model: str, calibration: str, opening: Mapping[str, Any], pruning: Mapping[str, Any]
) -> dict[str, Any]:
    """Remove the units by the weights alone, fit what reads them anew, and see what that cannot make good."""
    import edgespa as es

    task = es.prune(
        model, output=folder / TASK, calibration=calibration, overwrite=True, progress=False, **opening, **pruning
    )
    # Where nothing was removed, nothing has to be made good.
    return {"error": task.metrics.get("mean_reconstruction_error", 0.0), **_figures(task)}


def _adapted(
    folder: Path,
    *,
    model: str,
    data: str,
    validation: str,
    opening: Mapping[str, Any],
    training: Mapping[str, Any],
    **trackers: Any,
) -> dict[str, Any]:
    """Learn the task, for few epochs or all of them."""
    import edgespa as es
    from edgespa.objectives.measured import measured

    path = folder / TASK

    def learn(*, resume: bool = False, fresh: bool = False) -> TaskFile:
        return es.adapt(
            model, data=data, validation_data=validation, output=path, resume=resume, fresh=fresh, overwrite=True,
            progress=False, **opening, **training, **trackers,
        )  # fmt: skip

    if state_path(path).exists():
        try:
            task = learn(resume=True)
        except EdgespaError:  # a state that cannot be gone on with is no reason to give up the trial
            task = learn(fresh=True)
    else:
        task = learn()
    best = next(each for each in measured(task.metrics) if each.kind == "validation" and not each.of)
    return {"quality": best.value, "measure": vars(best.measure), **_figures(task)}


def _file(
    folder: Path,
    *,
    task: str,
    model: str,
    weights: str | None,
    calibration: str,
    validation: str,
    exporting: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the file, prove it, and measure it on the validation data."""
    import edgespa as es
    from edgespa.exporting.conversion import kept_converters

    with kept_converters():
        bundle = es.export(
            task, output=folder / BUNDLE, base=model, weights=weights, trust=True, calibration=calibration,
            eval_data=validation, overwrite=True, progress=False, **exporting,
        )  # fmt: skip
    variant = bundle.manifest.variants[0]
    assert variant.accuracy is not None
    return {
        "quality": variant.accuracy.value,
        "measure": vars(variant.accuracy.of),
        "size_bytes": variant.size_bytes,
        "variant": variant.name,
    }


def _figures(task: TaskFile) -> dict[str, Any]:
    return {"parameters": task.parameters, "macs": task.macs}


STAGES: Mapping[str, Callable[..., dict[str, Any]]] = MappingProxyType(
    {"cut": _cut, "few": _adapted, "full": _adapted, "file": _file}
)
