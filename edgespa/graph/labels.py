"""Channel labels: which indices of which dimensions must live or die together.

Every index of every dimension of every floating tensor gets a fresh integer label. The labels ride through the
operators of the program; where an operator ties two indices together (the output channel of a convolution and the
input column of the next one, the two operands of an addition) an *edge* is written down, and where an index cannot be
removed it is *fixed*, with the reason. `edgespa.graph.groups` turns edges and fixes into units.

Example: ``relu(conv(x)) -> linear`` writes edges ``conv.weight[i] - conv.bias[i]`` and, through the contraction,
``conv.weight[i] - linear.weight[:, i]``: unit *i* is that row, that bias and that column.

Three notions carry the rules:

* A *block* labels one or several dimensions of a value jointly. One dimension is the common case; a view that splits a
  labelled dimension makes a joint block over the parts, since a label then depends on both indices. Nothing is decided
  there: after labelling, a joint block whose units are not rectangles is united along all dimensions but one.
* *Pinning* dimensions says that indices along them must stay (softmax, statistics, a window): a block over them alone
  is fixed, a joint block (heads x head size) is united along them and lives on in the others.
* ``dead`` is the value that elements of removed units have in the *masked* program, where every slot of the unit is
  zero. It decides whether an unweighted sum over them is exact: only if it is zero.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Labels = NDArray[np.int32]
FIXED = 0
TIED = "tied to an index that cannot be removed"
UNLABELLED = "a tensor that cannot shrink there"


class Slot(NamedTuple):
    """One dimension of one tensor."""

    tensor: str
    dim: int


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Labels of some dimensions of a value.

    Attributes:
        dims: The dimensions, ascending.
        labels: One label per index combination; ``labels.shape`` are the sizes of ``dims``. 0 means fixed.
        copies: Whether the labels are of copies (an expanded dimension, a constant) and stand for nothing else yet.
    """

    dims: tuple[int, ...]
    labels: Labels
    copies: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """What labelling knows of a tensor: its sizes, its blocks (over disjoint dimensions) and its dead value.

    Attributes:
        shape: Sizes at the trace.
        blocks: Labelled dimensions; the others cannot shrink.
        dead: Value of elements of removed units in the masked program; None if unknown.
        why: What the value is, if that is the reason that its unlabelled dimensions cannot shrink.
    """

    shape: tuple[int, ...]
    blocks: tuple[Block, ...] = ()
    dead: float | None = 0.0
    why: str = UNLABELLED

    def block(self, dim: int) -> Block | None:
        """The block that labels a dimension, if any."""
        return next((block for block in self.blocks if dim in block.dims), None)

    def without_blocks(self) -> Value:
        """The same sizes, nothing removable."""
        return Value(self.shape, (), None)


@dataclasses.dataclass(frozen=True)
class Fix:
    """Labels that cannot be removed, with the reason and the node that says so."""

    labels: Labels
    reason: str
    node: str


