"""The stages of `edgespa.compress`: each is a public call, and what it wrote is there when the run is gone on with.

A stage writes its file or folder whole or not at all, into the folder of the run's state: what is there is done.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgespa as es
from edgespa.adaptation.heal import HealConfig, did_harm, unhealed
from edgespa.api.compress_results import Compression, Round, Side
from edgespa.errors import BudgetError, ExportError
from edgespa.latency.stopwatch import ROUNDS, SECONDS, fastest_round_ms
from edgespa.system.files import plain_text, write_whole
from edgespa.tasks.unfinished import state_path

if TYPE_CHECKING:
    from edgespa.api.arguments import Tell
    from edgespa.api.results import Bundle, Profile
    from edgespa.api.task_results import TaskFile
    from edgespa.bundle.variant import Variant

MOST_ROUNDS = 4
"""Whole candidates: what is cut for a time is measured when it is cut, so the first one mostly keeps it."""
_SLACK = 1.02
"""What the measurement itself is off by, on a quiet board."""
_NEARER = 0.98
_FAR = 0.75
"""Of the time asked for, and of what was measured when it was cut: what takes less lost too much, for the device was
slower then than it is."""
METHOD = "asym-in-change"
ASKED, TIMES = "asked.json", "times.json"
_THERE = "whole:"


@dataclasses.dataclass(frozen=True)
class Budget:
    """How fast it is to be; one of both.

    Attributes:
        latency_ms: Of one inference, batch 1.
        speedup: Against the fastest float32 file of the network as it was.
    """

    latency_ms: float | None
    speedup: float | None

    def target_ms(self, whole: Mapping[str, float]) -> float:
        """What is asked for, by the clock that the whole network was just measured with.

        Args:
            whole: Times of its files.
        """
        if self.latency_ms is not None:
            return self.latency_ms
        assert self.speedup is not None
        return whole[reference(whole)] / self.speedup


def reference(whole: Mapping[str, float]) -> str:
    """The file that others are compared with: the fastest in float32, or of all where there is none."""
    floats = {name: value for name, value in whole.items() if name.endswith("-fp32")}
    return fastest(floats or whole)


def fastest(times: Mapping[str, float]) -> str:
    """Of which file."""
    return min(times, key=times.__getitem__)


_FREE = ("output", "task", "overwrite", "trackers")
"""What may be said otherwise when a run is gone on with."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
        model: The network.
        images: A spec, or what was given in Python.
        output: The bundle.
        budget: How fast.
        device: Where.
        threads: Of the runtime.
        formats: That may be chosen among.
        precisions: Likewise.
        heal: Whether what is left is trained towards the original.
        opening: Keywords of all calls that open the network.
        data: Keywords of all calls that read images.
        test: Labelled images to measure on, or None.
        pruning: Further keywords of `edgespa.prune`.
        healing: Of `edgespa.heal`.
        exporting: Of `edgespa.export`.
        trackers: Of `edgespa.heal`: what is told how it goes.
        task: Where the task file goes; None for nowhere.
        overwrite: Replace what is there.
    """

    model: Any
    images: Any
    output: Path
    budget: Budget
    device: str
    threads: int
    formats: tuple[str, ...]
    precisions: tuple[str, ...]
    heal: bool
    opening: Mapping[str, Any]
    data: Mapping[str, Any]
    test: Any
    pruning: Mapping[str, Any]
    healing: Mapping[str, Any]
    exporting: Mapping[str, Any]
    trackers: Mapping[str, Any]
    task: Path | None
    overwrite: bool

    def identity(self) -> str:
        """What a state must have been asked for to be gone on with."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        values = {name: value for name, value in values.items() if name not in _FREE}
        return json.dumps(values, sort_keys=True, default=_named)


def _named(value: object) -> Any:
    if isinstance(value, Budget):
        return dataclasses.asdict(value)
    # What is given in Python is another thing in each process.
    return str(value) if isinstance(value, Path) else f"{type(value).__name__} {id(value)} of {os.getpid()}"


