"""Arguments of operators that depend on a shape, and how they follow when channels are removed.

One function per operator family. Each is given the masks of the channels that remain in the operator's inputs and
outputs and changes the arguments of its node. What is not here has no argument that depends on a channel count; the
shapes of every node are checked afterwards, so a missing rewrite is an error and never a wrong program.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from edgespa.errors import GraphError
from edgespa.graph.groups import Groups, Mask
from edgespa.graph.program import assign, shape_of
from edgespa.graph.rules.layout import takes_all
from edgespa.graph.rules.registry import named_arguments, operator_name, resolve

aten = torch.ops.aten
Rewrite = Callable[["Edit"], None]
REWRITES: dict[str, Rewrite] = {}


@dataclasses.dataclass(frozen=True)
class Edit:
    """One node whose inputs or outputs lose channels.

    Attributes:
        node: The node in the new graph.
        original: The node in the graph it was copied from, with the old shapes.
        module: The new module, to which constants can be added.
        groups: Channel groups of the original.
        alive: Which unit ids are kept.
        nodes: Nodes of the new graph by name.
    """

    node: fx.Node
    original: fx.Node
    module: fx.GraphModule
    groups: Groups
    alive: Mask

    @property
    def name(self) -> str:
        """The operator's name without namespace and overload."""
        return operator_name(self.original)

    def argument(self, name: str) -> Any:
        """A named argument of the original with symbolic numbers resolved."""
        return resolve(named_arguments(self.original)[name])

    def mask(self, argument: str, dim: int) -> Mask | None:
        """Which indices of an input's dimension remain; None if all do."""
        return kept_mask(self.groups, self.alive, named_arguments(self.original)[argument], 0, dim)

    def out(self, dim: int, result: int = 0) -> Mask | None:
        """Which indices of a result's dimension remain; None if all do."""
        return kept_mask(self.groups, self.alive, self.original, result, dim)

    def set(self, **changes: Any) -> None:
        """Replace arguments by name."""
        schema = self.node.target._schema  # type: ignore[union-attr]
        named = {**named_arguments(self.node), **changes}
        positional = [named[a.name] for a in schema.arguments if not a.kwarg_only]
        self.node.args = tuple(positional)
        self.node.kwargs = {
            a.name: named[a.name] for a in schema.arguments if a.kwarg_only and named[a.name] != a.default_value
        }

    def replace(self, target: Any, *arguments: Any) -> None:
        """Make the node another operator."""
        self.node.target = target
        self.node.args = arguments
        self.node.kwargs = {}

    def rank(self, argument: str) -> int:
        """Number of dimensions of an input."""
        return len(shape_of(named_arguments(self.original)[argument].meta["val"]))

    def constant(self, values: NDArray[np.int64]) -> fx.Node:
        """An integer buffer, read just before the node; one of an earlier compaction is overwritten."""
        device = self.original.meta["val"].device
        tensor = torch.from_numpy(values.astype(np.int64)).to(device)
        for source in self.node.all_input_nodes:
            if is_index(source) and len(source.users) == 1:
                assign(self.module, str(source.target), tensor)
                return source
        name, number = f"{INDEX}{self.node.name}", 2
        while hasattr(self.module, name):
            name, number = f"{INDEX}{self.node.name}_{number}", number + 1
        assign(self.module, name, tensor)
        with self.node.graph.inserting_before(self.node):
            return self.node.graph.get_attr(name)


INDEX = "edgespa_index_"


def is_index(node: fx.Node) -> bool:
    """Whether a node reads an index that a compaction has made."""
    return node.op == "get_attr" and str(node.target).startswith(INDEX)


def kept_mask(groups: Groups, alive: Mask, node: Any, result: int, dim: int) -> Mask | None:
    """Which indices of a dimension of a node's result remain; None if all do."""
    if not isinstance(node, fx.Node):
        return None
    results = groups.axes.get(node.name, [])
    ids = results[result].get(dim) if result < len(results) else None
    if ids is None:
        return None
    mask = alive[ids]
    return None if mask.all() else mask


def rewrite(*names: str) -> Callable[[Rewrite], Rewrite]:
    """Register a rewrite for operators."""

    def register(function: Rewrite) -> Rewrite:
        for name in names:
            REWRITES[name] = function
        return function

    return register


