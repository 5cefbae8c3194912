"""Outputs that are sets: the best entries of many, chosen inside the graph, where two of equal score may change places.

Found by trying: whatever a ``topk`` or ``sort`` gives is put into another order, and where that puts an output into the
same other order along an axis, its entries are a set along it. What a network computes of the chosen entries in
between does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from edgespa.bundle import OutputSet
from edgespa.graph.program import Program

_CHOOSING = {torch.ops.aten.topk.default, torch.ops.aten.sort.default, torch.ops.aten.sort.stable}
_LEAST_GAP = 1e-5
"""Of the scores around the last entry that is chosen, against the largest: of nearer ones either may be chosen."""


class _Choices(fx.Interpreter):
    """Runs a graph and looks at what its operators choose.

    Args:
        module: The graph.
        changed: The node whose choice is put into another order.

    Attributes:
        order: The other order.
        gaps: Of each sample, the least gap between the last score that is chosen and the first that is not.
    """

    def __init__(self, module: fx.GraphModule, changed: fx.Node | None = None) -> None:
        super().__init__(module)
        self._changed = changed
        self.order: Tensor | None = None
        self.gaps: Tensor | None = None

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n is self._changed:
            dim = _dim(n)
            size = result[0].shape[dim]
            self.order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
            return tuple(part.index_select(dim, self.order) for part in result)
        if n.target is torch.ops.aten.topk.default:
            (scores, k, *_), _ = self.fetch_args_kwargs_from_env(n)
            self._see(scores.movedim(_dim(n), -1), int(k))
        return result

    def _see(self, scores: Tensor, k: int) -> None:
        if k >= scores.shape[-1] or scores.dim() < 2:
            return
        best = scores.double().topk(k + 1, dim=-1).values
        gap = (best[..., k - 1] - best[..., k]) / best.abs().amax(-1).clamp_min(1e-30)
        gap = gap.reshape(len(gap), -1).amin(1)
        self.gaps = gap if self.gaps is None or len(self.gaps) != len(gap) else torch.minimum(self.gaps, gap)


def _dim(node: fx.Node) -> int:
    place = 2 if node.target is torch.ops.aten.sort.stable else 1
    place = 2 if node.target is torch.ops.aten.topk.default else place
    found = node.args[place] if len(node.args) > place else node.kwargs.get("dim", -1)
    assert isinstance(found, int)
    return found


@torch.no_grad()
def find_sets(program: Program) -> tuple[OutputSet, ...]:
    """The sets among a program's outputs.

    Args:
        program: With plain outputs.
    """
    choosing = [node for node in program.graph.nodes if node.target in _CHOOSING]
    if not choosing:
        return ()
    inputs = program.example_inputs()
    plain = _leaves(program(*inputs))
    found = []
    for node in choosing:
        run = _Choices(program.module, node)
        other = _leaves(run.run(*inputs))
        assert run.order is not None
        axes = []
        for index, (before, after) in enumerate(zip(plain, other, strict=True)):
            for axis in range(1, before.dim()):
                if before.shape[axis] == len(run.order) and not _same(before, after):
                    moved = before.index_select(axis, run.order)
                    if _same(moved, after):
                        axes.append((index, axis))
                        break
        if axes:
            found.append(OutputSet(axes=tuple(axes)))
    return tuple(dict.fromkeys(found))


@torch.no_grad()
def steady(program: Program, inputs: Sequence[Tensor]) -> Tensor:
    """Which samples choose entries that rounding cannot change for others; bool [N].

    Args:
        program: With plain outputs.
        inputs: A batch that it takes.
    """
    everyone = torch.ones(len(inputs[0]), dtype=torch.bool)
    if all(node.target is not torch.ops.aten.topk.default for node in program.graph.nodes):
        return everyone
    run = _Choices(program.module)
    run.run(*inputs)
    return everyone if run.gaps is None or len(run.gaps) != len(everyone) else run.gaps > _LEAST_GAP


def _leaves(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _same(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    scale = float(one.abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * scale)
