"""How to adapt."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edgespa.adapters.adapted import KINDS, METHODS
from edgespa.pruning.config import SelectionConfig, require_known
from edgespa.pruning.criteria import CRITERIA
from edgespa.pruning.schedule import SCHEDULES


class AdaptConfig(SelectionConfig):
    """How to adapt; with the attributes of `SelectionConfig`.

    Attributes:
        adapter: An adapter kind, or ``full`` for fine-pruning.
        rank: Upper bound of the adapters' inner size.
        kernel: Where a convolution's adapter acts: its ``centre`` tap or the ``full`` kernel.
        criterion: How units are scored.
        schedule: How the density falls.
        prune_steps: Number of pruning steps of an iterative schedule.
        prune_from: Fraction of the training after which pruning begins, so that the adapters know the task by then.
        prune_until: Fraction of the training after which the final density holds.
        epochs: Passes over the training part.
        batch_size: Images per step.
        head: ``keep`` the base's last layer, start a ``new`` one, or decide (``auto``): a new one if the base's outputs
            are another number than the classes, or if on the training data they are worse than a guess.
        lr: Peak learning rate of AdamW; None for the adapter's own default.
        weight_decay: Of AdamW, on matrices.
        validation: Fraction of the training data that the best epoch is chosen on.
        seed: Of everything random.
    """

    adapter: str = "splora"
    rank: int = Field(default=8, ge=1)
    kernel: str = "centre"
    criterion: str = "taylor"
    schedule: str = "cubic"
    prune_steps: int = Field(default=10, ge=1)
    prune_from: float = Field(default=0.1, ge=0, lt=1)
    prune_until: float = Field(default=0.5, gt=0, le=1)
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=2)
    head: Literal["auto", "keep", "new"] = "auto"
    lr: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    validation: float = Field(default=0.1, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        require_known("adapter", self.adapter, METHODS)
        require_known("criterion", self.criterion, tuple(CRITERIA))
        require_known("schedule", self.schedule, SCHEDULES)
        if self.prune_until <= self.prune_from:
            raise ValueError("prune_until must be after prune_from")
        return self

    @property
    def adapter_options(self) -> dict[str, Any]:
        """Options of the adapter kind."""
        return {"rank": self.rank, "kernel": self.kernel} if self.adapter in KINDS else {}