@rewrite("view", "reshape", "_unsafe_view", "view_copy", "expand", "broadcast_to",
         "zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "empty", "new_empty")  # fmt: skip
def sizes(edit: Edit) -> None:
    """The sizes of dimensions that shrink; a symbolic one becomes -1."""
    name = "shape" if edit.name == "reshape" else "size"
    new = list(named_arguments(edit.node)[name])
    if "view" in edit.name or edit.name == "reshape":
        traced = edit.original.meta["val"].shape
        new = [old if size == -1 and isinstance(old, int) else size for size, old in zip(new, traced, strict=True)]
    for dim in range(len(new)):
        mask = edit.out(dim)
        if mask is None or new[dim] == -1:
            continue
        if isinstance(new[dim], int):
            new[dim] = int(mask.sum())
        elif -1 in new:
            raise GraphError(f"{edit.node.name}: two sizes of {edit.name} depend on the batch and on channels")
        else:
            new[dim] = -1
    edit.set(**{name: new})


@rewrite("repeat", "tile")
def repeat(edit: Edit) -> None:
    """How often single elements are repeated; copies of channels stay as many as they were."""
    name = "repeats" if edit.name == "repeat" else "dims"
    source = named_arguments(edit.original)["self"].meta["val"].shape
    new = list(named_arguments(edit.node)[name])
    shift = len(new) - len(source)
    for dim in range(len(new)):
        mask = edit.out(dim)
        if mask is not None and (dim < shift or source[dim - shift] == 1):
            new[dim] = int(mask.sum())
    edit.set(**{name: new})


@rewrite("squeeze")
def squeeze(edit: Edit) -> None:
    """Only the dimensions that had size 1 before; one that shrinks to size 1 stays."""
    shape = named_arguments(edit.original)["self"].meta["val"].shape
    ones = [dim for dim, size in enumerate(shape) if isinstance(size, int) and size == 1]
    given = edit.argument("dim") if "dim" in named_arguments(edit.original) else ones
    chosen = [int(dim) % len(shape) for dim in (given if isinstance(given, list) else [given])]
    edit.replace(aten.squeeze.dims, edit.node.args[0], [dim for dim in chosen if dim in ones])


@rewrite("unflatten")
def unflatten(edit: Edit) -> None:
    """The sizes that a dimension is split into."""
    dim = int(edit.argument("dim")) % edit.rank("self")
    new = list(named_arguments(edit.node)["sizes"])
    for offset in range(len(new)):
        mask = edit.out(dim + offset)
        if mask is not None and new[offset] != -1:
            new[offset] = int(mask.sum())
    edit.set(sizes=new)


@rewrite("slice", "slice_scatter")
def slice_(edit: Edit) -> None:
    """Bounds count the channels that remain before them; a stride becomes an index."""
    dim = int(edit.argument("dim")) % edit.rank("self")
    mask = edit.mask("self", dim)
    if mask is None or takes_all(edit.argument("start"), edit.argument("end"), edit.argument("step")):
        return
    start, stop, step = slice(edit.argument("start"), edit.argument("end"), edit.argument("step")).indices(len(mask))
    if step != 1:
        _index_select(edit, dim, np.arange(start, stop, step), mask)
        return
    before = np.concatenate([[0], np.cumsum(mask)])
    edit.set(start=int(before[start]), end=int(before[max(stop, start)]))


@rewrite("narrow")
def narrow(edit: Edit) -> None:
    """As a slice."""
    dim = int(edit.argument("dim")) % edit.rank("self")
    mask = edit.mask("self", dim)
    if mask is None:
        return
    start, length = int(edit.argument("start")) % len(mask), int(edit.argument("length"))
    edit.set(start=int(mask[:start].sum()), length=int(mask[start : start + length].sum()))


@rewrite("select", "select_scatter")
def select(edit: Edit) -> None:
    """The index counts the channels that remain before it."""
    dim = int(edit.argument("dim")) % edit.rank("self")
    mask = edit.mask("self", dim)
    if mask is not None:
        edit.set(index=int(mask[: int(edit.argument("index")) % len(mask)].sum()))


@rewrite("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
def split(edit: Edit) -> None:
    """Every part by its own new size."""
    dim = int(edit.argument("dim")) % edit.rank("self")
    mask = edit.mask("self", dim)
    if mask is None:
        return
    parts = [shape_of(part)[dim] for part in edit.original.meta["val"]]
    bounds = np.cumsum([0, *parts])
    new = [int(mask[a:b].sum()) for a, b in itertools.pairwise(bounds)]
    edit.replace(aten.split_with_sizes.default, edit.node.args[0], new, dim)


@rewrite("roll")
def roll(edit: Edit) -> None:
    """A shift by s becomes a shift by the number of channels that remain among the last s."""
    given, shifts = edit.argument("dims") or [0], list(edit.argument("shifts"))
    for index, dim in enumerate(given):
        mask = edit.mask("self", int(dim) % edit.rank("self"))
        if mask is not None:
            shifts[index] = int(mask[len(mask) - shifts[index] % len(mask) :].sum()) if shifts[index] % len(mask) else 0
    edit.set(shifts=shifts)


@rewrite("pad", "constant_pad_nd")
def pad(edit: Edit) -> None:
    """Padded channels that remain, before and after."""
    amounts = list(edit.argument("pad"))
    rank = edit.rank("self")
    for index in range(len(amounts) // 2):
        dim = rank - 1 - index
        inside, outside = edit.mask("self", dim), edit.out(dim)
        before, after = amounts[2 * index], amounts[2 * index + 1]
        if (inside is None and outside is None) or not (before or after):
            continue
        for side, amount in ((0, before), (1, after)):
            if amount > 0 and outside is not None:
                part = outside[:amount] if side == 0 else outside[len(outside) - amount :]
                amounts[2 * index + side] = int(part.sum())
            elif amount < 0 and inside is not None:
                part = inside[:-amount] if side == 0 else inside[len(inside) + amount :]
                amounts[2 * index + side] = -int(part.sum())
    edit.set(pad=amounts)


@rewrite("index_select")
def index_select(edit: Edit) -> None:
    """The index, renumbered, without the channels that went."""
    dim = int(edit.argument("dim")) % edit.rank("self")
    mask = edit.mask("self", dim)
    if mask is not None:
        _index_select(edit, dim, _constant_of(edit, named_arguments(edit.original)["index"]), mask)


@rewrite("index")
def index(edit: Edit) -> None:
    """As `index_select`, for an index vector in one dimension."""
    indices = list(named_arguments(edit.original)["indices"])
    dim = next(position for position, item in enumerate(indices) if item is not None)
    mask = edit.mask("self", dim)
    if mask is None:
        return
    _index_select(edit, dim, _constant_of(edit, indices[dim]), mask)


def _index_select(edit: Edit, dim: int, old: NDArray[np.int64], mask: Mask) -> None:
    renumbered = np.cumsum(mask) - 1
    old = np.where(old < 0, old + len(mask), old)
    new = renumbered[old[mask[old]]]
    edit.replace(aten.index_select.default, edit.node.args[0], dim, edit.constant(new))


def _constant_of(edit: Edit, node: Any) -> NDArray[np.int64]:
    """Content of an index that depends on constants only."""
    from edgespa.graph.program import fetch

    done: dict[fx.Node, Any] = {}

    def value(item: fx.Node) -> Any:
        if item not in done:
            if item.op == "get_attr":
                done[item] = fetch(item.graph.owning_module, str(item.target))  # type: ignore[arg-type]
            else:
                arguments, keywords = fx.node.map_arg((item.args, item.kwargs), value)
                done[item] = item.target(*arguments, **keywords)  # type: ignore[operator]
        return done[item]

    tensor = value(node)
    if tensor.dtype == torch.bool:
        tensor = tensor.nonzero().squeeze(1)
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.int64)


@rewrite("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(edit: Edit) -> None:
    """Whole groups that went are taken off the group count."""
    groups = int(edit.argument("groups"))
    if groups == 1:
        return
    weight = named_arguments(edit.original)["weight"]
    transposed = "transpose" in edit.name
    per_group = shape_of(weight.meta["val"])[0] // groups
    mask = kept_mask(edit.groups, edit.alive, weight, 0, 0)
    if mask is None:
        return
    by_group = mask.reshape(groups, per_group)
    if not transposed and edit.mask("input", 1) is None:
        return  # the same place in every group
    whole = by_group.all(axis=1) | ~by_group.any(axis=1)
    if whole.all():
        edit.set(groups=int(by_group.any(axis=1).sum()))


@rewrite("mean")
def mean(edit: Edit) -> None:
    """The divisor stays what it was: the mean over what remains, times the share that remains."""
    dims = edit.argument("dim") if "dim" in named_arguments(edit.original) else None
    rank = edit.rank("self")
    masks = [edit.mask("self", int(dim) % rank) for dim in (range(rank) if dims is None or dims == [] else dims)]
    share = math.prod(float(mask.mean()) for mask in masks if mask is not None)
    if share != 1.0:
        with edit.node.graph.inserting_before(edit.node):
            plain = edit.node.graph.node_copy(edit.node)
        edit.replace(aten.mul.Tensor, plain, share)


@rewrite("rms_norm")
def rms_norm(edit: Edit) -> None:
    """The mean of squares is over the channels that were: ``x / sqrt(s m + e) = s^-0.5 x / sqrt(m + e / s)``.

    ``m`` is the mean of squares over the channels that remain and ``s`` their share.
    """
    mask = edit.mask("input", edit.rank("input") - 1)
    if mask is None:
        return
    share = float(mask.mean())
    eps = edit.argument("eps")
    if eps is None:
        eps = torch.finfo(edit.original.meta["val"].dtype).eps
    edit.set(normalized_shape=[int(mask.sum())], eps=float(eps) / share)
    with edit.node.graph.inserting_before(edit.node):
        plain = edit.node.graph.node_copy(edit.node)
    edit.replace(aten.mul.Tensor, plain, share**-0.5)


@rewrite("group_norm")
def group_norm(edit: Edit) -> None:
    """Whole groups that went are taken off the group count."""
    groups = int(edit.argument("num_groups"))
    mask = edit.mask("input", 1)
    if mask is not None and groups > 1:
        edit.set(num_groups=int(mask.reshape(groups, -1).any(axis=1).sum()))


@rewrite("scaled_dot_product_attention")
def attention(edit: Edit) -> None:
    """The scale stays what the original head size made it."""
    rank = edit.rank("query")
    if edit.mask("query", rank - 1) is not None and edit.argument("scale") is None:
        size = shape_of(named_arguments(edit.original)["query"].meta["val"])[-1]
        edit.set(scale=float(size) ** -0.5)
