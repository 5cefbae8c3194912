"""What adapt and prune have in common: how much is kept, of what, and what a selection has to respect."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from edgespa.config import Strict
from edgespa.selection.criteria import NORMALISATIONS
from edgespa.selection.select import QUANTITIES, ROUND_TO, Budget, Constraints


class SelectionConfig(Strict):
    """How many units are kept, and which may go.

    Attributes:
        density: Fraction to keep, in (0, 1].
        budget: Fraction of what: channels, parameters or macs.
        normalisation: How the scores of a layer are scaled before they are ranked against those of other layers.
        round_to: Alignment of channel counts, see `edgespa.selection.select.Constraints`.
        min_width: Least number of channels of a group.
        keep: Patterns of layers that stay whole.
        only: Patterns of the only layers that may be pruned.
    """

    density: float = Field(default=1.0, gt=0, le=1)
    budget: str = "channels"
    normalisation: str = "mean"
    round_to: int = Field(default=ROUND_TO, ge=1)
    min_width: int = Field(default=1, ge=1)
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known_quantities(self) -> Self:
        require_known("budget", self.budget, QUANTITIES)
        require_known("normalisation", self.normalisation, NORMALISATIONS)
        return self

    @property
    def constraints(self) -> Constraints:
        """What a selection has to respect."""
        return Constraints(self.round_to, self.min_width, self.keep, self.only)

    def budget_of(self, density: float) -> Budget:
        """The budget at a density, such as that of one step of a schedule."""
        return Budget(density, self.budget)


def require_known(what: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a word that is not one of the known ones.

    Raises:
        ValueError: With the known ones; pydantic makes a validation error of it.
    """
    if value not in known:
        raise ValueError(f"unknown {what} '{value}'; choose one of: {', '.join(known)}")
