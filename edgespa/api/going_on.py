"""A task as a module of PyTorch, to go on with without edgespa."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import fx

from edgespa.api.bundles import check_task
from edgespa.errors import ExportError
from edgespa.exporting.onward.layers import frozen_norms, ordinary, stripped
from edgespa.graph.proof import LIMIT, largest_difference
from edgespa.models.interface import output_tensors
from edgespa.tasks.task import Task

log = logging.getLogger(__name__)


def module_of(task: Task, folder: Path, base: str | None, weights: str | None, *, trust: bool) -> fx.GraphModule:
    """The compact network of a task, after the proofs that an export makes, and one of the module itself.

    Args:
        task: The task.
        folder: Of its file.
        base: Its base, if it is not where it was.
        weights: Weight file of the base.
        trust: The base that the task names may be run if it is code.

    Raises:
        ExportError: If the module does not compute what the program computes.
    """
    opened = task.open_base(folder, base, weights, trust=trust)
    check_task(task, opened)
    program = task.program(opened)
    module = stripped(ordinary(program))
    inputs = program.example_inputs()
    with torch.no_grad():
        difference = largest_difference(output_tensors(program(*inputs)), output_tensors(module(*inputs)))
    if not difference <= LIMIT:
        raise ExportError(
            f"the module differs from the program by {difference:.1e} (limit {LIMIT:.0e})",
            "this is a fault of edgespa: please report the model",
        )
    if count := frozen_norms(module):
        log.warning("%d batch norms are no layers: they keep their statistics in training", count)
    return module