class Labeller:
    """Hands out labels and collects what the rules say about them.

    Attributes:
        count: Labels handed out so far, the fixed label 0 included.
        edges: Pairs of equally long label arrays; label *i* of one lives and dies with label *i* of the other.
        fixes: What cannot be removed.
        joints: Joint blocks whose units have to become rectangles, with their preferred dimension (or None).
        widths: Attention keeps all heads, and what can go of it are dimensions of every head; else whole heads.
    """

    def __init__(self, *, widths: bool = False) -> None:
        self.widths = widths
        self.count = 1
        self.edges: list[tuple[Labels, Labels]] = []
        self.fixes: list[Fix] = []
        self.joints: dict[int, tuple[Labels, int | None]] = {}
        self.node = ""

    def fresh(self, *sizes: int) -> Labels:
        """New labels, one per index."""
        number = math.prod(sizes)
        labels = np.arange(self.count, self.count + number, dtype=np.int32).reshape(sizes)
        self.count += number
        return labels

    def unite(self, one: Labels, other: Labels) -> None:
        """Tie labels pairwise; arrays are broadcast against each other. A label tied to 0 is fixed."""
        if one is other:
            return
        one, other = np.broadcast_arrays(one, other)
        one, other = one.ravel(), other.ravel()
        differs = one != other
        if not differs.all():
            one, other = one[differs], other[differs]
        zero = (one == FIXED) | (other == FIXED)
        if zero.any():
            self.fix(np.maximum(one[zero], other[zero]), TIED)
            one, other = one[~zero], other[~zero]
        if one.size:
            self.edges.append((one, other))

    def fix(self, labels: Labels, reason: str) -> None:
        """Say that labels cannot be removed, and why."""
        labels = labels[labels != FIXED]
        if labels.size:
            self.fixes.append(Fix(labels, reason, self.node))

    def weight(self, labels: Labels) -> int:
        """How many labels live and die with these, by what is known so far; those that are fixed do not count."""
        part = components(self.edges, self.count)
        wanted = np.zeros(part.max() + 1, dtype=bool)
        wanted[part[labels]] = True
        wanted[part[FIXED]] = False
        for fix in self.fixes:
            wanted[part[fix.labels]] = False
        return int(wanted[part].sum())

    def fix_value(self, value: Value, reason: str) -> None:
        """Fix everything that a value carries."""
        for block in value.blocks:
            self.fix(block.labels.ravel(), reason)

    def remember(self, value: Value, preferred: int | None = None) -> None:
        """Note a value's joint blocks, so that their units become rectangles in the end."""
        for block in value.blocks:
            if len(block.dims) > 1:
                axis = block.dims.index(preferred) if preferred in block.dims else None
                self.joints.setdefault(id(block.labels), (block.labels, axis))

    def pin(self, value: Value, dims: Iterable[int], reason: str) -> Value:
        """Keep all indices along some dimensions.

        A block within ``dims`` is fixed and dropped; a joint block is united along them and keeps the others.

        Returns:
            The value with the remaining blocks, none of which touches ``dims``.
        """
        pinned = set(dims)
        blocks = []
        why = value.why
        for block in value.blocks:
            rest = tuple(dim for dim in block.dims if dim not in pinned)
            if len(rest) == len(block.dims):
                blocks.append(block)
            elif not rest:
                self.fix(block.labels.ravel(), reason)
                why = reason[reason.index(UNLABELLED) :] if UNLABELLED in reason else f"{UNLABELLED} ({reason})"
            else:
                axes = tuple(axis for axis, dim in enumerate(block.dims) if dim in pinned)
                blocks.append(Block(rest, self.unite_along(block.labels, axes)))
        return dataclasses.replace(value, blocks=tuple(blocks), why=why)

    def unite_along(self, labels: Labels, axes: Sequence[int]) -> Labels:
        """Unite labels along axes and return the array without those axes."""
        first = labels[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(labels.ndim))]
        self.unite(first, labels)
        return np.ascontiguousarray(first.squeeze(tuple(axes)))

    def axis(self, value: Value, dim: int, reason: str) -> Labels | None:
        """The labels of one dimension alone, uniting along the others of a joint block; None if not labelled."""
        block = value.block(dim)
        if block is None:
            return None
        others = [other for other in block.dims if other != dim]
        value = self.pin(value, others, reason)
        remaining = value.block(dim)
        return None if remaining is None else remaining.labels

    def merge(self, values: Sequence[Value], shape: tuple[int, ...], what: str) -> tuple[Block, ...]:
        """Tie values that are combined element by element, after broadcasting, and give the blocks of the result.

        A value of full size without labels along a dimension pins that dimension of the others.

        Args:
            values: The operands; dimensions are aligned from the right, as torch broadcasts.
            shape: Sizes of the result.
            what: What combines them, for the reasons.
        """
        aligned = []
        for value in values:
            shift = len(shape) - len(value.shape)
            moved = tuple(
                dataclasses.replace(block, dims=tuple(dim + shift for dim in block.dims)) for block in value.blocks
            )
            aligned.append(Value((1,) * shift + value.shape, moved, why=value.why))
        aligned = [self._keep_heads(value, aligned) for value in aligned]
        for index, value in enumerate(aligned):
            for other in aligned:
                if other is value:
                    continue
                covered = {dim for block in other.blocks for dim in block.dims}
                pinned = {dim for dim, size in enumerate(other.shape) if size > 1 and dim not in covered}
                # size-1 dimensions of the value itself carry no labels, so pinning them is harmless
                aligned[index] = self.pin(aligned[index], pinned, f"{what} with {other.why}")
        parts = [set(block.dims) for value in aligned for block in value.blocks]
        merged = _connected(parts)
        result = []
        for dims in merged:
            ordered = tuple(sorted(dims))
            union: Labels | None = None
            for value in aligned:
                for block in value.blocks:
                    if not set(block.dims) <= dims:
                        continue
                    spread = _spread(block, ordered)
                    if union is None:
                        union = np.broadcast_to(spread, tuple(shape[dim] for dim in ordered))
                    self.unite(union, spread)
            assert union is not None
            own = union if union.flags.c_contiguous else np.ascontiguousarray(union)
            result.append(Block(ordered, own))
        return tuple(result)

    def _keep_heads(self, value: Value, others: Sequence[Value]) -> Value:
        """Pin what a value has along the inner part of a split dimension (head size) and shares between the outer ones.

        Tied there, the units of all heads would become one; so whole heads stay the units.
        """
        joints = [block.dims for other in others for block in other.blocks if len(block.dims) > 1]
        shared = {
            block.dims[0]
            for block in value.blocks
            for dims in joints
            if (block.copies and block.dims[0] in dims)
            or (block.dims == dims[-1:] and all(value.shape[dim] == 1 for dim in dims[:-1]))
        }
        return self.pin(value, shared, "shared by the parts (heads) of a split dimension")


def components(edges: Sequence[tuple[Labels, Labels]], count: int) -> NDArray[np.int64]:
    """The connected component of each of ``count`` labels, as a number from 0 on."""
    one = np.concatenate([ends[0] for ends in edges]) if edges else np.zeros(0, dtype=np.int32)
    other = np.concatenate([ends[1] for ends in edges]) if edges else np.zeros(0, dtype=np.int32)
    graph = coo_matrix((np.ones(len(one), dtype=np.int8), (one, other)), shape=(count, count))
    found: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def _spread(block: Block, dims: tuple[int, ...]) -> Labels:
    """A block's labels as an array over more dimensions, of size 1 in the new ones."""
    shape = [block.labels.shape[block.dims.index(dim)] if dim in block.dims else 1 for dim in dims]
    return block.labels.reshape(shape)


def _connected(parts: Sequence[set[int]]) -> list[set[int]]:
    merged: list[set[int]] = []
    for part in parts:
        touching = [known for known in merged if known & part]
        merged = [known for known in merged if not known & part]
        merged.append(part.union(*touching))
    return merged
