"""The state of an adaptation: what it takes to go on from any training step, bit for bit; and when it is written."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from edgespa.adaptation.inside import Inside
from edgespa.adaptation.moments import averages_of, read_averages, steps_of
from edgespa.adaptation.run import Run
from edgespa.errors import ConfigError
from edgespa.objectives.kinds import identity_of
from edgespa.system.files import hold
from edgespa.system.stopping import Stop
from edgespa.tasks.checkpoint import Checkpoint, require_same
from edgespa.tasks.unfinished import refuse_in_use

SECONDS = 120.0
"""Most time inside an epoch between two states, but for large ones."""
SHARE = 20.0
"""Writing states takes at most this part of the time."""
_GROWTH = 8
"""What two states of a training need, as a multiple of its first one."""

_OPTIONS = MappingProxyType(
    {
        "digest": "MODEL (or --weights)",
        "data": "--data",
        "samples": "--data (its images or labels)",
        "validation": "--validation-data",
        "config.adapter_settings": "--adapter-option",
        "preprocess": "--mean, --std, --resize and what else is said of images, or --input-shape",
        "objective": "--objective",
        "teacher": "--distill",
        "precision": "--mixed-precision",
        "start": "--from",
        "units": "--data (its targets)",
    }
)


def snapshot(run: Run) -> Checkpoint:
    """Everything that the training from here on depends on; training on does not change it.

    Args:
        run: Between two training steps; where several processes share it, in all of them.
    """
    moments = averages_of(run.optimizer, run.named_parameters())
    averages = {f"{moment}/{key}": t.clone() for moment, own in moments.items() for key, t in own.flat().items()}
    scaler, inside = run.processes.scaler, run.inside
    facts = {
        **identity(run),
        "epoch": run.epoch,
        "steps_done": inside.steps,
        "loss": run.processes.totals([inside.loss])[0],
        "best_quality": run.best_quality,
        "best_values": list(run.best_values),
        "history": list(run.history),
        "optimizer_steps": steps_of(run.optimizer),
        "scaler": scaler.state_dict() if scaler is not None else None,
        "lr": run.timeline.peak,
        "lr_trials": dict(run.lr_trials),
        "settled": run.settled,
        "ranges": {site: list(ends) for site, ends in run.ranges.items()},
    }
    random = inside.states(run.processes) if inside.steps else {}
    return Checkpoint(run.kept, run.factors().copied(), averages, facts, run.best, random)


def identity(run: Run) -> dict[str, Any]:
    """What a state has to have in common with the run that goes on from it."""
    loss = run.loss
    return {
        "digest": run.base.digest,
        "data": run.data_name,
        "samples": run.samples,
        "validation": run.validation,
        "config": run.config.model_dump(mode="json"),
        "preprocess": run.preprocess and run.preprocess.model_dump(mode="json"),
        "objective": None if run.config.objective is None else identity_of(run.config.objective),
        "teacher": loss.teacher_name,
        "precision": run.processes.precision,
        "start": run.start,
        "units": loss.units.record() if loss.units else None,
    }


def restore(run: Run, state: Checkpoint) -> None:
    """Go on from a snapshot of the same run.

    Args:
        run: As it was made.
        state: The snapshot.

    Raises:
        ConfigError: If it is of another run; it names the option that differs.
    """
    facts = state.facts
    require_same(facts, identity(run), _OPTIONS)
    run.settle_rate(float(facts.get("lr", run.timeline.peak)), facts.get("lr_trials", {}))
    run.settled = bool(facts.get("settled", True))
    run.epoch = int(facts["epoch"])
    steps, loss = int(facts.get("steps_done", 0)), float(facts.get("loss", 0.0))
    run.ranges = {site: (float(low), float(high)) for site, (low, high) in facts.get("ranges", {}).items()}
    run.inside = Inside.left(steps, loss, state.random, run.processes)
    run.put(state.kept, state.factors.copied(), read_averages(state.averages), float(facts["optimizer_steps"]))
    if run.processes.scaler is not None and facts.get("scaler"):
        run.processes.scaler.load_state_dict(facts["scaler"])
    run.best_quality = float(facts["best_quality"])
    run.best_values = tuple(facts.get("best_values", [run.best_quality]))
    run.history = list(facts["history"])
    run.best = state.best


class Keeper:
    """Writes the state of a run: when it begins, after each epoch, from time to time inside one, and when it is to end.

    Args:
        run: The run.
        path: The file; None to keep nothing.
        stop: Whether the run is to end.
        more: What the state says besides.
    """

    def __init__(self, run: Run, path: Path | None, stop: Stop, more: Mapping[str, Any] | None = None) -> None:
        self.stop = stop
        self._run, self._path, self._more = run, path, dict(more or {})
        self._every = SECONDS
        self._saved = False
        self._held: BinaryIO | None = None
        self._saved_at = time.monotonic()

    def save(self) -> None:
        """Write it now; to be called in all processes, of which the main one writes."""
        if self._path is None:
            return
        state = snapshot(self._run)
        if self._run.processes.is_main:
            if self._held is None:  # two that began within the same seconds: nobody had a state when they looked
                refuse_in_use(self._path)
            before = time.monotonic()
            dataclasses.replace(state, facts={**state.facts, **self._more}).save(self._path)
            self._hold()
            if not self._saved and not state.averages:
                self._require_space()
            self._saved = True
            self._saved_at = time.monotonic()
            self._every = max(SECONDS, SHARE * (self._saved_at - before))

    def take(self) -> None:
        """Have the state that is gone on with in use."""
        if self._path is not None and self._run.processes.is_main:
            self._hold()

    def close(self) -> None:
        """Let others have the state."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def _hold(self) -> None:
        """Show that the state is in use: another run of the same output is refused."""
        self.close()
        assert self._path is not None
        self._held = self._path.open("rb")
        hold(self._held.fileno())

    def _require_space(self) -> None:
        """Refuse to begin where later states, with two averages and the best epoch, do not fit beside each other."""
        assert self._path is not None
        need = _GROWTH * self._path.stat().st_size
        free = shutil.disk_usage(self._path.absolute().parent).free
        if free < need:
            self._path.unlink()
            raise ConfigError(
                f"{self._path.absolute().parent}: {free:,} bytes are free there, and the states of this training need "
                f"{need:,}",
                "free some space on that disk, or choose another --output",
            )

    @property
    def due(self) -> bool:
        """Whether the last state is so old that another one should be written."""
        return self._path is not None and time.monotonic() - self._saved_at >= self._every

    def pause(self) -> None:
        """Between two training steps: write it if that is due; end if that is asked for.

        Raises:
            KeyboardInterrupt: The run is to end, and its state is written.
            SystemExit: Likewise.
        """
        processes = self._run.processes
        due, asked = self.due, self.stop.asked is not None
        if processes.count > 1:  # the clock is the main one's; an end is that of all
            sums = processes.totals([float(due and processes.is_main), float(asked)])
            due, asked = sums[0] > 0, sums[1] > 0
        if due or asked:
            self.save()
        if asked:
            self.stop.end()