class Stages:
    """A run.

    Args:
        asked: What for.
        tell: Is told before each stage what it is.
        progress: For the calls.
    """

    def __init__(self, asked: Asked, tell: Callable[[str], None], progress: Tell) -> None:
        self.asked, self.tell, self.progress = asked, tell, progress
        self.folder = state_path(asked.output)
        self._lost: Mapping[str, float] = {}
        self._own: dict[str, Any] = {} if isinstance(asked.model, (str, Path)) else {"base": asked.model}

    def run(self) -> Compression:
        """All of it; the state is gone when it is done.

        Raises:
            BudgetError: It cannot be made so fast.
        """
        asked = self.asked
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / ASKED, asked.identity().encode())
        self.tell("the network as it is")
        whole, times = self._measured("whole", asked.model, asked.opening, None)
        target = asked.budget.target_ms(times)
        healed, rounds = None, list[Round]()
        if times[fastest(times)] > _SLACK * target:
            healed, rounds = self._cut_to(target, times, whole)
        last = rounds[-1] if rounds else Round(target, times, times, target)
        chosen = fastest(last.times_ms)
        self.tell(f"the bundle: {chosen}")
        keywords = asked.opening if healed is None else self._of_task
        model = asked.model if healed is None else healed
        bundle = self._exported(asked.output, model, keywords, chosen, overwrite=asked.overwrite)
        measured = self._profiled(bundle, None)
        if asked.task is not None and healed is not None:
            write_whole(asked.task, healed.path.read_bytes())
        found = self._found(whole, bundle, measured, last, healed, tuple(rounds))
        shutil.rmtree(self.folder, ignore_errors=True)
        return found

    def _cut_to(self, target: float, times: Mapping[str, float], whole: Bundle) -> tuple[TaskFile, list[Round]]:
        """Candidates, until one is as fast as asked."""
        asked, rounds = self.asked, list[Round]()
        limit, variant, again = target, fastest(times), False
        for number in range(1, MOST_ROUNDS + 1):
            wanted = limit
            self.tell(f"candidate {number}: cut for {wanted:.3g} ms as {variant}")
            task = self._cut(number, limit, variant)
            expected = cut_for(task)
            self.tell(f"candidate {number}: its files, and what they take")
            # Before it is healed, which takes longest, and changes no time.
            name = f"cut-files-{number}" if asked.heal else f"files-{number}"
            rounds.append(self._round(name, wanted, task, whole, times, variant if asked.heal else None))
            slower = min(rounds[-1].times_ms.values()) < _FAR * expected
            if slower and rounds[-1].share < _FAR and not again and number < MOST_ROUNDS:
                again = True
                continue
            if asked.heal and rounds[-1].share <= _SLACK:
                self.tell(f"candidate {number}: healed")
                task = self._nearer(task, self._healed(number, task))
                rounds[-1] = self._round(f"files-{number}", wanted, task, whole, times)
            target, variant = rounds[-1].target_ms, fastest(rounds[-1].times_ms)
            if rounds[-1].share <= _SLACK:
                return task, rounds
            limit = min(limit, expected) * _NEARER / rounds[-1].share
        raise BudgetError(
            f"{target:.3g} ms were not reached with {MOST_ROUNDS} candidates: the last one takes "
            f"{rounds[-1].times_ms[variant]:.3g} ms as {variant}",
            "ask for more; what was measured is kept: on a quieter device begin anew, with --fresh",
        )

    def _nearer(self, cut: TaskFile, healed: TaskFile) -> TaskFile:
        """The healed network, or that which was cut where healing did harm; and what is lost is remembered."""
        metrics, harmed = healed.metrics, did_harm(healed.metrics)
        known = unhealed(metrics) if harmed else metrics
        self._lost = {name: value for name, value in known.items() if "validation" in name}
        return cut if harmed else healed

    def _round(
        self,
        name: str,
        wanted: float,
        task: TaskFile,
        whole: Bundle,
        times: Mapping[str, float],
        only: str | None = None,
    ) -> Round:
        """A candidate's files, or one of them, beside those of the whole network."""
        _, found = self._measured(name, task, self._of_task, whole, only)
        mine = {name: value for name, value in found.items() if not name.startswith(_THERE)}
        there = {name.removeprefix(_THERE): value for name, value in found.items() if name not in mine}
        return Round(wanted, mine, there or times, self.asked.budget.target_ms(there or times))

    @property
    def _of_task(self) -> dict[str, Any]:
        """Keywords of calls that open a task: its code is what was asked for in this very call."""
        return {**self._own, "trust": True}

    def _cut(self, number: int, limit: float, variant: str) -> TaskFile:
        path, asked = self.folder / f"cut-{number}.spa", self.asked
        if path.is_file():
            return es.open_task(path)
        # What healing tells the loss on is to be new to pruning, too.
        spared = {"spare": HealConfig().validation} if asked.heal else {}
        return es.prune(
            asked.model,
            output=path,
            calibration=asked.images,
            latency_ms=limit,
            device=asked.device,
            threads=asked.threads,
            variant=variant,
            resume=state_path(path).exists(),
            progress=self.progress,
            **asked.opening,
            **asked.data,
            **{"method": METHOD, **spared, **asked.pruning},
        )

    def _healed(self, number: int, cut: TaskFile) -> TaskFile:
        path, asked = self.folder / f"healed-{number}.spa", self.asked
        if path.is_file():
            return es.open_task(path)
        return es.heal(
            cut,
            output=path,
            calibration=asked.images,
            resume=state_path(path).exists(),
            progress=self.progress,
            **self._of_task,
            **asked.data,
            **asked.healing,
            **asked.trackers,
        )

    def _measured(
        self, name: str, model: Any, keywords: Mapping[str, Any], against: Bundle | None, only: str | None = None
    ) -> tuple[Bundle, Mapping[str, float]]:
        """All files that may be chosen, or one, and what they take; those of the other bundle as ``whole:NAME``."""
        path = self.folder / name
        bundle = es.open_bundle(path) if path.is_dir() else self._exported(path, model, keywords, only)
        known = self.folder / f"{name}-{TIMES}"
        if known.is_file():
            return bundle, json.loads(plain_text(known))
        measured = self._profiled(bundle, against)
        own = bundle.path.name
        times = {
            each.variant if each.bundle == own else _THERE + each.variant: fastest_round_ms(each.rounds)
            for each in measured.measured.results
        }
        write_whole(known, json.dumps(times).encode())
        return bundle, times

    def _exported(
        self,
        path: Path,
        model: Any,
        keywords: Mapping[str, Any],
        only: str | None = None,
        *,
        overwrite: bool = False,
    ) -> Bundle:
        asked = self.asked
        formats, precisions = asked.formats, asked.precisions
        if only is not None:
            name, _, precision = only.partition("-")
            formats, precisions = (name,), (precision,)
        return es.export(
            model,
            output=path,
            formats=formats,
            precisions=precisions,
            calibration=asked.images,
            eval_data=asked.test,
            device=None if asked.device == "local" else asked.device,
            overwrite=overwrite,
            progress=self.progress,
            **keywords,
            **asked.data,
            **asked.exporting,
        )

    def _profiled(self, bundle: Bundle, against: Bundle | None) -> Profile:
        asked = self.asked
        return es.profile(
            bundle,
            device=asked.device,
            threads=asked.threads,
            against=against,
            again=True,
            # By the clock of what cuts: each file in the runtime and numbers that run.py takes by itself.
            runtimes=(),
            rounds=ROUNDS,
            seconds=SECONDS,
            progress=self.progress,
        )

    def _found(
        self,
        whole: Bundle,
        bundle: Bundle,
        measured: Profile,
        last: Round,
        healed: TaskFile | None,
        rounds: tuple[Round, ...],
    ) -> Compression:
        asked = self.asked
        before, after = reference(last.whole_ms), fastest(last.times_ms)
        plain, small = _variant(whole, before), _variant(bundle, after)
        costs = bundle.manifest.compaction
        lost = {} if healed is None else self._lost
        return Compression(
            bundle=asked.output,
            task=asked.task if healed is not None else None,
            device=measured.measured.device,
            threads=asked.threads,
            target_ms=last.target_ms,
            before=_side(plain, last.whole_ms[before], costs.base_macs, costs.base_parameters),
            after=_side(small, last.times_ms[after], costs.macs, costs.parameters),
            rounds=rounds,
            lost=lost,
        )


def _side(variant: Variant, latency_ms: float, macs: int, parameters: int) -> Side:
    own = variant.accuracy
    quality, measure = (None, None) if own is None else (own.figure, own.of.title)
    return Side(variant.name, latency_ms, variant.size_bytes, macs, parameters, quality, measure)


def _variant(bundle: Bundle, name: str) -> Variant:
    found = next((each for each in bundle.manifest.variants if each.name == name), None)
    if found is None:
        raise ExportError(f"{name} was not written a second time", "run the same again")
    return found


def cut_for(task: TaskFile) -> float:
    """What a task was found to take when it was cut: steps of channels mostly leave it below what it was cut for."""
    told = task.to_dict()["latency"]
    return float(told["expected_ms"]) if told else float("inf")


def is_state(folder: Path) -> bool:
    """Whether a folder is the state of some run: what is removed has to be one's own."""
    return not folder.is_symlink() and (folder / ASKED).is_file()


def is_of(folder: Path, asked: Asked) -> bool:
    """Whether a state is of the same run."""
    try:
        return plain_text(folder / ASKED) == asked.identity()
    except (OSError, UnicodeDecodeError):
        return False
