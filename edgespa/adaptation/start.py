"""Adapting from a task file.

Of a task that was pruned without training the units and blocks are gone, and its new weights are the base's. A task
that was adapted, and perhaps cut since, is gone on with: its adapters, norms and head are what training begins with.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgespa.adaptation.config import AdaptConfig
from edgespa.adapters.mixing import Mixing
from edgespa.errors import ConfigError
from edgespa.graph.groups import Slot
from edgespa.graph.surgery import slice_tensors
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task


def is_adapted(start: Task) -> bool:
    """Whether a task was trained, and so is gone on with."""
    return bool(start.adapters or start.shared or start.header.adapter or start.header.outputs is not None)


def continued(config: AdaptConfig, start: Task) -> AdaptConfig:
    """The configuration with the adapters and the learning rate of a task that is gone on with.

    Args:
        config: As asked for; where it does not say anything about adapters, the task does.
        start: The task.

    Raises:
        ConfigError: If it says something else.
    """
    adapter = start.header.adapter
    norms = adapter is not None and adapter.norms
    if config.norms == "add" and not norms:
        raise ConfigError("the task to start from was trained without added norms", "leave out --norms add")
    config = config.model_copy(update={"norms": "add" if norms else "keep", "lr": config.lr or _rate_of(start)})
    if adapter is None:
        return config
    own = dict(adapter.options)
    settings: dict[str, Any] = {"adapter": adapter.kind}
    settings.update({key: own.pop(key) for key in ("rank", "kernel") if key in own})
    settings["adapter_settings"] = own
    result = config.model_copy(update=settings)
    said = bool({"adapter", "rank", "kernel", "adapter_settings"} & config.model_fields_set)
    if said and (config.adapter, config.adapter_options) != (result.adapter, result.adapter_options):
        listed = ", ".join(f"{key}={value}" for key, value in adapter.options.items())
        raise ConfigError(
            f"the task to start from has its own adapters: {adapter.kind}{f' ({listed})' if listed else ''}",
            "leave out --adapter and its options, or adapt the base itself",
        )
    return result


def _rate_of(start: Task) -> float | None:
    """The learning rate that a task was learned at, if its file says so."""
    rate = start.header.provenance.get("lr")
    return rate if isinstance(rate, float) and 0 < rate < math.inf else None


def require_same_classes(start: Task, classes: Sequence[str], data: str) -> None:
    """Refuse data of another task than the one that is gone on with.

    Raises:
        ConfigError: With both.
    """
    if start.header.classes and tuple(classes) != start.header.classes:
        raise ConfigError(
            f"the task to start from has {len(start.header.classes)} classes ({', '.join(start.header.classes[:3])}, "
            f"...), {data} has {len(classes)} ({', '.join(classes[:3])}, ...)",
            "give data of the same classes, or adapt the base itself",
        )


def require_whole_filters(config: AdaptConfig, start: Task | None) -> None:
    """Refuse to mix filters that a task to start from has given other weights: those that are gone have none.

    Raises:
        ConfigError: If it has new weights, and the adapter is to mix.
    """
    if start is not None and not is_adapted(start) and start.tensors and config.adapter == Mixing.kind:
        raise ConfigError(
            "the task to start from has new weights for the filters that it kept, and the adapter 'mixing' mixes those "
            "that are gone into them, of which only the base's old weights are known",
            "adapt the base itself with --density, or take another --adapter",
        )


def started(base: Base, start: Task) -> Base:
    """The base without the blocks that the task is without, and with its new weights, in full width.

    Where units are gone it holds zeros. What an adapted task has is not put in here: see `edgespa.adaptation.run.Run`.

    Args:
        base: The base of the task.
        start: The task.

    Raises:
        BaseMismatchError: If the task was made on another base.
    """
    base.require_digest(start.header.digest)
    base = start.fit(base)
    if is_adapted(start) or not start.tensors:
        return base
    alive = base.groups.alive(start.kept)
    whole = {}
    for name, old in base.program.tensors():
        if name in start.tensors:
            whole[name] = _widened(start.tensors[name], old.detach(), name, base, alive)
    return base.with_state(whole)


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
