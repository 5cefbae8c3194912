"""When an adaptation prunes, and what learning rate it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from edgespa.adaptation.config import AdaptConfig
from edgespa.selection.schedule import WARM_UP, densities, learning_rate, pruning_times, recovery_times

FIXED_SHARE = 1 / 3
"""Of the training with levels: the part that has the ranges of the files."""


@dataclasses.dataclass(frozen=True)
class Timeline:
    """The training steps of an adaptation.

    Attributes:
        total: Their number.
        prune_at: Step -> channel density (or of what the budget says) that holds from there on.
        blocks_at: Step -> fraction of the blocks, for adapters with block masks.
        peak: Highest learning rate.
        restarts: Steps at which the learning rate begins anew.
        warm_up: Share of the steps in which it rises.
        quantise_at: The step from which weights and activations are at their levels; None for none.
        fixed_at: The step from which the ranges of activations are those of the files.
    """

    total: int
    prune_at: Mapping[int, float]
    blocks_at: Mapping[int, float]
    peak: float
    restarts: tuple[int, ...] = ()
    warm_up: float = WARM_UP
    quantise_at: int | None = None
    fixed_at: int | None = None

    @classmethod
    def of(cls, config: AdaptConfig, steps_per_epoch: int) -> Timeline:
        """The timeline that a configuration asks for.

        Args:
            config: How to adapt.
            steps_per_epoch: Training steps of an epoch.

        Raises:
            ConfigError: If the training is too short for the recovery that is asked for.
        """
        total = steps_per_epoch * config.epochs
        prune_at = _steps(config, config.density, steps_per_epoch, total)
        options = config.adapter_options
        masked = options.get("mask", "none") != "none" and "block_density" in options
        blocks_at = _steps(config, float(options["block_density"]), steps_per_epoch, total) if masked else {}
        restarts = tuple(sorted({*prune_at, *blocks_at})) if config.lr_restart else ()
        last = max((*prune_at, *blocks_at), default=0)
        quantise_at = None if config.quantise is None else max(last, round(total * (1 - config.quantise_share)))
        fixed_at = None if quantise_at is None else total - max(1, round((total - quantise_at) * FIXED_SHARE))
        return cls(total, prune_at, blocks_at, config.peak_lr, restarts, config.warm_up, quantise_at, fixed_at)

    @property
    def final_from(self) -> int:
        """The step from which the final density holds, and what is computed with levels is, with those of files."""
        return max((*self.prune_at, *self.blocks_at, self.quantise_at or 0, self.fixed_at or 0), default=0)

    def learning_rate(self, step: int) -> float:
        """See `edgespa.selection.schedule.learning_rate`."""
        return learning_rate(step, self.total, self.peak, self.restarts, self.warm_up)

    def sparsity(self, step: int) -> float:
        """Which part of the penalty on units holds: it grows evenly from the first step to the last pruning step.

        Args:
            step: Of the training.

        Returns:
            In (0, 1]; 0 from the last pruning step on, when nothing is to go any more, and where nothing goes at all.
        """
        last = max(self.prune_at, default=0)
        return (step + 1) / last if step < last else 0.0


def _steps(config: AdaptConfig, target: float, steps_per_epoch: int, total: int) -> dict[int, float]:
    values = densities(config.schedule, target, config.prune_steps, config.prune_fraction)
    if config.recovery_epochs is None:
        times = pruning_times(len(values), total, config.prune_from, config.prune_until)
    else:
        gap = max(1, round(config.recovery_epochs * steps_per_epoch))
        times = recovery_times(len(values), total, config.prune_from, gap)
    return dict(zip(times, values, strict=True))
