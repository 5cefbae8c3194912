"""What a cut network was before it was cut, as a network in training is held to it: outputs, and inner values."""

from __future__ import annotations

import dataclasses

import torch

from edgespa.graph.groups import Kept
from edgespa.graph.inner import Cut, side_by_side
from edgespa.graph.program import Program
from edgespa.models.interface import output_tensors
from edgespa.objectives.match import Match
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

SCORES = 0.1
"""How much the KL of scores counts beside the terms of inner values: with more of it a few hundred images are learned
by heart (held out, it came to 0.80 where 0.09 had been reached on them)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Original:
    """A network before it was cut.

    Attributes:
        name: What it is, for the record.
        program: In evaluation form, as narrow as it is.
        wide: The same with its channel groups, which are of its full width.
    """

    name: str
    program: Program
    wide: Cut

    @classmethod
    def of_base(cls, base: Base) -> Original:
        """The base, with all of its blocks."""
        whole = base.whole or base
        return cls(f"base {base.digest}", whole.program, Cut(whole.program, whole.groups, {}))

    @classmethod
    def of_task(cls, name: str, task: Task, base: Base) -> Original:
        """A task as it was before it was cut; it may be narrower than the base itself.

        Args:
            name: For the record.
            task: The task.
            base: That of it.
        """
        fitted = task.fit(base)
        return cls(name, task.program(base), Cut(fitted.program, fitted.groups, task.kept))

    def objective(self, base: Base, kept: Kept) -> Match:
        """What a cut network is to give: what the original gives, outside and inside.

        Args:
            base: The base as the cut network has it: its head, without its blocks.
            kept: The units that it keeps.
        """
        streams = side_by_side(self.wide, Cut(base.program, base.groups, kept))
        return Match(streams, scores=SCORES, agreement=self.gives_scores)

    @property
    def measured(self) -> Match:
        """The same without inner values, for programs that give their outputs alone."""
        return Match(agreement=self.gives_scores)

    @property
    def gives_scores(self) -> bool:
        """Whether its first output is a list of numbers ``[N, K]``, of which the largest may say something."""
        with torch.no_grad():
            found = output_tensors(self.program(*self.program.example_inputs()))
        first = next((each for each in found if each.is_floating_point()), None)
        return first is not None and first.dim() == 2 and first.shape[1] > 1
