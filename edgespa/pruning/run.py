"""From a base, perhaps with calibration images, to a task: rank, share out, solve, prove."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespa.config import Preprocess
from edgespa.data import Prepared
from edgespa.errors import ConfigError
from edgespa.pruning import allocate
from edgespa.pruning.config import PruneConfig
from edgespa.pruning.cut import bypass_error, carried_over
from edgespa.pruning.evidence import Evidence, cut, solve
from edgespa.pruning.front import Pass, Progress, front_to_back, stops, top
from edgespa.pruning.heads import narrow_heads
from edgespa.pruning.images import Images
from edgespa.pruning.losses import (
    LEVELS,
    BlockLoss,
    accuracy_losses,
    behind,
    block_losses,
    lost_scores,
    output_losses,
)
from edgespa.pruning.rank import by_rank, scores_of
from edgespa.pruning.result import make_task
from edgespa.pruning.resume import Store
from edgespa.pruning.survey import Network, gather, path_of
from edgespa.selection import reconstruct
from edgespa.selection.criteria import CRITERIA, Scores
from edgespa.selection.select import allowed_widths, free_groups
from edgespa.selection.widen import widened
from edgespa.system.files import uninterrupted
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

Report = Callable[[float, float | None, str], None]
LossCurve = Mapping[int, float]
"""By the number of units that are kept."""


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
        narrowing = narrow_heads(base, images, config.head_width, config.round_to, _ticks(images, progress))
        base = narrowing.base
    pruning = Pruning(base, config, data, held_out, progress)
    store = None if checkpoint is None else Store(checkpoint, pruning.identity(), more=facts)
    density = config.density if choose_density is None else choose_density(pruning)
    task = pruning.task(density, folder, preprocess, store, resume)
    return task if narrowing is None else narrowing.recorded(task)


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
        self.reweights = self.images is not None if config.reweight is None else config.reweight
        self._held_out = Images(base, held_out) if held_out is not None else None
        self._progress = progress
        self._done, self._expected = 0, 0
        self._evidence: dict[str, list[Evidence]] = {}
        self._paths: dict[str, reconstruct.Path] = {}
        self._scores: dict[str, Scores] | None = None
        self._shares: dict[str, Scores] | None = None
        self._losses: dict[str, NDArray[np.float64]] | None = None
        self._block_losses: dict[str, BlockLoss] | None = None
        self.time_of: Callable[[Mapping[str, int]], float] | None = None
        """Foretells the time of widths: where there is one, a plan's groups are widened as long as it does not rise."""
        self.shapes: Mapping[str, int] | None = None
        """How many units each group keeps, where that was decided otherwise than by a density."""
        self.removed: tuple[str, ...] = ()
        """Residual blocks that go as well."""
        self._original: Network | None = None

    def identity(self) -> dict[str, object]:
        """What a pass depends on."""
        return {
            "digest": self.base.digest,
            "data": self.images.name if self.images is not None else None,
            "config": self.config.model_dump(mode="json"),
        }

    @property
    def whole(self) -> dict[str, str]:
        """Groups that stay whole because the method judges a group by its readers, with the reason."""
        by_readers = self.config.how.rank not in CRITERIA or self.config.every_path
        return dict(self.network.whole) if by_readers else {}

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
        if self.removed:
            return self._without_blocks().task(density, folder, preprocess, store, resume)
        loaded = store.load() if store is not None and resume else None
        if loaded is not None:
            counts, orders, start = loaded
            self._paths = self._paths if start.done else dict(start.paths)
        else:
            counts, orders = self._plan(density)
            start = Progress(paths=dict(self._paths))
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
        task = make_task(self.network, config, result, self.whole, folder, preprocess, self.images)
        if self._original is None:
            return task
        gone = [block for block in self._original.base.blocks if block.name in self.base.removed]
        data = self.images.data if self.images is not None else None
        error = bypass_error(self._original.base.program, self.base.program, gone, data)
        return task.with_metrics(bypassed_cut_error=error)

    def _without_blocks(self) -> Pruning:
        """The same pruning of the network without the blocks that go; what it should give is what the whole gave."""
        found = copy.copy(self)
        found.base = self.base.without_blocks(self.removed)
        found.network, found._original, found.removed = Network.of(found.base), self.network, ()
        found._evidence, found._paths, found._shares = {}, {}, None
        kept = self.base.groups.all_kept()
        for name, count in (self.shapes or {}).items():
            kept[name] = np.arange(len(kept[name])) < count
        after = carried_over(kept, self.base.groups, found.base.groups)
        found.shapes = {name: int(mask.sum()) for name, mask in after.items()}
        return found

    def _pass(self, counts: Mapping[str, int], orders: Mapping[str, np.ndarray]) -> Pass:
        """What a front-to-back pass has to do: behind blocks that are gone every reader is solved."""
        also: frozenset[str] = frozenset()
        if self._original is not None:
            order = list(self.network.readers)
            first = min((order.index(node) for node in behind(self.network, self._original)), default=len(order))
            also = frozenset(order[first:])
        read = {name: count for name, count in counts.items() if name in self.network.of_group}
        return Pass(read, orders, self.reweights, self.config.fits_on == "asym", also)

    def widths(self, density: float) -> dict[str, int]:
        """How many units each group that loses some keeps at a density.

        Raises:
            BudgetError: If the density cannot be reached.
        """
        return self._plan(density)[0]

    def losses(self) -> dict[str, LossCurve]:
        """What each group that may be pruned loses at each width that it may have: by units that it keeps.

        By the outputs, if the method chooses units by what their readers can be made to reconstruct
        (`edgespa.pruning.losses.output_losses`); else by the scores of the units that go.
        """
        self._learn()
        names = free_groups(self.base.groups, self.config.constraints)
        if self.config.how.in_change:
            assert self.images is not None
            paths = {name: self._paths[name] for name in names if name in self._paths}
            if self._losses is None:
                self._expect(len(paths) * len(LEVELS))
                self._losses = output_losses(
                    self.network, paths, self._evidence, self.images, self.reweights, self._tick
                )
        elif self._losses is None:
            assert self._scores is not None
            self._losses = lost_scores(self._scores)
        found: dict[str, LossCurve] = {}
        for name, own in self._losses.items():
            if name in names:
                widths = allowed_widths(self.base.groups.groups[name], self.config.constraints)
                found[name] = {width: float(own[width]) for width in widths}
        return found

    def block_losses(self) -> dict[str, BlockLoss]:
        """What each residual block is worth that may go; none where the method or the configuration has it so."""
        if self.images is None or not (self.config.blocks and self.config.how.in_change and self.reweights):
            return {}
        if self.config.fits_on != "asym" or self.config.keep or self.config.only or self.base.removed:
            return {}
        if self._block_losses is None:
            self._expect(sum(block.removable for block in self.base.blocks))
            self._block_losses = block_losses(self.network, self.images, self.reweights, self._tick)
        return self._block_losses

    def _learn(self) -> None:
        """Scores, or greedy paths: whatever the method orders units by."""
        how = self.config.how
        if not how.in_change and self._scores is None:
            self._expect(len(self.network.readers) if how.needs_data else 0)
            found = scores_of(self.network, self.config, self.images, self._tick)
            self._scores = {name: scores for name, scores in found.items() if name not in self.whole}
        if self._wants_paths and not self._paths:
            self._find_paths()

    def _plan(self, density: float) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """How many units each group that loses some keeps; and orders, of the groups where they are known by now."""
        config = self.config.model_copy(update={"density": density})
        self._learn()
        if self.shapes is None:
            by_scores = config.shares in ("global", "knapsack") and self._scores is not None
            shares = self._scores if by_scores and self._scores is not None else self._share_scores()
            kept = allocate.shared_out(self.network, config, shares)
            counts = self._widened({name: int(mask.sum()) for name, mask in kept.items() if not mask.all()})
        else:
            sizes = {name: len(group) for name, group in self.base.groups.groups.items()}
            counts = {name: count for name, count in self.shapes.items() if count < sizes[name]}
        if self._scores is not None:
            orders = {name: np.argsort(-scores, kind="stable") for name, scores in self._scores.items()}
        else:
            orders = {name: path.order for name, path in self._paths.items() if self._is_final(name)}
        return counts, {name: order for name, order in orders.items() if name in counts}

    def _widened(self, counts: dict[str, int]) -> dict[str, int]:
        """The widths of a plan, without what was cut and costs no time."""
        if self.time_of is None or not self.config.widen:
            return counts
        groups = self.base.groups.groups
        widths = {name: allowed_widths(groups[name], self.config.constraints) for name in counts}
        found = widened(counts, widths, self.time_of)
        return {name: count for name, count in found.items() if count < len(groups[name])}

    def _is_final(self, name: str) -> bool:
        """Whether the path of a group on the original network is the one that counts."""
        return self.config.fits_on == "layer" or len(self.network.of_group[name]) > 1

    @property
    def _wants_paths(self) -> bool:
        how = self.config.how
        return (self.config.every_path and self._original is None) or (
            how.in_change and any(self._is_final(name) for name in self.network.of_group)
        )

    def _find_paths(self) -> None:
        """Greedy paths on the original network: of all groups if they share out the budget, else where they count."""
        assert self.images is not None
        every = self.config.every_path and self._original is None
        names = [name for name in self.network.of_group if every or self._is_final(name)]
        self._gather({reader.node for name in names for reader in self.network.of_group[name]})
        self._paths = {name: path_of(self.network, name, self._evidence) for name in names}
        if self.config.fits_on != "layer" and self.config.shares not in ("equal-accuracy", "knapsack"):
            self._evidence = {}  # a front-to-back pass gathers its own

    def _gather(self, nodes: set[str]) -> None:
        assert self.images is not None
        readers = [reader for node, reader in self.network.readers.items() if node in nodes - set(self._evidence)]
        if readers:
            self._expect(len(readers))
            self._evidence.update(gather(self.network, self.images, readers, self._tick))

    def _share_scores(self) -> dict[str, Scores]:
        if self._shares is None:
            names = [name for name in self.base.groups.groups if name not in self.whole]
            if self._paths and self.config.shares in ("equal-error", "knapsack"):
                self._shares = allocate.equal_error(self._paths)
            elif self.config.shares == "equal-accuracy" and self._held_out is not None:
                self._expect(len(self._paths) * len(LEVELS))
                self._shares = allocate.equal_accuracy(
                    accuracy_losses(
                        self.network, self._paths, self._evidence, self._held_out, self.reweights, self._tick
                    )
                )
            else:
                self._shares = {name: by_rank(range(len(self.network.group(name)))) for name in names}
        return self._shares

    def _fit(
        self, counts: Mapping[str, int], orders: Mapping[str, np.ndarray], store: Store | None, start: Progress
    ) -> Progress:
        """Decide what is left to decide, and solve the readers of what goes."""
        known = {name: top(orders[name], count) for name, count in counts.items() if name in orders}
        paths = {name: path for name, path in self._paths.items() if self._is_final(name) and name in counts}
        nothing = Progress(kept=known, paths=paths if self.config.how.in_change else {})
        if self.images is None or not (self.reweights or self.config.how.in_change):
            return nothing
        if self.config.fits_on == "layer":
            return self._fit_layers(nothing)
        what = self._pass(counts, orders)
        self._expect(len(stops(self.network, what)) - len(start.done))
        if not start.done:  # what goes and has no reader is gone from the beginning
            unread = {name: mask for name, mask in known.items() if name not in what.counts}
            changed = self.network.erased(self.base.groups.alive(unread), self.base.program.state())
            start = Progress(kept=unread, changed=changed, paths=nothing.paths)
        result = front_to_back(
            self.network,
            self.images,
            what,
            self._tick,
            original=self._original,
            start=start,
            save=None if store is None else lambda now: store.save(what, now),
        )
        return dataclasses.replace(result, kept={**known, **result.kept})

    def _fit_layers(self, chosen: Progress) -> Progress:
        """Solve every reader of what goes by the evidence of the original network."""
        losing = [r for r in self.network.readers.values() if any(n in chosen.kept for n in self.network.of_reader(r))]
        self._gather({reader.node for reader in losing})
        alive = self.base.groups.alive(chosen.kept)
        state = {**self.base.program.state()}
        changed, errors = {}, {}
        for reader in losing:
            evidence = self._evidence[reader.node]
            weight, bias = state[reader.weight], state[reader.bias] if reader.bias else None
            solved = (
                solve(reader, evidence, alive, alive, weight, bias)
                if self.reweights
                else cut(reader, evidence, alive, weight, bias)
            )
            changed.update(solved.tensors(reader, state))
            errors[reader.layer] = solved.error
        return dataclasses.replace(chosen, changed=changed, errors=errors)

    def _expect(self, steps: int) -> None:
        self._expected += steps

    def _tick(self, text: str) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, max(self._expected, self._done), text)
