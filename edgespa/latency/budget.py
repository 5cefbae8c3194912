"""Latency as a budget: the density whose compact model is as fast as asked, measured where it is going to run.

Candidates are untrained: a network is as fast with any weights. Each is cut as the real one will be (the same method,
the same alignment), exported, and measured on the device (`edgespa.latency.stopwatch`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from pydantic import JsonValue

from edgespa.adaptation.config import AdaptConfig
from edgespa.config import Preprocess
from edgespa.data import Prepared
from edgespa.device.link.reach import connect
from edgespa.distributed.processes import Processes
from edgespa.errors import BudgetError, ConfigError
from edgespa.graph.groups import Kept
from edgespa.graph.surgery import compact
from edgespa.latency.known import known_latencies
from edgespa.latency.stopwatch import LatencyBudget, Stopwatch
from edgespa.pruning import PruneConfig
from edgespa.pruning.run import Pruning
from edgespa.selection.fit import Search, largest_within
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

log = logging.getLogger(__name__)

Progress = Callable[[float, float | None, str], None]
Widths = tuple[tuple[str, int], ...]
"""Per group that loses some units how many it keeps: what a candidate is."""

_LEAST = 1e-3
_HALVINGS = 9
_FAR = 1.1


@dataclasses.dataclass(frozen=True)
class LatencyFit:
    """What came of it.

    Attributes:
        budget: What was asked.
        density: Found.
        of: What it is a fraction of.
        expected_ms: Of the candidate.
        whole_ms: Of the whole network.
        estimated: The device was away: nothing was measured.
        trials: All candidates: density, MACs and latency in ms.
    """

    budget: LatencyBudget
    density: float
    of: str
    expected_ms: float
    whole_ms: float
    estimated: bool
    trials: tuple[dict[str, float], ...]

    def account(self) -> dict[str, JsonValue]:
        """For the provenance of a task."""
        rows: list[JsonValue] = [{key: round(value, 6) for key, value in row.items()} for row in self.trials]
        return {
            "asked_ms": self.budget.latency_ms,
            "device": self.budget.device.name,
            "variant": self.budget.variant,
            "threads": self.budget.threads,
            "density": self.density,
            "of": self.of,
            "expected_ms": self.expected_ms,
            "whole_ms": self.whole_ms,
            "estimated": self.estimated,
            "emulated": self.budget.device.emulated,
            "trials": rows,
        }


def fit(pruning: Pruning, stopwatch: Stopwatch, progress: Progress | None = None) -> LatencyFit:
    """Find the density of a method whose compact network fits a latency budget.

    Args:
        pruning: The network, the method, its alignment, and what its density is a fraction of.
        stopwatch: Measures.
        progress: Told ``(done, total, text)``.

    Raises:
        BudgetError: Even the smallest network that the method can make is slower; it says how fast that is.
    """
    base, budget = pruning.base, stopwatch.budget
    made: dict[Widths, Mapping[str, int]] = {}

    def candidate(density: float) -> Widths:
        counts = pruning.widths(density)
        key = tuple(sorted(counts.items()))
        made[key] = counts
        return key

    done = 0
    figures: dict[Widths, tuple[int, float]] = {}

    def measure(key: Widths) -> float:
        nonlocal done
        kept = _kept(base, made[key])
        cost = base.cost.cost(kept)
        if progress is not None:
            progress(done, None, f"latency on {budget.device.name}: {cost.macs / 1e6:.4g}M MACs")
        done += 1
        value = stopwatch.latency_ms(compact(base.program, base.groups, kept), cost.macs, cost.size_bytes)
        figures[key] = (cost.macs, value)
        log.info("%s MACs: %.4g ms", f"{cost.macs:,}", value)
        return value

    low = _smallest(pruning)
    search = largest_within(budget.latency_ms, candidate, measure, low=low)
    if search.chosen is None:
        raise _unreachable(budget, search, figures, stopwatch.estimated)
    trials = tuple(
        {"density": trial.density, "macs": float(figures[trial.key][0]), "latency_ms": trial.time}
        for trial in search.trials
    )
    chosen = search.chosen
    return LatencyFit(
        budget, chosen.density, pruning.config.budget, chosen.time, search.trials[0].time, stopwatch.estimated, trials
    )


def _unreachable(
    budget: LatencyBudget, search: Search[Widths], figures: Mapping[Widths, tuple[int, float]], estimated: bool
) -> BudgetError:
    fastest = search.fastest
    how = "by the estimate " if estimated else ""
    return BudgetError(
        f"{budget.latency_ms:g} ms cannot be reached on {budget.device.name}: {how}the fastest candidate takes "
        f"{fastest.time:.3g} ms, at a density of {fastest.density:.3g} ({figures[fastest.key][0] / 1e6:.3g}M MACs)",
        "ask for more; or allow narrower layers (--round-to 1), or try another --variant or more --threads",
    )


def _kept(base: Base, counts: Mapping[str, int]) -> Kept:
    """A selection with these widths; which units does not matter."""
    kept = base.groups.all_kept()
    for name, count in counts.items():
        kept[name] = np.arange(len(kept[name])) < count
    return kept


def _smallest(pruning: Pruning) -> float:
    """The least density that a selection of the method can have, to a few parts in a thousand."""

    def possible(density: float) -> bool:
        try:
            pruning.widths(density)
        except BudgetError:
            return False
        return True

    low, high = _LEAST, 1.0
    if possible(low):
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return high


class LatencyFitting:
    """A latency budget during one run of prune or adapt; without a budget it does nothing.

    Args:
        base: The network.
        stopwatch: Measures; None without a budget.
        progress: Told ``(done, total, text)``.
    """

    def __init__(self, base: Base, stopwatch: Stopwatch | None, progress: Progress | None) -> None:
        self._base, self._stopwatch, self._progress = base, stopwatch, progress
        self._found: LatencyFit | None = None

    @classmethod
    @contextlib.contextmanager
    def of(
        cls,
        budget: LatencyBudget | None,
        base: Base,
        calibration: Prepared | None,
        preprocess: Preprocess | None,
        progress: Progress | None,
    ) -> Iterator[LatencyFitting]:
        """Connected to the device as long as the block runs; nothing is sent before it is needed.

        Args:
            budget: None for nothing.
            base: The network.
            calibration: Images, for int8 files.
            preprocess: How images become inputs.
            progress: Told ``(done, total, text)``.
        """
        if budget is None:
            yield cls(base, None, progress)
            return
        with connect(budget.device) as connection:
            yield cls(base, Stopwatch(budget, connection, calibration, preprocess), progress)

    def record(self) -> dict[str, JsonValue] | None:
        """What was found, for the state of a run; None before anything was."""
        return None if self._found is None else self._found.account()

    def take(self, record: object) -> None:
        """Take what a run found that is gone on with: measured again, it would be a little different.

        Args:
            record: From `record`; anything else is not looked at.
        """
        if self._stopwatch is None or not isinstance(record, Mapping):
            return
        named = {key: record[key] for key in ("density", "of", "expected_ms", "whole_ms", "estimated")}
        self._found = LatencyFit(self._stopwatch.budget, trials=tuple(record["trials"]), **named)

    def density(self, pruning: Pruning) -> float:
        """The density of a method that fits; widths that cost no time by the device's table are given back."""
        if self._stopwatch is not None and pruning.config.widen:
            asked = self._stopwatch.budget
            known = known_latencies(pruning.base, asked.device, asked.variant, asked.threads)
            pruning.time_of = None if known is None else known.predictor.width_ms
        if self._found is not None:
            return self._found.density
        assert self._stopwatch is not None
        self._found = fit(pruning, self._stopwatch, self._progress)
        return self._found.density

    def for_adapting(self, config: AdaptConfig, started: bool, processes: Processes) -> AdaptConfig:
        """The configuration with the MAC density that fits.

        Training decides which layers lose how much, so the candidates can only be like it: cut by the weights alone,
        to a fraction of the MACs, which say more about time than channels do.

        Args:
            config: As asked.
            started: Whether the run starts from a task file.
            processes: That share the run.

        Raises:
            ConfigError: A latency budget cannot be had there.
        """
        if started or processes.count > 1:
            what = "several processes" if processes.count > 1 else "--from"
            raise ConfigError(
                f"a latency budget does not go with {what}",
                "find the density with: edgespa prune MODEL --budget latency_ms=...; then give --budget macs --density",
            )
        norms = config.adds_norms(self._base.program)
        base = self._base.extended(config.adapter, config.adapter_options, norms=norms)
        shared = {key: getattr(config, key) for key in ("round_to", "min_width", "keep", "only", "normalisation")}
        density = self.density(
            Pruning(base, PruneConfig(density=1.0, method="l1", budget="macs", widen=False, **shared))
        )
        return config.model_copy(update={"density": density, "budget": "macs"})

    def recorded(self, task: Task) -> Task:
        """The task with what was asked, and what its own program takes, in its header.

        Args:
            task: Made at the density that was found.
        """
        found, stopwatch = self._found, self._stopwatch
        if found is None or stopwatch is None:
            return task
        figures, program = task.header.figures, task.program(self._base)
        size = sum(tensor.numel() * tensor.element_size() for tensor in program.state().values())
        obtained = stopwatch.latency_ms(program, figures.macs, size)
        account: dict[str, JsonValue] = {
            **found.account(),
            "obtained_ms": obtained,
            "estimated": stopwatch.estimated,
        }
        header = task.header.model_copy(update={"provenance": {**task.header.provenance, "latency": account}})
        asked = found.budget.latency_ms
        if obtained > _FAR * asked:
            log.warning(
                "the task takes %.3g ms on %s, %.0f%% more than asked: its layers became wider or narrower than those "
                "of the candidates; give a smaller latency_ms, or --density",
                obtained,
                found.budget.device.name,
                100 * (obtained / asked - 1),
            )
        key = "estimated_latency_ms" if stopwatch.estimated else "latency_ms"
        return dataclasses.replace(task, header=header).with_metrics(**{key: obtained})
