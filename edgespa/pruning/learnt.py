"""What is learnt about a network once, for every density: scores, greedy paths, what its parts are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgespa.pruning import allocate
from edgespa.pruning.config import PruneConfig
from edgespa.pruning.evidence import Evidence
from edgespa.pruning.head_losses import HeadLoss, head_losses
from edgespa.pruning.heads import Heads
from edgespa.pruning.images import Images
from edgespa.pruning.losses import (
    DISTANCE_IMAGES,
    LEVELS,
    BlockLoss,
    accuracy_losses,
    block_losses,
    lost_scores,
    output_losses,
)
from edgespa.pruning.rank import by_rank, scores_of
from edgespa.pruning.shapes import Losses
from edgespa.pruning.survey import Network, gather, path_of
from edgespa.selection import reconstruct
from edgespa.selection.criteria import CRITERIA, Scores
from edgespa.selection.select import allowed_widths, free_groups

Report = Callable[[float, float | None, str], None]
LossCurve = Mapping[int, float]
"""By the number of units that are kept."""


class Ticks:
    """Counts what is done of what is expected, which grows as more becomes known.

    Args:
        report: Told ``(done, total, text)``.
    """

    def __init__(self, report: Report | None) -> None:
        self._report = report
        self._done, self._expected = 0, 0

    def expect(self, steps: int) -> None:
        """So many more."""
        self._expected += steps

    def __call__(self, text: str) -> None:
        """One is done."""
        self._done += 1
        if self._report is not None:
            self._report(self._done, max(self._expected, self._done), text)


class Learnt:
    """What a method knows of a network; each is found when it is first asked for.

    Args:
        network: The network.
        config: The method; its density does not count.
        images: Calibration images.
        held_out: Labelled images, for the allocation ``equal-accuracy``.
        ticks: Told what has been done.
        shared: Whether the budget is shared out by it; else the widths are known, and only orders are asked for.

    Attributes:
        evidence: Per reader, on the network as it is, as far as it was needed.
        paths: Greedy paths on the network as it is.
        scores: Of units; None for methods that reconstruct.
    """

    def __init__(
        self,
        network: Network,
        config: PruneConfig,
        images: Images | None,
        held_out: Images | None,
        ticks: Ticks,
        *,
        shared: bool = True,
    ) -> None:
        self.network, self.config, self.images, self.ticks = network, config, images, ticks
        self.reweights = images is not None if config.reweight is None else config.reweight
        self.evidence: dict[str, list[Evidence]] = {}
        self.paths: dict[str, reconstruct.Path] = {}
        self.scores: dict[str, Scores] | None = None
        self._fitted = self._judging = images
        if images is not None and shared and config.shares == "knapsack" and config.fits_on != "layer":
            # On images that new weights were fitted on any width of a wide last layer loses nothing.
            least, most = DISTANCE_IMAGES
            self._fitted, self._judging = images.parted(most, least, config.seed)
        self._held_out = held_out
        self._every_path = shared and config.every_path
        self._shares: dict[str, Scores] | None = None
        self._losses: dict[str, NDArray[np.float64]] | None = None
        self._block_losses: dict[str, BlockLoss] | None = None
        self._heads: Heads | None = None
        self._head_losses: dict[str, HeadLoss] | None = None

    @property
    def whole(self) -> dict[str, str]:
        """Groups that stay whole because the method judges a group by its readers, with the reason."""
        by_readers = self.config.how.rank not in CRITERIA or self.config.every_path
        return dict(self.network.whole) if by_readers else {}

    def is_final(self, name: str) -> bool:
        """Whether the path of a group on the network as it is is the one that counts.

        Args:
            name: Of the group.
        """
        return self.config.fits_on == "layer" or len(self.network.of_group[name]) > 1

    def orders(self) -> dict[str, NDArray[np.int64]]:
        """Of each group whose order is known beforehand its units, best first."""
        self.learn()
        if self.scores is not None:
            return {name: np.argsort(-scores, kind="stable") for name, scores in self.scores.items()}
        return {name: path.order for name, path in self.paths.items() if self.is_final(name)}

    def shares(self) -> dict[str, Scores]:
        """What a budget is shared out by: scores over all groups, see `edgespa.pruning.allocate`."""
        self.learn()
        asked = self.config.shares
        if asked in ("global", "knapsack") and self.scores is not None:
            return self.scores
        if self._shares is None:
            if self.paths and asked in ("equal-error", "knapsack"):
                self._shares = allocate.equal_error(self.paths)
            elif asked == "equal-accuracy" and self._held_out is not None:
                self.ticks.expect(len(self.paths) * len(LEVELS))
                losses = accuracy_losses(
                    self.network, self.paths, self.evidence, self._held_out, self.reweights, self.ticks
                )
                self._shares = allocate.equal_accuracy(losses)
            else:
                names = [name for name in self.network.base.groups.groups if name not in self.whole]
                self._shares = {name: by_rank(range(len(self.network.group(name)))) for name in names}
        return self._shares

    def losses(self) -> dict[str, LossCurve]:
        """What each group that may be pruned loses at each width that it may have: by units that it keeps.

        By the outputs, if the method chooses units by what their readers can be made to reconstruct
        (`edgespa.pruning.losses.output_losses`); else by the scores of the units that go.
        """
        self.learn()
        groups = self.network.base.groups.groups
        names = free_groups(self.network.base.groups, self.config.constraints)
        if self._losses is None and self.scores is not None:
            self._losses = lost_scores(self.scores)
        elif self._losses is None:
            assert self._judging is not None
            paths = {name: self.paths[name] for name in names if name in self.paths}
            self.ticks.expect(len(paths) * len(LEVELS))
            self._losses = output_losses(self.network, paths, self.evidence, self._judging, self.reweights, self.ticks)
            self._forget()
        found: dict[str, LossCurve] = {}
        for name in names:
            if name in self._losses:
                widths = allowed_widths(groups[name], self.config.constraints)
                found[name] = {width: float(self._losses[name][width]) for width in widths}
        return found

    def block_losses(self) -> dict[str, BlockLoss]:
        """What each residual block is worth that may go; none where the method or the configuration has it so."""
        base = self.network.base
        if self.images is None or not self._weighs_outputs or not self.config.blocks or base.removed:
            return {}
        if self._block_losses is None:
            self.ticks.expect(sum(block.removable for block in base.blocks))
            self._block_losses = block_losses(self.network, self.images, self.reweights, self.ticks)
        return self._block_losses

    def all_losses(self) -> Losses:
        """What all that may go loses."""
        return Losses(self.losses(), self.block_losses(), self.head_losses())

    @property
    def _weighs_outputs(self) -> bool:
        """Whether what blocks and heads lose can be compared with what groups lose, and layers are free to be cut."""
        config = self.config
        fits = config.how.in_change and config.fits_on == "asym" and self.reweights
        return self.images is not None and fits and not (config.keep or config.only)

    def head_losses(self) -> dict[str, HeadLoss]:
        """What narrower heads of attention lose; none where the method or the configuration has it so."""
        base, images = self.network.base, self.images
        if images is None or not self._weighs_outputs or not self.config.narrow_heads or not base.head_widths.widths:
            return {}
        if self._head_losses is None:
            self.ticks.expect(len(base.head_widths.widths) * len(LEVELS))
            self._head_losses = head_losses(self.network, self.heads(), images, self.config.round_to, self.ticks)
        return self._head_losses

    def heads(self) -> Heads:
        """The attention of the network, and what the images say of it.

        Raises:
            ConfigError: No heads could be narrower.
            DataError: What they hold on the images is not finite.
        """
        if self._heads is None:
            assert self.images is not None
            self.ticks.expect(self.images.batches)
            self._heads = Heads.of(self.network.base, self.images, self.ticks)
        return self._heads

    def learn(self) -> None:
        """Scores, or greedy paths: whatever the method orders units by."""
        how = self.config.how
        if not how.in_change and self.scores is None:
            self.ticks.expect(len(self.network.readers) if how.needs_data else 0)
            found = scores_of(self.network, self.config, self.images, self.ticks)
            self.scores = {name: scores for name, scores in found.items() if name not in self.whole}
        some = how.in_change and any(self.is_final(name) for name in self.network.of_group)
        if (self._every_path or some) and not self.paths:
            self._find_paths()

    def _find_paths(self) -> None:
        """Of all groups if they share out the budget, else where they count."""
        names = [name for name in self.network.of_group if self._every_path or self.is_final(name)]
        self.gather({reader.node for name in names for reader in self.network.of_group[name]})
        self.paths = {name: path_of(self.network, name, self.evidence) for name in names}
        if self.config.shares not in ("equal-accuracy", "knapsack"):
            self._forget()

    def gather(self, nodes: set[str]) -> None:
        """Find what evidence is missing of some readers.

        Args:
            nodes: Theirs.
        """
        assert self._fitted is not None
        readers = [reader for node, reader in self.network.readers.items() if node in nodes - set(self.evidence)]
        if readers:
            self.ticks.expect(len(readers))
            self.evidence.update(gather(self.network, self._fitted, readers, self.ticks))

    def _forget(self) -> None:
        """Evidence is large, and a front-to-back pass gathers its own."""
        if self.config.fits_on != "layer":
            self.evidence = {}
