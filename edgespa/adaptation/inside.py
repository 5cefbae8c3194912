"""Where a training is inside of an epoch, and what is random there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from edgespa.distributed.processes import Processes


@dataclasses.dataclass
class Inside:
    """The part of an epoch that is behind.

    Attributes:
        steps: Its training steps.
        loss: Their sum, of this process.
        draws: What the augmentation draws from.
        random: States of the generators that the network draws from, for `set_random`.
    """

    steps: int = 0
    loss: float = 0.0
    draws: torch.Generator = dataclasses.field(default_factory=torch.Generator)
    random: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def set_random(self) -> None:
        """Let the network draw from where it was left; once."""
        if "cpu" in self.random:
            torch.set_rng_state(self.random["cpu"])
        if "cuda" in self.random and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.random["cuda"])
        self.random = {}

    def states(self, processes: Processes) -> dict[str, Tensor]:
        """The states of all generators, those of the network for each process in turn; to be called in all of them.

        Args:
            processes: Those that share the training.
        """
        own = {"cpu": torch.get_rng_state()}
        if processes.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state()
        states = {name: processes.gathered(state) for name, state in own.items()}
        return {**states, "draws": self.draws.get_state()}

    @classmethod
    def left(cls, steps: int, loss: float, states: Mapping[str, Tensor], processes: Processes) -> Inside:
        """Where a run was left.

        Args:
            steps: Training steps that are behind.
            loss: Their sum, of all processes.
            states: From `states`.
            processes: Those that go on, perhaps more or fewer.
        """
        inside = cls(steps, loss if processes.is_main else 0.0)
        if "draws" in states:
            inside.draws.set_state(states["draws"])
        own = {name: state for name, state in states.items() if name != "draws" and processes.index < len(state)}
        inside.random = {name: state[processes.index].contiguous() for name, state in own.items()}
        return inside
