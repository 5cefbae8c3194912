"""Pruning without training: choose units by a criterion on the weights, and leave a task file."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field, model_validator

from edgespa.base import Base
from edgespa.config import Preprocess, Strict
from edgespa.graph.proof import prove
from edgespa.graph.surgery import compact
from edgespa.pruning.criteria import CRITERIA, NORMALISATIONS
from edgespa.pruning.score import score_units
from edgespa.pruning.select import QUANTITIES, Budget, Constraints, select
from edgespa.task import Task, make_header

METHODS = tuple(name for name, criterion in CRITERIA.items() if not criterion.needs_gradient)


class PruneConfig(Strict):
    """How to prune.

    Attributes:
        method: A criterion that needs no data.
        density: Fraction to keep, in (0, 1].
        budget: Fraction of what: channels, parameters or macs.
        normalisation: How the scores of a layer are scaled before they are ranked against those of other layers.
        round_to: Alignment of channel counts.
        min_width: Least number of channels of a group.
        keep: Patterns of layers that stay whole.
        only: Patterns of the only layers that may be pruned.
        seed: Of the random criterion.
    """

    method: str = "l1"
    density: float = Field(gt=0, le=1)
    budget: str = "channels"
    normalisation: str = "mean"
    round_to: int = Field(default=8, ge=1)
    min_width: int = Field(default=1, ge=1)
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _known_names(self) -> PruneConfig:
        for value, known, what in (
            (self.method, METHODS, "method"),
            (self.budget, QUANTITIES, "budget"),
            (self.normalisation, NORMALISATIONS, "normalisation"),
        ):
            if value not in known:
                raise ValueError(f"unknown {what} '{value}'; choose one of: {', '.join(known)}")
        return self


def prune(base: Base, config: PruneConfig, folder: Path, preprocess: Preprocess | None = None) -> Task:
    """Remove units by their weights alone; masked = compacted is proved on random inputs.

    Args:
        base: The model.
        config: How to prune.
        folder: Where the task file will lie.
        preprocess: How an image becomes an input, recorded if known.

    Raises:
        BudgetError: If the density cannot be reached.
        GraphError: If the compacted program does not equal the masked one.
    """
    groups = base.groups
    scores = score_units(
        groups,
        groups.all_kept(),
        dict(base.program.tensors()),
        config.method,
        config.normalisation,
        torch.Generator().manual_seed(config.seed),
    )
    constraints = Constraints(config.round_to, config.min_width, config.keep, config.only)
    kept = select(groups, scores, Budget(config.density, config.budget), constraints, base.cost)
    compacted = compact(base.program, groups, kept)
    proof = prove(base.program, groups, kept, compacted, base.program.example_inputs())
    proof.require()
    header = make_header(
        base,
        kept,
        folder,
        preprocess=preprocess,
        metrics={"masked_compacted_error": max(proof.output_error, proof.inner_error)},
        provenance={"method": "prune", "config": config.model_dump(mode="json"), "torch": torch.__version__},
    )
    return Task(header, kept)
