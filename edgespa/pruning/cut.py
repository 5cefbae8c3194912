"""From blocks that are to go to the task without them, and the proof that nothing else has changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue

from edgespa.config import Preprocess
from edgespa.data import Prepared
from edgespa.data.inputs import arguments
from edgespa.errors import GraphError
from edgespa.graph.blocks import Block, Bypassed
from edgespa.graph.groups import Groups, Kept
from edgespa.graph.program import Program
from edgespa.graph.proof import LIMIT, largest_difference
from edgespa.models.interface import output_tensors
from edgespa.pruning.depth import Decision, DepthConfig
from edgespa.tasks.base import Base
from edgespa.tasks.task import Header, Task, make_header

PROOF_IMAGES = 4


def whole_task(base: Base, folder: Path, preprocess: Preprocess | None = None) -> Task:
    """A task that changes nothing yet: a model as it is.

    Args:
        base: The model.
        folder: Where a task file would lie.
        preprocess: Recorded if known.
    """
    kept = base.groups.all_kept()
    return Task(make_header(base, kept, folder, preprocess=preprocess, provenance={"method": "prune"}), kept)


def cut(task: Task, base: Base, decision: Decision, config: DepthConfig, folder: Path, data: Prepared | None) -> Task:
    """The task without some blocks: what it stored for them is gone.

    Kept units, adapters and trained tensors of the other blocks stay as they are. Metrics of the task are dropped,
    since they were measured with the blocks.

    Args:
        task: The task.
        base: Its base, from `Task.fit`.
        decision: Which blocks go.
        config: How that was decided; recorded.
        folder: Where the task file will lie.
        data: Images for the proof; random ones without.

    Raises:
        GraphError: If the cut program does not equal the whole one with those blocks bypassed.
    """
    smaller = base.without_blocks(decision.removed)
    kept = carried_over(task.kept, base.groups, smaller.groups)
    names = {name for name, _ in smaller.program.tensors()}
    adapters = {name: factors for name, factors in task.adapters.items() if name in names}
    tensors = {name: tensor for name, tensor in task.tensors.items() if name in names}
    result = Task(task.header, kept, adapters, tensors, task.shared)
    account: dict[str, Any] = {**config.model_dump(mode="json"), **decision.account()}
    plain: dict[str, JsonValue] = json.loads(json.dumps(account))
    header = make_header(
        smaller,
        kept,
        folder,
        stored_parameters=result.factors.size(),
        **_inherited(task.header),
        provenance={**task.header.provenance, "depth": plain, "torch": torch.__version__},
    )
    result = Task(header, kept, adapters, tensors, task.shared)
    gone = [block for block in decision.blocks if block.name in decision.removed]
    error = bypass_error(task.program(base), result.program(smaller), gone, data)
    return result.with_metrics(bypassed_cut_error=error)


def carried_over(kept: Kept, before: Groups, after: Groups) -> Kept:
    """Which units are kept of the groups of a cut program: those that were kept before.

    Args:
        kept: Per group of the program before the cut.
        before: Its groups.
        after: The groups after the cut; their slots are among those before.
    """
    alive = before.alive(kept)
    state = np.ones(after.unit_count, dtype=bool)
    for slot, ids in after.units.items():
        earlier = before.units.get(slot)
        if earlier is not None:
            state[ids] &= alive[earlier]
    return {name: state[group.ids] for name, group in after.groups.items()}


@torch.no_grad()
def bypass_error(whole: Program, smaller: Program, gone: Sequence[Block], data: Prepared | None) -> float:
    """Largest difference between the cut program and the whole one with blocks bypassed, relative to the largest.

    Raises:
        GraphError: If it is above `edgespa.graph.proof.LIMIT`.
    """
    inputs = whole.example_inputs()
    if data is not None and whole.dynamic_batch:
        inputs = arguments(next(iter(data.batches(PROOF_IMAGES)))[0])
    expected, got = output_tensors(Bypassed(whole, gone).run(*inputs)), output_tensors(smaller(*inputs))
    error = largest_difference(expected, got)
    if not error <= LIMIT:
        raise GraphError(
            f"without its blocks the program differs by {error:.1e} from itself with them bypassed (limit {LIMIT:.0e})",
            "this is a fault of edgespa: please report the model",
        )
    return error


def _inherited(header: Header) -> dict[str, Any]:
    """What the cut leaves as it is."""
    return {
        "outputs": header.outputs,
        "adapter": header.adapter,
        "preprocess": header.preprocess,
        "classes": header.classes,
    }
