"""From a base, perhaps with calibration images, to a task: rank, share out, solve, prove."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue

from edgespa.config import Preprocess
from edgespa.data import Prepared
from edgespa.errors import ConfigError
from edgespa.graph.groups import Kept
from edgespa.pruning import allocate
from edgespa.pruning.config import PruneConfig
from edgespa.pruning.cut import bypass_error
from edgespa.pruning.evidence import cut, solve
from edgespa.pruning.front import Pass, Progress, front_to_back, stops, top
from edgespa.pruning.heads import Heads, narrow_heads
from edgespa.pruning.images import Images
from edgespa.pruning.learnt import Learnt, Report, Ticks
from edgespa.pruning.losses import behind
from edgespa.pruning.result import make_task
from edgespa.pruning.resume import Store
from edgespa.pruning.shapes import Losses, Shape, cut_down, kept_of, shapes_within
from edgespa.pruning.survey import Network
from edgespa.selection.select import allowed_widths
from edgespa.selection.widen import widened
from edgespa.system.files import uninterrupted
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task
from edgespa.tasks.unfinished import Unfinished

SHAPES = "shapes"
"""Where a state, and a task, say which widths were found."""


def prune(
    base: Base,
    config: PruneConfig,
    folder: Path,
    preprocess: Preprocess | None = None,
    *,
    data: Prepared | None = None,
    held_out: Prepared | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Report | None = None,
    choose_density: Callable[[Pruning], float] | None = None,
    facts: Callable[[], Mapping[str, Any]] | None = None,
) -> Task:
    """Remove units without training; masked = compacted is proved, on calibration images if there are any.

    Args:
        base: The model.
        config: How to prune.
        folder: Where the task file will lie.
        preprocess: How an image becomes an input, recorded if known.
        data: Calibration images.
        held_out: Labelled images, for the allocation ``equal-accuracy``.
        checkpoint: A file that holds the state, once the plan is made; the caller removes it when the task is saved.
        resume: Go on from the checkpoint if there is one.
        progress: Told ``(done, total, text)``.
        choose_density: Finds the density, in place of the configuration's.
        facts: What the state says besides, as plain values.

    Raises:
        BudgetError: If the density cannot be reached.
        ConfigError: If the method needs images or labels that are not given.
        DataError: If the images are of no use.
        GraphError: If the compacted program does not equal the masked one.
    """
    narrowing = None
    if config.head_width is not None and data is not None:
        images = Images(base, data)
        heads = Heads.of(base, images, _ticks(images, progress))
        narrowing = narrow_heads(base, images, heads, heads.sizes(config.head_width, config.round_to))
        base = narrowing.base
    pruning = Pruning(base, config, data, held_out, progress)

    def more() -> dict[str, Any]:
        return {**(facts() if facts is not None else {}), SHAPES: pruning.shaped}

    store = None if checkpoint is None else Store(checkpoint, pruning.identity(), more=more)
    if choose_density is not None:
        density = choose_density(pruning)
    elif config.shares == "knapsack":
        density = pruning.shape(config.density, _shaped_before(checkpoint) if resume else None)
    else:
        density = config.density
    task = pruning.task(density, folder, preprocess, store, resume)
    if pruning.shaped is not None:
        task = task.with_provenance(**{SHAPES: pruning.shaped})
    return task if narrowing is None else narrowing.recorded(task)


def _shaped_before(checkpoint: Path | None) -> Mapping[str, Any] | None:
    """The widths that a run found that is gone on with: they are not looked for again."""
    if checkpoint is None or not checkpoint.exists():
        return None
    found = Unfinished.read(checkpoint).facts.get(SHAPES)
    return found if isinstance(found, Mapping) and {"density", "widths", "removed", "losses"} <= set(found) else None


def _ticks(images: Images, progress: Report | None) -> Callable[[str], None]:
    counted = iter(range(1, images.batches + 1))

    def tick(text: str) -> None:
        if progress is not None:
            progress(next(counted, images.batches), images.batches, text)

    return tick


class Pruning:
    """A network and its calibration images; what is learnt about them serves every density.

    Args:
        base: The model.
        config: How to prune; its density does not count.
        data: Calibration images.
        held_out: Labelled images, for the allocation ``equal-accuracy``.
        progress: Told ``(done, total, text)``.

    Attributes:
        learnt: What the method knows of the network.
        time_of: Foretells the time of widths: where it does, a plan's groups are widened as long as it does not rise.
        chosen: What is left, where that was decided otherwise than by a density.
        shaped: What `shape` found, as plain values.
    """

    def __init__(
        self,
        base: Base,
        config: PruneConfig,
        data: Prepared | None = None,
        held_out: Prepared | None = None,
        progress: Report | None = None,
    ) -> None:
        if data is None and config.needs_data:
            what = f"the method {config.method}" if config.how.needs_data else "what was asked for"
            raise ConfigError(f"{what} needs images", "give --calibration; a few hundred are enough for most networks")
        if config.shares == "equal-accuracy" and held_out is None:
            raise ConfigError("the allocation equal-accuracy needs labelled images", "give --held-out")
        self.base = base
        self.config = config
        self.network = Network.of(base)
        self.images = Images(base, data) if data is not None else None
        judged_on = Images(base, held_out) if held_out is not None else None
        self.learnt = Learnt(self.network, config, self.images, judged_on, Ticks(progress))
        self.time_of: Callable[[Mapping[str, int]], float] | None = None
        self.chosen: Shape | None = None
        self.shaped: dict[str, JsonValue] | None = None
        self._original: Network | None = None

    def shape(self, density: float, before: Mapping[str, Any] | None = None) -> float:
        """Find what loses least (knapsack): how many units each group keeps, how wide heads are, and which blocks go.

        Args:
            density: What may remain.
            before: What was found before.

        Returns:
            The density that it comes to, at most as asked.

        Raises:
            BudgetError: If it cannot be reached.
        """
        if before is None:
            budget, learnt = self.config.budget_of(density), self.learnt
            losses = learnt.all_losses() if budget.of != "channels" else Losses(learnt.losses())
            found = shapes_within(self.base, losses, budget)
            before = {
                "density": found.density,
                **found.shape.plain(),
                "losses": {name: float(f"{value:.3g}") for name, value in found.losses.items()},
            }
        self.shaped = dict(before)
        self.chosen = Shape.of(before)
        return float(before["density"])

    def identity(self) -> dict[str, object]:
        """What a pass depends on."""
        return {
            "digest": self.base.digest,
            "data": self.images.name if self.images is not None else None,
            "config": self.config.model_dump(mode="json"),
        }

    def task(
        self,
        density: float,
        folder: Path,
        preprocess: Preprocess | None = None,
        store: Store | None = None,
        resume: bool = False,
    ) -> Task:
        """The task at a density. Scores, and what the original network showed, are found once and used again.

        Args:
            density: Fraction to keep.
            folder: Where the task file will lie.
            preprocess: Recorded if known.
            store: Keeps the state of a front-to-back pass.
            resume: Go on from the state in the store.
        """
        if self.chosen is not None and self.chosen.heads:
            assert self.images is not None
            narrowing = narrow_heads(self.base, self.images, self.learnt.heads(), self.chosen.heads)
            narrow = self._with_narrower_heads(narrowing.base, self.chosen)
            return narrowing.recorded(narrow.task(density, folder, preprocess, store, resume))
        if self.chosen is not None and self.chosen.removed:
            return self._without_blocks(self.chosen).task(density, folder, preprocess, store, resume)
        learnt = self.learnt
        loaded = store.load() if store is not None and resume else None
        if loaded is not None:
            counts, orders, start = loaded
            learnt.paths = learnt.paths if start.done else dict(start.paths)
        else:
            counts, orders = self._plan(density)
            start = Progress(paths=dict(learnt.paths))
            if store is not None:
                store.save(self._pass(counts, orders), start)
        try:
            result = self._fit(counts, orders, store, start)
        except (KeyboardInterrupt, SystemExit):
            if store is not None:
                with uninterrupted():
                    store.flush()
            raise
        config = self.config.model_copy(update={"density": density})
        task = make_task(self.network, config, result, learnt.whole, folder, preprocess, self.images)
        if self._original is None:
            return task
        gone = [block for block in self._original.base.blocks if block.name in self.base.removed]
        data = self.images.data if self.images is not None else None
        error = bypass_error(self._original.base.program, self.base.program, gone, data)
        return task.with_metrics(bypassed_cut_error=error)

    def _without_blocks(self, shape: Shape) -> Pruning:
        """The same pruning of the network without the blocks that go; what it should give is what the whole gave."""
        found = self._of(*cut_down(self.base, shape))
        found._original = self.network
        return found

    def _with_narrower_heads(self, narrow: Base, shape: Shape) -> Pruning:
        """The same pruning of the network whose heads are narrower; it may have blocks that go."""
        found = self._of(narrow, kept_of(narrow, shape.widths))
        assert found.chosen is not None
        found.chosen = dataclasses.replace(found.chosen, removed=shape.removed)
        return found

    def _of(self, base: Base, kept: Kept) -> Pruning:
        """The same pruning of another network, of which is known how much is kept; nothing is learnt of it yet."""
        found = copy.copy(self)
        found.base, found.network = base, Network.of(base)
        found.learnt = Learnt(found.network, self.config, self.images, None, self.learnt.ticks, shared=False)
        found.chosen = Shape({name: int(mask.sum()) for name, mask in kept.items()})
        return found

    def _pass(self, counts: Mapping[str, int], orders: Mapping[str, np.ndarray]) -> Pass:
        """What a front-to-back pass has to do: behind blocks that are gone every reader is solved."""
        also: frozenset[str] = frozenset()
        if self._original is not None:
            order = list(self.network.readers)
            first = min((order.index(node) for node in behind(self.network, self._original)), default=len(order))
            also = frozenset(order[first:])
        read = {name: count for name, count in counts.items() if name in self.network.of_group}
        return Pass(read, orders, self.learnt.reweights, self.config.fits_on == "asym", also)

    def widths(self, density: float) -> dict[str, int]:
        """How many units each group that loses some keeps at a density.

        Raises:
            BudgetError: If the density cannot be reached.
        """
        return self._plan(density)[0]

    def _plan(self, density: float) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """How many units each group that loses some keeps; and orders, of the groups where they are known by now."""
        if self.chosen is None:
            config = self.config.model_copy(update={"density": density})
            kept = allocate.shared_out(self.network, config, self.learnt.shares())
            counts = self._widened({name: int(mask.sum()) for name, mask in kept.items() if not mask.all()})
        else:
            sizes = {name: len(group) for name, group in self.base.groups.groups.items()}
            counts = {name: count for name, count in self.chosen.widths.items() if count < sizes[name]}
        return counts, {name: order for name, order in self.learnt.orders().items() if name in counts}

    def _widened(self, counts: dict[str, int]) -> dict[str, int]:
        """The widths of a plan, without what was cut and costs no time."""
        if self.time_of is None or not self.config.widen:
            return counts
        groups = self.base.groups.groups
        widths = {name: allowed_widths(groups[name], self.config.constraints) for name in counts}
        found = widened(counts, widths, self.time_of)
        return {name: count for name, count in found.items() if count < len(groups[name])}

    def _fit(
        self, counts: Mapping[str, int], orders: Mapping[str, np.ndarray], store: Store | None, start: Progress
    ) -> Progress:
        """Decide what is left to decide, and solve the readers of what goes."""
        learnt = self.learnt
        known = {name: top(orders[name], count) for name, count in counts.items() if name in orders}
        paths = {name: path for name, path in learnt.paths.items() if learnt.is_final(name) and name in counts}
        nothing = Progress(kept=known, paths=paths if self.config.how.in_change else {})
        if self.images is None or not (learnt.reweights or self.config.how.in_change):
            return nothing
        if self.config.fits_on == "layer":
            return self._fit_layers(nothing)
        what = self._pass(counts, orders)
        learnt.ticks.expect(len(stops(self.network, what)) - len(start.done))
        if not start.done:  # what goes and has no reader is gone from the beginning
            unread = {name: mask for name, mask in known.items() if name not in what.counts}
            changed = self.network.erased(self.base.groups.alive(unread), self.base.program.state())
            start = Progress(kept=unread, changed=changed, paths=nothing.paths)
        result = front_to_back(
            self.network,
            self.images,
            what,
            learnt.ticks,
            original=self._original,
            start=start,
            save=None if store is None else lambda now: store.save(what, now),
        )
        return dataclasses.replace(result, kept={**known, **result.kept})

    def _fit_layers(self, chosen: Progress) -> Progress:
        """Solve every reader of what goes by the evidence of the original network."""
        losing = [r for r in self.network.readers.values() if any(n in chosen.kept for n in self.network.of_reader(r))]
        self.learnt.gather({reader.node for reader in losing})
        alive = self.base.groups.alive(chosen.kept)
        state = {**self.base.program.state()}
        changed, errors = {}, {}
        for reader in losing:
            evidence = self.learnt.evidence[reader.node]
            weight, bias = state[reader.weight], state[reader.bias] if reader.bias else None
            solved = (
                solve(reader, evidence, alive, alive, weight, bias)
                if self.learnt.reweights
                else cut(reader, evidence, alive, weight, bias)
            )
            changed.update(solved.tensors(reader, state))
            errors[reader.layer] = solved.error
        return dataclasses.replace(chosen, changed=changed, errors=errors)
