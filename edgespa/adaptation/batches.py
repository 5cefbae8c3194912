"""The batches of an adaptation, on the device that it trains on; each is decided by the seed and the epoch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from edgespa.adaptation.augment import augmentation
from edgespa.adaptation.config import AdaptConfig
from edgespa.data import Augment, Prepared
from edgespa.data.inputs import Inputs, moved
from edgespa.distributed.processes import Processes
from edgespa.objectives.base import on_device

SCORING_BATCHES = 8
Batch = tuple[Inputs, Any]
"""Images ``[N, C, H, W]``, or what else a program takes; and what is right for them."""


@dataclasses.dataclass(frozen=True)
class Batches:
    """Images with what is right for them.

    Attributes:
        train: The part of the data that is trained on.
        config: How to adapt.
        processes: Those that share the training.
    """

    train: Prepared
    config: AdaptConfig
    processes: Processes

    def of_epoch(self, epoch: int, behind: int = 0, draws: torch.Generator | None = None) -> Iterator[Batch]:
        """This process's part of each batch of an epoch, augmented.

        Args:
            epoch: Which one, from 0.
            behind: Batches that it is left without at the beginning.
            draws: What the augmentation draws from; its state goes with the batches that were taken.
        """
        seed = self.config.seed * 1_000_003 + epoch
        return self._shuffled(seed, augmentation(self.config.augment), self.processes.part, behind, draws)

    def endless(self) -> Iterator[Batch]:
        """Those of one epoch after another, from the first."""
        return itertools.chain.from_iterable(map(self.of_epoch, itertools.count()))

    def plain(self, count: int) -> Iterator[Batch]:
        """Some whole batches as they are, the same in all processes."""
        return itertools.islice(self._shuffled(self.config.seed), count)

    def for_scoring(self, epoch: int, joined: int = 1) -> Iterator[Batch]:
        """This process's share of the batches that units are scored on.

        Args:
            epoch: Which one, from 0.
            joined: So many that follow each other are one, and go to one process; a last group that is not full only
                counts if there is no other.
        """
        index, count = self.processes.part
        whole = max(1, self.train.num_batches(self.config.batch_size, drop_last=True) // joined)
        wanted = range(index, min(SCORING_BATCHES, whole), count)
        shuffled = enumerate(self._shuffled(self.config.seed * 7_919 + epoch))
        return (
            batch for place, batch in itertools.islice(shuffled, SCORING_BATCHES * joined) if place // joined in wanted
        )

    def _shuffled(
        self,
        seed: int,
        augment: Augment | None = None,
        part: tuple[int, int] = (0, 1),
        behind: int = 0,
        draws: torch.Generator | None = None,
    ) -> Iterator[Batch]:
        size, device = self.config.batch_size, self.processes.device
        batches = self.train.batches(
            size, shuffle_seed=seed, drop_last=True, augment=augment, part=part, behind=behind, draws=draws
        )
        for inputs, targets in batches:
            # channels_last: convolutions train faster so on a CPU
            yield moved(inputs, device, torch.channels_last), on_device(targets, device)
