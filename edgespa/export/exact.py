"""A program in double precision: what is the rounding of the network itself, and no fault of a file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from edgespa.graph.program import Program
from edgespa.graph.proof import doubled

log = logging.getLogger(__name__)


class _Double(fx.Interpreter):
    """Runs a graph whose numbers, and whatever element types it asks for, are float64."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = pytree.tree_map(doubled, (args, kwargs))
        return super().call_function(target, args, kwargs)


@torch.no_grad()
def exact_outputs(program: Program, inputs: Sequence[Tensor]) -> list[NDArray[Any]] | None:
    """Outputs in double precision; None where an operator is not there in it.

    Args:
        program: With plain outputs; its tensors are converted one at a time.
        inputs: As the program takes them.
    """
    try:
        found = _Double(program.module).run(*inputs)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        log.debug("not in double precision: %s", error)
        return None
    arrays = [leaf.numpy() for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)]
    return arrays if all(np.isfinite(array).all() for array in arrays) else None
