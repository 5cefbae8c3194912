"""Latency as a budget during one run of prune or adapt: found once, as the device and the method allow."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from edgespa.adaptation.config import AdaptConfig
from edgespa.config import Preprocess
from edgespa.data import Prepared
from edgespa.device.link.reach import connect
from edgespa.distributed.processes import Processes
from edgespa.errors import BudgetError, ConfigError, DeviceError
from edgespa.graph.kinds import WEIGHED
from edgespa.latency.fits import LatencyFit, Progress, fit, fit_shapes
from edgespa.latency.known import Foretold, known_latencies, make_latencies
from edgespa.latency.shaper import Shaper
from edgespa.latency.stopwatch import LatencyBudget, Stopwatch
from edgespa.pruning import PruneConfig
from edgespa.pruning.run import Pruning
from edgespa.pruning.shapes import Shape
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

log = logging.getLogger(__name__)

_FAR = 1.1


class LatencyFitting:
    """A latency budget during one run of prune or adapt; without a budget it does nothing.

    Args:
        base: The network.
        stopwatch: Measures; None without a budget.
        progress: Told ``(done, total, text)``.

    Attributes:
        choose: Chooses the units of each pruning step of a training; None where its density is enough.
    """

    def __init__(self, base: Base, stopwatch: Stopwatch | None, progress: Progress | None) -> None:
        self._base, self._stopwatch, self._progress = base, stopwatch, progress
        self._found: LatencyFit | None = None
        self.choose: Shaper | None = None
        self._refused: BudgetError | None = None
        self._foretold: Foretold | None = None  # by which widths were found
        self._believed = True  # the table, by the device

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
        if "widths" in record:
            named |= {"shape": Shape.of(record), "losses": record["losses"]}
        self._found = LatencyFit(self._stopwatch.budget, trials=tuple(record["trials"]), **named)

    def density(self, pruning: Pruning) -> float:
        """The density of a method that fits; the pruning is told the widths, where each layer's was found for itself.

        With one density for all layers, widths that cost no time by the device's table are given back.
        """
        if self._found is None:
            self._found = self._shapes(pruning)
        elif self._found.shape is not None:
            pruning.chosen = self._found.shape
        if self._found is not None and self._found.shape is not None:
            return self._found.density
        assert self._stopwatch is not None
        asked = self._stopwatch.budget
        if pruning.config.widen and self._believed:
            known = known_latencies(pruning.base, asked.device, asked.variant, asked.threads)
            pruning.time_of = None if known is None else known.predictor.width_ms
        if self._found is None:
            try:
                self._found = fit(pruning, self._stopwatch, self._progress)
            except BudgetError as error:
                raise (self._refused or error) from error
        return self._found.density

    def _shapes(self, pruning: Pruning) -> LatencyFit | None:
        """Widths by a knapsack over the device's table, which is made where it is absent; None where that cannot be."""
        if pruning.config.shares != "knapsack" or self._stopwatch is None:
            return None
        asked = self._stopwatch.budget
        try:
            known = known_latencies(pruning.base, asked.device, asked.variant, asked.threads) or make_latencies(
                pruning.base,
                self._stopwatch.connection,
                asked.variant,
                asked.threads,
                whole=False,
                progress=self._progress,
            )
        except (ConfigError, DeviceError) as error:
            log.warning(
                "%s has no latency table for this network, so all layers are cut to one density: %s",
                asked.device.name,
                error.message,
            )
            return None
        try:
            found = fit_shapes(pruning, self._stopwatch, known, self._progress)
        except BudgetError as error:
            self._refused, found = error, None
        if found is None:
            self._believed = False
            log.warning(
                "no widths that the latency table of %s foretold came near, so one density for all layers is tried; if "
                "the table is of a busier or quieter time, measure it again: edgespa devices latencies %s ... --again",
                asked.device.name,
                asked.device.asked,
            )
            return None
        pruning.chosen, self._foretold = found.shape, known
        return found

    def for_adapting(self, config: AdaptConfig, started: bool, processes: Processes) -> AdaptConfig:
        """The configuration with the MAC density that fits.

        Training decides which layers lose how much, so the candidates can only be like it: cut by the weights alone.
        With a latency table of the device `choose` is set, which then keeps each pruning step within its time; without
        one, the density is one of the MACs, which say more about time than channels do.

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
        settings = PruneConfig(density=1.0, method="l1", budget="macs", widen=False, **shared)
        if set(base.groups.groups) == set(self._base.groups.groups):
            base, settings = self._base, settings.for_latency()
        density = self.density(Pruning(base, settings))
        self.choose = self._shaper(settings, density)
        return config.model_copy(update={"density": density, "budget": "macs"})

    def _shaper(self, settings: PruneConfig, density: float) -> Shaper | None:
        """What keeps a training within its time, where widths were found by a table."""
        if self._found is None or self._found.shape is None or self._stopwatch is None:
            return None
        asked = self._stopwatch.budget
        known = known_latencies(self._base, asked.device, asked.variant, asked.threads)
        if known is None:
            log.warning(
                "the latency table of %s that the run began with is gone: all layers are cut by MACs now",
                asked.device.name,
            )
            return None
        target_ms = known.predictor.width_ms(self._found.shape.widths)
        return Shaper(known.predictor, settings.constraints, density, target_ms)

    def _layers(self, task: Task) -> list[JsonValue]:
        """Of each layer with weights how wide it is and was, and what it takes: foretold, and measured if that is told.

        Args:
            task: Just measured.
        """
        assert self._stopwatch is not None
        asked = self._stopwatch.budget
        foretold = self._foretold or known_latencies(self._base, asked.device, asked.variant, asked.threads)
        if foretold is None or not set(task.kept) <= set(foretold.base.groups.groups):
            return []
        widths = dict.fromkeys(foretold.base.groups.groups, 0)  # of groups in blocks that are gone
        widths |= {name: int(mask.sum()) for name, mask in task.kept.items()}
        removed = task.header.depth.removed if task.header.depth is not None else ()
        whole = {each.layer: each.widths for each in foretold.predictor.layer_ms()}
        told = foretold.shape_layers(Shape(widths, removed, task.header.widths))
        once = Counter(each.layer for each in told)
        measured = {name: ms for name, ms in self._stopwatch.layers.items() if once[name] == 1}
        return [
            {
                "layer": each.layer,
                "widths": list(each.widths),
                "of": list(whole[each.layer]),
                "foretold_ms": float(f"{each.latency_ms:.4g}"),
                "measured_ms": float(f"{measured[each.layer]:.4g}") if each.layer in measured else None,
            }
            for each in told
            if each.kind.split()[0] in WEIGHED
        ]

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
        stopwatch.by_layer = True
        obtained = stopwatch.latency_ms(program, figures.macs, size)
        if stopwatch.estimated and found.shape is not None:
            obtained = found.expected_ms  # by the table
        account: dict[str, JsonValue] = {
            **found.account(),
            "obtained_ms": obtained,
            "estimated": stopwatch.estimated,
        }
        if self.choose is not None:  # what was found by the weights alone is not what the training came to
            account["widths"] = {name: int(mask.sum()) for name, mask in task.kept.items()}
            del account["losses"]
        if found.shape is not None:
            account["layers"] = self._layers(task)
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
        return task.with_provenance(latency=account).with_metrics(**{key: obtained})
