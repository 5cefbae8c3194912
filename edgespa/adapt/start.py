"""Adapting from a task that was pruned without training: its units are gone, its new weights are the base's."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from edgespa.base import Base
from edgespa.errors import ConfigError
from edgespa.graph.groups import Slot
from edgespa.graph.surgery import slice_tensors
from edgespa.task import Task


def started(base: Base, start: Task) -> Base:
    """The base with the new weights of a task, in full width; where units are gone it holds zeros.

    Args:
        base: The base of the task.
        start: A task without adapters, as ``edgespa prune`` leaves it.

    Raises:
        BaseMismatchError: If the task was made on another base.
        ConfigError: If the task has adapters, or a head of its own.
    """
    base.require_digest(start.header.digest)
    if start.adapters or start.shared or start.header.outputs is not None:
        raise ConfigError(
            "only a task that was made by edgespa prune can be started from, and this one was adapted",
            "name the task file that prune wrote, or adapt the base itself",
        )
    start.fit(base)
    if not start.tensors:
        return base
    alive = base.groups.alive(start.kept)
    whole = {}
    for name, old in base.program.tensors():
        if name in start.tensors:
            whole[name] = _widened(start.tensors[name], old.detach(), name, base, alive)
    return dataclasses.replace(base, program=base.program.with_state(whole))


def with_start(task: Task, start: Task, base: Base) -> Task:
    """A task that was adapted on a `started` base, with what it takes to find it again from the base itself.

    Args:
        task: The adapted task.
        start: The task that it started from.
        base: The started base.
    """
    state = base.program.state()
    more = {name: state[name] for name in start.tensors if name not in task.tensors and name in state}
    more.update(slice_tensors(more, base.groups, base.groups.alive(task.kept)))
    header = task.header
    figures = header.figures.model_copy(
        update={"stored_parameters": header.figures.stored_parameters + sum(math.prod(t.shape) for t in more.values())}
    )
    provenance = {**header.provenance, "start": dict(start.header.provenance)}
    header = header.model_copy(update={"figures": figures, "provenance": provenance})
    return dataclasses.replace(task, header=header, tensors={**task.tensors, **more})


def _widened(narrow: Tensor, old: Tensor, name: str, base: Base, alive: np.ndarray) -> Tensor:
    wide = torch.zeros_like(old)
    indices = []
    for dim, size in enumerate(old.shape):
        ids = base.groups.units.get(Slot(name, dim))
        kept = np.arange(size) if ids is None else np.flatnonzero(alive[ids])
        indices.append(torch.from_numpy(kept))
    wide[torch.meshgrid(*indices, indexing="ij") if indices else ()] = narrow
    return wide
