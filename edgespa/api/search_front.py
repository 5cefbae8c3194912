"""The end of a search: its front is measured on the device, put where it is found, and shown on a page."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgespa as es
from edgespa.api.search_stages import BUNDLE, TASK
from edgespa.errors import DeviceError, EdgespaError, MissingExtraError
from edgespa.system.files import folder_beside, plain_text, write_whole
from edgespa.trials.record import Trial
from edgespa.trials.rungs import on_front, over_budget

if TYPE_CHECKING:
    from edgespa.api.searching import Searching

log = logging.getLogger(__name__)

FRONT, PAGE = "front", "report.html"
MEASURED, TESTED = "measured.json", "tested.json"
_USUAL = ("", "onnxruntime", "litert", "ai_edge_litert", "tflite_runtime")
TRIES = 2
"""Measurements of a file, where the first was disturbed."""
_DIGEST = re.compile(r"[0-9a-f]{16}")


def finish(search: Searching) -> Path | None:
    """Measure what is on the front, write it, and the page.

    Args:
        search: Whose trials are done with, or as far as they got.

    Returns:
        The page; None where none can be made.
    """
    asked = search.asked
    chosen = _front(search, {})
    measured: dict[int, float] = {}
    if asked.timed:
        for place, number in enumerate(chosen):
            search.tell(f"measured: {place + 1} of {len(chosen)} on {asked.device}")
            found = _measured(search, number)
            if found is not None:
                measured[number] = found
    final = _front(search, measured)
    for number in range(len(search.trials)):
        trial = search.trials[number]
        values: dict[str, Any] = {"front": None, "folder": None, "measured_ms": measured.get(number), "test": None}
        if number in final:
            values |= {"front": final.index(number) + 1, "folder": f"{FRONT}/{trial.digest}", "why": ""}
            values["test"] = _tested(search, number)
        elif number in chosen:
            timed = trial.model_copy(update={"measured_ms": measured.get(number)})
            why = _too_slow(timed, asked.latency_ms) or "as it was measured, others are better"
            values["why"] = why
        elif trial.state == "complete":
            values["why"] = over_budget(trial, asked.latency_ms, asked.size_bytes) or "others are better"
        search.trials[number] = trial.model_copy(update=values)
    if not final and any(each.state == "complete" for each in search.trials):
        search.notes.append("no trial that was fully adapted is within what was asked for")
    _lay_out(search, final)
    search.save()
    return _page(search, final)


def _front(search: Searching, measured: Mapping[int, float]) -> list[int]:
    """Numbers of the trials that no other beats, the fastest first."""
    asked, found = search.asked, []
    for number, trial in enumerate(search.trials):
        if trial.state == "complete":
            each = trial.model_copy(update={"measured_ms": measured.get(number)})
            # Foretold is good enough to be looked at; of what was measured, that counts.
            own = _too_slow(each, asked.latency_ms) if number in measured else over_budget(each, asked.latency_ms, None)
            if own is None and over_budget(each, None, asked.size_bytes) is None:
                found.append((number, each))
    if measured:  # times of two kinds are not to be compared
        found = [(number, each) for number, each in found if number in measured]
    kept = on_front([each for _, each in found], asked.goals, search.measure)
    ranked = sorted((found[each] for each in kept), key=lambda each: (each[1].time_ms or 0.0, each[1].size_bytes or 0))
    return [number for number, _ in ranked]


def _too_slow(trial: Trial, latency_ms: float | None) -> str | None:
    if latency_ms is None or trial.measured_ms is None or trial.measured_ms <= latency_ms:
        return None
    return f"measured: {trial.measured_ms:.3g} ms, and {latency_ms:.3g} are asked for"


def _kept(file: Path, make: Callable[[], float | None]) -> float | None:
    """A number that is found once."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return float(json.loads(plain_text(file)))
    found = make()
    if found is not None:
        write_whole(file, json.dumps(found).encode())
    return found


def _measured(search: Searching, number: int) -> float | None:
    """What a trial's file takes on the device; None where it could not be measured."""
    folder, asked = search.folder_of(number, "file"), search.asked

    quiet = True

    def measure() -> float | None:
        nonlocal quiet
        times = []
        for _ in range(TRIES):
            try:
                found = es.profile(
                    folder / BUNDLE, device=asked.device, threads=asked.threads, again=True, trust=True, progress=False
                )
            except DeviceError as error:
                search.notes.append(f"trial {number} was not measured: {error.message}")
                break
            # Tables are of the usual runtime of a format: what was foretold and what is measured are of one.
            usual = [each for each in found.measured.results if (each.runtime or "").split(" ")[0] in _USUAL]
            row = min(usual or found.measured.results, key=lambda each: each.p50_ms)
            times.append(round(row.p50_ms, 6))
            quiet = False not in (row.clean, row.steady)
            if quiet:
                break
        return min(times, default=None)

    value = _kept(folder / MEASURED, measure)
    if not quiet and value is not None:
        # It is not believed for ever: whoever goes on has it measured again.
        (folder / MEASURED).unlink(missing_ok=True)
        search.notes.append(
            f"trial {number} was disturbed while it was measured, {TRIES} times: on a quieter device the same command "
            "measures it again"
        )
    return value


def _tested(search: Searching, number: int) -> float | None:
    """How well a trial's file does on the test data."""
    folder, asked = search.folder_of(number, "file"), search.asked
    if asked.test is None:
        return None
    test = asked.test

    def look() -> float | None:
        try:
            found = es.evaluate(
                folder / BUNDLE, eval_data=test, eval_limit=asked.eval_limit, seed=asked.seed, progress=False,
                **asked.labelled, **{name: each for name, each in asked.reading.items() if name == "skip_bad_files"},
            )  # fmt: skip
        except EdgespaError as error:
            search.notes.append(f"trial {number} was not tested: {error.message}")
            return None
        details = found.details
        return float(details.subjects[0].values[details.measures[0].name])

    return _kept(folder / TESTED, look)


def _lay_out(search: Searching, numbers: list[int]) -> None:
    """Copies of task files and bundles, a folder for each; those of an earlier front are gone."""
    target = search.asked.folder / FRONT
    target.mkdir(exist_ok=True)
    names = {search.trials[number].digest for number in numbers}
    for each in target.iterdir():
        if each.is_dir() and _DIGEST.fullmatch(each.name) and each.name not in names:
            shutil.rmtree(each)
    for number in numbers:
        place = target / search.trials[number].digest
        with folder_beside(place) as beside:
            whole = beside / place.name
            whole.mkdir()
            shutil.copy2(search.folder_of(number, "full") / TASK, whole / TASK)
            shutil.copytree(search.folder_of(number, "file") / BUNDLE, whole / BUNDLE)
            if place.is_dir():  # with the profile of another measurement
                shutil.rmtree(place)
            whole.rename(place)


def _page(search: Searching, numbers: list[int]) -> Path | None:
    folder = search.asked.folder
    paths = [folder / "search.json"]
    paths += [folder / FRONT / search.trials[number].digest / BUNDLE for number in numbers]
    try:
        es.report(
            paths, output=folder / PAGE, title=f"Search: {Path(search.asked.model).name}", examples=0, overwrite=True,
            progress=False,
        )  # fmt: skip
    except MissingExtraError as error:
        log.info("no page: %s", error.message)
        return None
    return folder / PAGE
