"""Data without labels, of which the base itself says what is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree

from edgespa.data import Prepared
from edgespa.data.inputs import Inputs, arguments, moved, samples_in
from edgespa.data.targets import Targets
from edgespa.graph.program import Program
from edgespa.objectives.base import Objective

_SOME = 64


class Taught(Targets):
    """What the base gives for the very inputs that the network gets, augmented or not.

    Args:
        data: The inputs.
        run: From inputs to what the base gives, in evaluation form.
        objective: What of it is right.
        size: Samples at a time; the only number that the base takes, if it takes only one.
        device: Where the base is.
    """

    def __init__(
        self, data: Prepared, run: Callable[..., Any], objective: Objective, size: int, device: torch.device
    ) -> None:
        self._data, self._run, self._objective, self._device = data, run, objective, device
        places = np.unique(np.linspace(0, len(data) - 1, min(max(_SOME // size, 1) * size, len(data))).astype(np.int64))
        parts = [places[at : at + size] for at in range(0, len(places), size)]
        taken = [self._taken(data.tensor(part)) for part in parts if len(part) == size or len(parts) == 1]
        some = _pytree.tree_map(lambda *each: torch.cat(each), *taken) if len(taken) > 1 else taken[0]
        self._some = objective.of_some(some)
        self._nothing = _pytree.tree_map(lambda each: each[:0].clone(), some)

    def of(self, chunk: Tensor) -> Any:
        """See `Targets.of`; the inputs are read for it."""
        return self.beside(self._data.tensor(chunk), chunk)

    def beside(self, inputs: Inputs, chunk: Tensor) -> Any:
        """See `Targets.beside`: what the base gives for these inputs."""
        if not samples_in(inputs):
            return self._objective.wanted(self._nothing, self._some)
        return self._objective.wanted(self._taken(inputs), self._some)

    @torch.no_grad()
    def _taken(self, inputs: Inputs) -> Any:
        return self._objective.take(self._run(*arguments(moved(inputs, self._device))))


def taught(
    data: Prepared,
    objective: Objective,
    base: Program,
    run: Callable[..., Any] | None = None,
    device: torch.device | None = None,
) -> Prepared:
    """The data with what is right for them, where an objective takes that from the base; else the data themselves.

    Args:
        data: The inputs; labels of theirs are not read.
        objective: What is learned or measured.
        base: As it was before anything was removed or trained.
        run: The base on another device; itself where it is on this one.
        device: That device.
    """
    if not objective.of_base:
        return data
    # Of a base that takes one number of samples alone.
    size = 16 if base.dynamic_batch else int(base.inputs[0].shape[0])
    return data.with_targets(Taught(data, run or base, objective, size, device or torch.device("cpu")))
