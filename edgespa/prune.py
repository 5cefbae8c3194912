"""Pruning without training: choose units by a criterion on the weights, and leave a task file."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from pydantic import Field, model_validator

from edgespa.base import Base
from edgespa.config import Preprocess
from edgespa.graph.proof import prove
from edgespa.graph.surgery import compact
from edgespa.pruning.config import SelectionConfig, require_known
from edgespa.pruning.criteria import CRITERIA
from edgespa.pruning.score import score_units
from edgespa.pruning.select import select
from edgespa.task import Task, make_header

METHODS = tuple(name for name, criterion in CRITERIA.items() if not criterion.needs_gradient)


class PruneConfig(SelectionConfig):
    """How to prune; with the attributes of `SelectionConfig`, of which the density must be said.

    Attributes:
        method: A criterion that needs no data.
        seed: Of the random criterion.
    """

    density: float = Field(gt=0, le=1)
    method: str = "l1"
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _known_method(self) -> Self:
        require_known("method", self.method, METHODS)
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
    kept = select(groups, scores, config.budget_of(config.density), config.constraints, base.cost)
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
