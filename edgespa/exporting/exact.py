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

from edgespa.device.runner.compare import UNIT
from edgespa.graph.program import Program
from edgespa.graph.proof import doubled

log = logging.getLogger(__name__)


UNSURE = 2.0**-20
"""Relative error that a runtime may make in an operator's result: eight steps of float32."""
_BOUNDED = {
    torch.ops.aten.sigmoid.default,
    torch.ops.aten.tanh.default,
    torch.ops.aten.softmax.int,
    torch.ops.aten._softmax.default,
}
"""Approximated to a fixed number of digits behind the point, however small: 1e-9 of a sigmoid is 0 in a runtime."""
_WEIGHTED = ("linear", "conv", "matmul", "addmm", "bmm", "mm.default", "attention", "einsum")
_NOISE = 1_000_003
"""A prime: no two samples get the same."""
_SUMS = ("mean", "sum", "avg_pool")
# Of n positive terms that LiteRT adds one after the other: measured up to 0.7 sqrt(n) 2^-24 for n of 49 to 12,544.
_PER_TERM = 1.5 * 2.0**-24


class _Double(fx.Interpreter):
    """Runs a graph whose numbers, and whatever element types it asks for, are float64.

    Args:
        module: The graph.
        unsure: Relative noise that is put on each result that is computed, not just looked at in another way. What a
            sigmoid, softmax or tanh gives has as much at least as runtimes may be wrong there by, if it gets to an
            output without weights in between.
        draw: Which noise.
    """

    def __init__(self, module: fx.GraphModule, unsure: float = 0.0, draw: int = 0) -> None:
        super().__init__(module)
        self._unsure = unsure
        self._noise = torch.rand(_NOISE, generator=torch.Generator().manual_seed(draw), dtype=torch.float64) * 2 - 1
        self._at = 0
        self._shown = _shown(module.graph) if unsure else set()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n not in self._shown:
            return result
        return result + UNIT * self._drawn(result.shape)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = pytree.tree_map(doubled, (args, kwargs))
        result = super().call_function(target, args, kwargs)
        if not self._unsure or not _computes(target):
            return result
        unsure = self._unsure
        if isinstance(result, Tensor) and result.numel() and any(name in str(target) for name in _SUMS):
            unsure = max(unsure, _PER_TERM * (args[0].numel() / result.numel()) ** 0.5)
        return pytree.tree_map(lambda each: self._noisy(each, unsure), result)

    def _noisy(self, value: Any, unsure: float) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return torch.addcmul(value, value, self._drawn(value.shape), value=unsure)

    def _drawn(self, shape: torch.Size) -> Tensor:
        """Noise from -1 to 1: the next of a million numbers, again and again, which takes a tenth of drawing them."""
        count, start = shape.numel(), self._at % _NOISE
        self._at += count
        noise = self._noise[start : start + count]
        if count > len(noise):
            noise = torch.cat([noise, self._noise.repeat(-(-(count - len(noise)) // _NOISE))])[:count]
        return noise.view(shape)


def _shown(graph: fx.Graph) -> set[fx.Node]:
    """Sigmoids and their like whose results get to an output without weights in between."""
    near = set(graph.output_node().all_input_nodes)
    for node in reversed(graph.nodes):
        if node in near and not any(name in str(node.target) for name in _WEIGHTED):
            near.update(node.all_input_nodes)
    return {node for node in near if node.target in _BOUNDED}


def _computes(target: Any) -> bool:
    """Whether an operator's results are not views of its arguments."""
    schema = getattr(target, "_schema", None)
    return schema is not None and all(each.alias_info is None for each in schema.returns)


@torch.no_grad()
def exact_outputs(
    program: Program, inputs: Sequence[Tensor], unsure: float = 0.0, draw: int = 0
) -> list[NDArray[Any]] | None:
    """Outputs in double precision; None where an operator is not there in it.

    Args:
        program: With plain outputs; its tensors are converted one at a time.
        inputs: As the program takes them.
        unsure: Relative noise on the result of every operator: how far the outputs move by it says what another order
            of summation, or another approximation, may do to them.
        draw: Which noise.
    """
    try:
        found = _Double(program.module, unsure, draw).run(*inputs)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        log.debug("not in double precision: %s", error)
        return None
    arrays = [leaf.numpy() for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)]
    return arrays if all(np.isfinite(array).all() for array in arrays) else None
