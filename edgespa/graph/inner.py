"""Values inside of a program: which say how it computes, and where a cut network has those of the original.

Of a network with residual blocks they are its residual stream: what every block gives. Wherever there are no blocks
they are what its weighted layers read. Units that a cut network does not have are left out of both sides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree

from edgespa.errors import GraphError
from edgespa.graph.blocks import find_blocks
from edgespa.graph.groups import Groups, Mask
from edgespa.graph.program import Program, concrete
from edgespa.graph.rules.registry import operator_name

MOST = 64
"""Of the values that are compared: of a network with more, as many of them, evenly spread."""
_WEIGHTED = {
    *(f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3)), "convolution", "linear", "addmm",
    "lstm", "gru", "rnn_tanh", "rnn_relu",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Beside:
    """A value of a cut network, and the original's that it stands for.

    Attributes:
        ours: Name of the node in the cut network.
        theirs: Name of the node in the original.
        of_ours: Per dimension the indices, int64, of what both have; a dimension that is not named is taken whole.
        of_theirs: The same of the original's value.
    """

    ours: str
    theirs: str
    of_ours: Mapping[int, Tensor] = dataclasses.field(default_factory=dict)
    of_theirs: Mapping[int, Tensor] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """A network with what is kept of it.

    Attributes:
        program: At full width, without the blocks that are gone.
        groups: Its channel groups.
        kept: Which of their units are kept; groups that are not named are whole.
    """

    program: Program
    groups: Groups
    kept: Mapping[str, Mask]


def inner_values(program: Program) -> tuple[str, ...]:
    """Names of the nodes whose values say how a program computes, in its order.

    Args:
        program: A traced program, with ``meta["val"]`` on its nodes.
    """
    blocks = find_blocks(program)
    inside = {name for block in blocks for name in block.nodes}
    wanted = {block.exit for block in blocks}
    learned: set[fx.Node] = set()  # what depends on a weight: else it is the input, in another form
    for node in program.graph.nodes:
        if node.op == "get_attr" or any(source in learned for source in node.all_input_nodes):
            learned.add(node)
        if operator_name(node) in _WEIGHTED and node.name not in inside and isinstance(node.args[0], fx.Node):
            wanted.add(node.args[0].name)
    nodes = [node for node in program.graph.nodes if node.name in wanted and node in learned]
    found = [node.name for node in nodes if _is_activation(node)]
    if len(found) <= MOST:
        return tuple(found)
    return tuple(found[place] for place in np.unique(np.linspace(0, len(found) - 1, MOST).round().astype(int)))


def side_by_side(original: Cut, cut: Cut) -> tuple[Beside, ...]:
    """The inner values that a cut network has of the original's, each at the units that both have.

    Where a block is gone, what read its result reads what it was given: so that is to be what the block's result was.

    Args:
        original: The original, with all of its blocks.
        cut: The cut network.
    """
    nodes = {node.name for node in cut.program.graph.nodes}
    before = {b.exit: b.entry for b in find_blocks(original.program) if not b.nodes & nodes and b.exit not in nodes}
    found: dict[str, str] = {}
    for theirs in inner_values(original.program):
        ours = theirs
        while ours in before:
            ours = before[ours]
        if ours in nodes:
            found[ours] = theirs  # of several the last one, which is what is read
    alive = original.groups.alive(original.kept), cut.groups.alive(cut.kept)
    widths = _widths(original.program), _widths(cut.program)
    beside = []
    for ours, theirs in found.items():
        if widths[0][theirs] != widths[1][ours]:  # of a head that is narrower: its dimensions are others
            continue
        masks = _masks(original.groups, theirs, alive[0]), _masks(cut.groups, ours, alive[1])
        indices: tuple[dict[int, Tensor], dict[int, Tensor]] = ({}, {})
        for dim in {*masks[0], *masks[1]}:
            sizes = [mask[dim] for mask in masks if dim in mask]
            full = [mask.get(dim, np.ones(len(sizes[0]), dtype=bool)) for mask in masks]
            both = full[0] & full[1]
            for own, index in zip(full, indices, strict=True):
                if not np.array_equal(own, both):
                    index[dim] = torch.from_numpy(np.flatnonzero(both[own]))
        beside.append(Beside(ours, theirs, indices[1], indices[0]))
    return tuple(beside)


def watched(program: Program, names: Sequence[str], *, alone: bool = False) -> Program:
    """The program that gives some of its inner values: a tuple of its own output tensors, and then of those.

    Args:
        program: Not changed.
        names: Of nodes.
        alone: Without its own outputs; what only they need is not computed.

    Raises:
        GraphError: There is no such node.
    """
    result = program.copy()
    nodes = {node.name: node for node in result.graph.nodes}
    if missing := [name for name in names if name not in nodes]:
        raise GraphError(f"the program has no node {missing[0]}")
    output = next(node for node in result.graph.nodes if node.op == "output")
    leaves = [] if alone else _pytree.tree_leaves(output.args[0])
    own = [each for each in leaves if isinstance(each, fx.Node) and isinstance(each.meta.get("val"), Tensor)]
    output.args = ((*own, *(nodes[name] for name in names)),)
    # The tree of outputs is another one now.
    result.graph.set_codegen(fx.graph.CodeGen())
    if alone:
        result.graph.eliminate_dead_code(lambda node: node.op in {"placeholder", "output"})
    result.module.recompile()
    return result


def picked(value: Tensor, indices: Mapping[int, Tensor]) -> Tensor:
    """A value at some indices of some dimensions."""
    for dim, index in indices.items():
        value = value.index_select(dim, index.to(value.device))
    return value


def _is_activation(node: fx.Node) -> bool:
    value = node.meta.get("val")
    floating = isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1
    return floating and node.op == "call_function"


def _widths(program: Program) -> dict[str, tuple[int, ...]]:
    """Of the value of each node all sizes but the first, which is the batch mostly."""
    return {
        node.name: tuple(map(concrete, value.shape[1:]))
        for node in program.graph.nodes
        if isinstance(value := node.meta.get("val"), Tensor)
    }


def _masks(groups: Groups, name: str, alive: Mask) -> dict[int, Mask]:
    axes = groups.axes.get(name) or [{}]
    return {dim: alive[ids] for dim, ids in axes[0].items()}
