"""A network with its calibration and test images, and the accuracy of what a method leaves of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared, load_data, prepare
from edgespa.objectives.evaluate import accuracy
from edgespa.pruning import PruneConfig, Pruning
from edgespa.selection.select import Constraints, free_groups
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task


@dataclasses.dataclass
class Setting:
    base: Base
    calibration: Prepared
    test: Prepared
    only: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, model: str, preprocess: Preprocess, calibration: str, test: str, images: int, seed: int,
        only: tuple[str, ...] = (), test_images: int | None = None,
    ) -> Setting:  # fmt: skip
        base = Base.open(model, (1, preprocess.channels, preprocess.height, preprocess.width))
        held = load_data(test)
        return cls(
            base,
            prepare(load_data(calibration).limit(images, seed), preprocess),
            prepare(held.limit(test_images, 0) if test_images else held, preprocess),
            only,
        )

    def density(self, fraction: float) -> float:
        """Channel density of the network when a fraction of the layers that may be pruned is kept."""
        groups = self.base.groups
        free = set(free_groups(groups, Constraints(only=self.only)))
        own = sum(len(g) * g.channels for name, g in groups.groups.items() if name in free)
        return (groups.total_channels - own + fraction * own) / groups.total_channels

    def pruning(self, **settings: Any) -> Pruning:
        config = PruneConfig.model_validate({"density": 0.5, "round_to": 1, "only": self.only, **settings})
        needs = config.needs_data or config.reweight is not False
        return Pruning(self.base, config, self.calibration if needs else None)

    def accuracies(self, pruning: Pruning, fractions: Sequence[float]) -> dict[float, float]:
        return {f: self.accuracy(pruning.task(self.density(f), Path.cwd())) for f in fractions}

    def accuracy(self, task: Task | None) -> float:
        program = self.base.program if task is None else task.program(self.base)
        size = self.test.preprocess
        with torch.no_grad():
            return accuracy(
                program, self.test, batch_size=max(4, 1_500_000 // (size.channels * size.height * size.width))
            )

    def tuned(self, task: Task, images: ImageData, epochs: int, lr: float, seed: int, loop: Mapping[str, Any]) -> float:
        """Accuracy after all weights have been trained on some labelled images; a tenth of them chooses the epoch."""
        config = AdaptConfig(adapter="full", epochs=epochs, lr=lr, head="keep", seed=seed, **loop)
        return self.accuracy(adapt(self.base, images, self.test.preprocess, config, Path.cwd(), start=task))
