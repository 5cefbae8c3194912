"""Compaction: the only code that changes shapes.

`compact` slices every slot of the removed units out of every tensor and rewrites the constants of the graph that depend
on a channel count. `masked` is the other side of the law: the same program with those slots set to zero. `prove`
compares the two, at the outputs and at every inner activation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx

from edgespa.errors import GraphError
from edgespa.graph.groups import Groups, Mask, Slot
from edgespa.graph.program import Program, assign, refresh, shape_of
from edgespa.graph.rewrites import REWRITES, Edit, is_index, kept_mask
from edgespa.graph.rules.registry import operator_name
from edgespa.graph.shapes import follow


def compact(program: Program, groups: Groups, kept: Mapping[str, Mask]) -> Program:
    """Remove units physically.

    Args:
        program: The program; it is not changed.
        groups: Its channel groups, from `find_groups`.
        kept: Per group a mask over its units. Groups that are not named stay whole.

    Returns:
        A smaller program with the same names, dtypes and inputs.

    Raises:
        GraphError: If a group would lose all its units, or the graph cannot follow (then nothing has changed).
    """
    for name, mask in kept.items():
        if not np.any(mask):
            raise GraphError(f"group {name} would lose all its units", "keep at least one unit of every group")
    alive = groups.alive(kept)
    result = program.copy(slice_tensors(dict(program.tensors()), groups, alive))
    _rewrite(program, result, groups, alive)
    return result


def slice_tensors(tensors: Mapping[str, Tensor], groups: Groups, alive: Mask) -> dict[str, Tensor]:
    """The tensors that lose indices, sliced; tensors without removed slots are not in the result.

    Args:
        tensors: By name, in the shapes of the uncompacted program.
        groups: Channel groups.
        alive: Which unit ids are kept.
    """
    changed: dict[str, Tensor] = {}
    for slot, indices in groups.slot_indices(alive).items():
        if slot.tensor in tensors:
            tensor = changed.get(slot.tensor, tensors[slot.tensor].detach())
            changed[slot.tensor] = tensor.index_select(slot.dim, torch.from_numpy(indices).to(tensor.device))
    return {name: tensor.contiguous() for name, tensor in changed.items()}


def masked(program: Program, groups: Groups, kept: Mapping[str, Mask]) -> Program:
    """The program with every slot of the removed units set to zero; all shapes stay."""
    tensors = dict(program.tensors())
    removed = removed_slots(groups, groups.alive(kept))
    return program.copy({name: zeroed(tensors[name], slots) for name, slots in removed.items() if name in tensors})


RemovedSlots = Sequence[tuple[int, Tensor]]


def removed_slots(groups: Groups, alive: Mask) -> dict[str, RemovedSlots]:
    """Dimensions and indices that the removed units have in each tensor; tensors without any are not in the result."""
    removed: dict[str, list[tuple[int, Tensor]]] = {}
    for slot, ids in groups.units.items():
        gone = np.flatnonzero(~alive[ids])
        if gone.size:
            removed.setdefault(slot.tensor, []).append((slot.dim, torch.from_numpy(gone)))
    return dict(removed)


def zeroed(tensor: Tensor, slots: RemovedSlots) -> Tensor:
    """A copy that is zero at the given indices along the given dimensions."""
    result = tensor.detach().clone()
    for dim, indices in slots:
        result.index_fill_(dim, indices.to(tensor.device), 0.0)
    return result


def resize_output(program: Program, size: int) -> tuple[Program, tuple[str, ...]]:
    """Give the network another number of outputs by resizing its last linear or convolution layer.

    Args:
        program: The program, with one output tensor whose last dimension (or channel dimension) is a layer's output.
        size: New number of outputs.

    Returns:
        The program, and the names of the resized tensors, whose values the caller has to set.

    Raises:
        GraphError: If the output is not written by one layer.
    """
    names = head_tensors(program)
    if not names:
        raise GraphError(
            "the network's output is not the output of one layer, so it cannot get another number of classes",
            "use data with as many classes as the network has outputs",
        )
    result = program.copy()
    tensors = dict(program.tensors())
    for name in names:
        old = tensors[name].detach()
        index = torch.arange(size, device=old.device) % old.shape[0]
        assign(result.module, name, old.index_select(0, index).contiguous())
    refresh(result.module)
    return result, names


def head_tensors(program: Program) -> tuple[str, ...]:
    """Weights and biases of the layer that writes the program's first output; empty if there is none.

    A linear layer, of which this is the only output or a list ``[N, K]``; or a convolution whose channels are the
    output's, be it resized, pooled over places or flattened behind it; or several of those whose results are added.
    """
    output = next(node for node in program.graph.nodes if node.op == "output")
    sources = output.all_input_nodes
    if sources and sources[0].target is torch.ops.aten.linear.default:
        # Beside others it is a list of scores: of boxes and maps there is none that is the head.
        return _weights_of(sources[0]) if len(sources) == 1 or len(sources[0].meta["val"].shape) == 2 else ()
    found = _convolutions_before(sources[0]) if sources else None
    names = tuple(name for node in found or () for name in _weights_of(node))
    tensors = dict(program.tensors())
    # Flattened before all places are pooled, an output is a channel in a place.
    whole = all(tensors[name].shape[0] == shape_of(sources[0].meta["val"])[1] for name in names)
    return names if whole else ()


_BEHIND_A_HEAD = (
    *(f"upsample_{kind}{n}d" for kind, n in (("linear", 1), ("bilinear", 2), ("bicubic", 2), ("trilinear", 3))),
    *(f"{kind}{n}d" for n in (1, 2, 3) for kind in ("upsample_nearest", "_upsample_nearest_exact")),
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean", "flatten", "squeeze", "relu", "dropout", "contiguous",
)  # fmt: skip


def _convolutions_before(node: fx.Node) -> list[fx.Node] | None:
    """Those whose channels a value has; None where anything else writes some of them."""
    name = operator_name(node)
    if name in ("conv1d", "conv2d", "conv3d"):
        groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
        return [node] if groups == 1 and _weights_of(node) else None
    if name == "add" and all(isinstance(each, fx.Node) for each in node.args[:2]):
        parts = [_convolutions_before(each) for each in node.args[:2] if isinstance(each, fx.Node)]
        return None if None in parts else [layer for part in parts for layer in part or ()]
    if name in _BEHIND_A_HEAD and isinstance(node.args[0], fx.Node):
        return _convolutions_before(node.args[0])
    return None


def _weights_of(node: fx.Node) -> tuple[str, ...]:
    tensors = [argument for argument in node.args[1:3] if isinstance(argument, fx.Node)]
    return tuple(str(tensor.target) for tensor in tensors if tensor.op == "get_attr")


def _rewrite(program: Program, result: Program, groups: Groups, alive: Mask) -> None:
    originals = list(program.graph.nodes)
    copies = list(result.graph.nodes)
    expected: dict[str, list[tuple[int, ...]]] = {}
    for original, node in zip(originals, copies, strict=True):
        expected[node.name] = _expected_shapes(original, groups, alive)
        function = REWRITES.get(operator_name(original))
        touched = [original, *original.all_input_nodes]
        if function is not None and any(_shrinks(item, groups, alive) for item in touched):
            function(Edit(node, original, result.module, groups, alive))
    result.graph.lint()
    result.module.recompile()
    try:
        follow(result.module, expected)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise GraphError(f"the compacted program is not consistent: {str(error).splitlines()[0]}", _REPORT) from error
    for node in result.graph.nodes:
        shapes = expected.get(node.name)
        if shapes and not is_index(node) and _shapes(node) != shapes:
            raise GraphError(f"{node.name}: expected shape {shapes} after compaction, got {_shapes(node)}", _REPORT)


_REPORT = "this is a fault of edgespa's rules: exclude the layer with --keep, and please report the model"


def _shrinks(node: fx.Node, groups: Groups, alive: Mask) -> bool:
    return any(not alive[ids].all() for dims in groups.axes.get(node.name, []) for ids in dims.values())


def _shapes(node: fx.Node) -> list[tuple[int, ...]]:
    value = node.meta.get("val")
    items = value if isinstance(value, list | tuple) else [value]
    return [shape_of(item) for item in items if isinstance(item, Tensor)]


def _expected_shapes(node: fx.Node, groups: Groups, alive: Mask) -> list[tuple[int, ...]]:
    shapes = []
    for result, shape in enumerate(_shapes(node)):
        sizes = list(shape)
        for dim in range(len(sizes)):
            mask = kept_mask(groups, alive, node, result, dim)
            if mask is not None:
                sizes[dim] = int(mask.sum())
        shapes.append(tuple(sizes))
    return shapes


def relative_indices(groups: Groups, before: Mapping[str, Mask], after: Mapping[str, Mask]) -> dict[Slot, Tensor]:
    """Indices to keep when a program that is compacted already is compacted further.

    Args:
        groups: Channel groups of the whole program.
        before: Units that are kept now.
        after: Units that will be kept, none that is gone now.

    Returns:
        Per slot that shrinks, indices into the tensor as it is now.
    """
    alive, remaining = groups.alive(before), groups.alive(after)
    result = {}
    for slot, ids in groups.units.items():
        current = ids[alive[ids]]
        mask = remaining[current]
        if not mask.all():
            result[slot] = torch.from_numpy(np.flatnonzero(mask))
    return result
