"""A sweep as it goes: jobs of tasks that have something to do, what became of each, and a table of all in the end."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa import __version__
from edgespa.api.arguments import LOCAL, VARIANT
from edgespa.api.sweep_asked import call_values
from edgespa.api.sweep_file import PATHS, SweepAsked, TaskAsked
from edgespa.api.sweep_plan import Planned, measured_on
from edgespa.api.sweep_results import SweepResult, Swept
from edgespa.api.sweep_stages import MAKE, MEASURE, TABLES, bundle_path, note, task_path, times_of, written
from edgespa.errors import EdgespaError
from edgespa.objectives.measures import Measure
from edgespa.system.files import write_whole
from edgespa.trials.swept import RECORD, SweepRecord
from edgespa.workers import Ended, Failure, Job, Workers
from edgespa.workers.carried import may_be_carried

if TYPE_CHECKING:
    from edgespa.api.options import Progress

log = logging.getLogger(__name__)

BASE = "base"
"""What the unpruned network is called among the tasks."""


class Sweeping:
    """A sweep.

    Args:
        asked: What for.
        plan: What there is to do, from `edgespa.api.sweep_plan.planned`.
        base: As jobs are told, from `edgespa.api.sweep_plan.base_of`.
        folder: Of the sweep.
        progress: Told ``(done, total, text)``.
    """

    def __init__(
        self, asked: SweepAsked, plan: Sequence[Planned], base: Mapping[str, Any], folder: Path, progress: Progress
    ) -> None:
        self.asked, self.plan, self.base, self.folder, self.progress = asked, plan, base, folder, progress
        self.failures: dict[str | None, Failure] = {}
        self._began = time.monotonic()
        self._tasks = {each.name: each for each in asked.tasks}
        self._jobs: dict[int, tuple[Job, Planned]] = {}
        self._done: set[str | None] = set()
        self._total = sum(bool(each.why) for each in plan)

    def run(self, workers: Workers) -> None:
        """All that there is to do; what this machine measures comes last, when nothing else runs on it.

        Args:
            workers: That do it.
        """
        waiting = [each for each in self.plan if each.why]
        self._tables(waiting, workers)
        for each in waiting:
            self._make(each, workers)
        self._until_done(workers, then_measure=True)
        for each in waiting:
            if each.name not in self.failures:
                self._measure(each, workers, here=True)
                self._until_done(workers)
            self._tell(each)

    def _tables(self, waiting: Sequence[Planned], workers: Workers) -> None:
        """The latency tables that tasks are pruned by, each once."""
        wanted: dict[tuple[str, str, int], Planned] = {}
        for each in waiting:
            task = self._tasks.get(each.name or "")
            if task is not None and "task" in each.why and task.making.get("latency_ms") is not None:
                told = task.making
                key = (str(told.get("device", LOCAL)), str(told.get("variant", VARIANT)), int(told.get("threads", 1)))
                wanted.setdefault(key, each)
        for (device, variant, threads), each in wanted.items():
            arguments = {"base": self._base(), "device": device, "variant": variant, "threads": threads}
            name = f"latency table of {device}"
            self._submit(Job(name, TABLES, _plain(arguments), device, self._read()), each, workers)
        while self._jobs:
            ended, _ = self._next(workers)
            if ended.failure is not None:  # those that need it say why
                log.warning("%s: %s", ended.job.name, ended.failure.message)

    def _make(self, each: Planned, workers: Workers) -> None:
        if not {"task", "bundle"} & each.why.keys():
            self._measure(each, workers, here=False)
            return
        task = self._tasks.get(each.name or "")
        exporting = self.asked.baseline if task is None else task.exporting
        making = task.making if task is not None and "task" in each.why else None
        arguments = {
            "folder": str(self.folder),
            "name": each.name,
            "base": self._base(),
            "verb": "" if task is None else task.verb,
            "making": None if making is None else call_values(making),
            "exporting": None if exporting is None else call_values(exporting),
            "asked": {stage: dict(each.asked[stage]) for stage in ("task", "bundle") if stage in each.asked},
        }
        device = None
        if making is not None and making.get("latency_ms") is not None:
            device = str(making.get("device", LOCAL))  # candidates are measured there
        reads = self._read(making, exporting)
        job = Job(each.name or BASE, MAKE, _plain(arguments), device, reads, str(self.folder), written(each.name))
        self._submit(job, each, workers)

    def _measure(self, each: Planned, workers: Workers, *, here: bool) -> None:
        """Measure what was made on its devices: on this machine, or on all others."""
        task = self._tasks.get(each.name or "")
        on: Mapping[str, TaskAsked] = (
            measured_on(self.asked) if task is None else dict.fromkeys(task.devices, task)
        )  # fmt: skip
        bundle = note(self.folder, each.name, "bundle")
        if bundle is None:
            return
        for device, own in on.items():
            if (device == LOCAL) != here or times_of(device) not in each.why:
                continue
            asked = {**own.profiling, "bundle": bundle["found"]["sha256"]}
            arguments = {
                "folder": str(self.folder), "name": each.name, "device": device,
                "profiling": call_values(own.profiling), "asked": asked,
            }  # fmt: skip
            name = f"{each.name or BASE} on {device}"
            writes = written(each.name)[-2:]
            self._submit(Job(name, MEASURE, _plain(arguments), device, (), str(self.folder), writes), each, workers)

    def _submit(self, job: Job, each: Planned, workers: Workers) -> None:
        try:
            workers.submit(job)
        except EdgespaError as error:  # a cluster without that device
            self._failed(each, Failure(error.message, error.hint, kind=type(error).__name__))
        else:
            self._jobs[id(job)] = job, each

    def _next(self, workers: Workers) -> tuple[Ended, Planned]:
        ended = workers.next()
        _, each = self._jobs.pop(id(ended.job))
        for level, text in ended.said:
            log.log(logging.INFO if level < logging.WARNING else level, "%s: %s", ended.job.name, text)
        if ended.failure is not None and ended.failure.stopped:
            raise KeyboardInterrupt
        return ended, each

    def _until_done(self, workers: Workers, *, then_measure: bool = False) -> None:
        self.tell("")
        while self._jobs:
            ended, each = self._next(workers)
            if ended.failure is not None:
                self._failed(each, ended.failure)
            elif then_measure and ended.job.call == MAKE:
                self._measure(each, workers, here=False)
            self._tell(each)

    def _failed(self, each: Planned, failure: Failure) -> None:
        if each.name not in self.failures:
            self.failures[each.name] = failure
        log.debug("%s", failure.traceback)
        log.info("%s: %s", each.name or BASE, failure.message)  # it is told at the end

    def _tell(self, each: Planned) -> None:
        """Count what is done with: no job of it is left, and none will come."""
        busy = any(other is each for _, other in self._jobs.values())
        later = times_of(LOCAL) in each.why and note(self.folder, each.name, times_of(LOCAL)) is None
        if not busy and (not later or each.name in self.failures):
            self._done.add(each.name)
        self.tell(each.name or BASE)

    def tell(self, text: str) -> None:
        """Say how far it is."""
        self.progress(len(self._done), self._total or None, text)

    def _read(self, *calls: Mapping[str, Any] | None) -> tuple[str, ...]:
        """Files and folders that are read: the base's, and those that calls are told."""
        found = [self.base.get(name) for name in ("model", "weights")]
        found += [values.get(name) for values in calls if values is not None for name in PATHS]
        return may_be_carried(found)

    def _base(self) -> dict[str, Any]:
        return dict(self.base)

    def result(self, *, dry: bool = False, now: Sequence[Planned]) -> SweepResult:
        """What there is.

        Args:
            dry: Nothing was to be done.
            now: What there is to do yet.
        """
        left = {each.name: each for each in now}
        rows = {each.name: self._row(each, left[each.name]) for each in self.plan}
        return SweepResult(
            self.folder,
            self.asked.path,
            rows.get(None),
            tuple(rows[each.name] for each in self.asked.tasks),
            round(time.monotonic() - self._began, 3),
            not any(each.why for each in now),
            dry,
        )

    def _row(self, was: Planned, now: Planned) -> Swept:
        name, failure = was.name, self.failures.get(was.name)
        state = "failed" if failure is not None else "waiting" if now.why else "made" if was.why else "unchanged"
        asked = self._tasks.get(name or "")
        made = None if name is None else note(self.folder, name, "task")
        task = {} if made is None else made["found"]
        exported = asked is None or asked.exporting is not None
        known = note(self.folder, name, "bundle") if exported else None
        bundle = {} if known is None else known["found"]
        devices = measured_on(self.asked) if asked is None else asked.devices
        times = {}
        for device in devices if bundle else ():
            if (found := note(self.folder, name, times_of(device))) is not None:
                one = found["found"]
                times[device] = {key: one.get(key) for key in ("ms", "variant", "runtime", "clean")}
        quality = _quality(task)
        return Swept(
            name=name or BASE,
            state=state,  # type: ignore[arg-type]
            why=was.reason,
            task=task_path(self.folder, name) if name is not None and task else None,
            task_bytes=task.get("size_bytes"),
            bundle=bundle_path(self.folder, name) if bundle else None,
            quality=None if quality is None else quality["value"],
            measure=None if quality is None else Measure(**quality["measure"]),
            of=None if quality is None else quality["kind"],
            files=tuple(bundle.get("variants", ())),
            times=times,
            seconds=round(task.get("seconds", 0.0) + bundle.get("seconds", 0.0), 3),
            error=None if failure is None else failure.message,
            hint=None if failure is None else failure.hint,
        )


def _quality(task: Mapping[str, Any]) -> dict[str, Any] | None:
    """The task's own figure: on test data, else on validation data."""
    known = [each for each in task.get("quality", ()) if not each.get("of")]
    for kind in ("test", "validation"):
        for each in known:
            if each["kind"] == kind:
                return dict(each)
    return None


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has them."""
    found: dict[str, Any] = json.loads(json.dumps(arguments))
    return found


def save(result: SweepResult) -> None:
    """Write what there is into the folder.

    Args:
        result: All of it.
    """
    about = {"format": SweepRecord.FORMAT, "format_version": 1, "edgespa": __version__}
    write_whole(result.path / RECORD, (json.dumps({**about, **result.to_dict()}, indent=1) + "\n").encode())
