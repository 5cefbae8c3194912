"""Units and channel groups: what the labels of a program amount to.

A **unit** is one connected set of labels: the smallest thing that can be removed. A **channel group** is all units that
live in the same slots, so that removing any of them changes the same tensors in the same dimensions.

Worked example, ``y = bn2(conv2(relu(bn1(conv1(x))))) + x`` inside a residual stage of width 16: the 16 output channels
of ``conv1`` form one group with slots ``(conv1.weight, 0)``, ``(bn1.weight, 0)`` ... ``(conv2.weight, 1)``; each unit
is one channel. The addition ties the outputs of ``conv2`` to the stream ``x``, so those channels belong to the group of
the whole stage, with a slot in every tensor that writes to or reads from the stream.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx

from edgespa.errors import GraphError
from edgespa.graph.labels import FIXED, TIED, Fix, Labeller, Labels, Value
from edgespa.graph.program import Program, fetch, shape_of
from edgespa.graph.rules import Call, rule_for
from edgespa.graph.rules.layout import unknown
from edgespa.graph.rules.registry import named_arguments

Mask = NDArray[np.bool_]
Kept = dict[str, Mask]  # group name -> which of its units are kept


class Slot(NamedTuple):
    """One dimension of one tensor."""

    tensor: str
    dim: int


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Units that share the same slots.

    Attributes:
        name: The module path of the first weight that writes the group's channels.
        ids: Unit ids in the order of their first index; position *k* of a mask is unit ``ids[k]``.
        slots: Per slot the indices of each unit, ``[units, indices per unit]``; ragged ones as lists.
        writers: The slots that are outputs of a weight (rows of a linear or convolution weight).
        readers: The slots that are inputs of a weight (columns of a linear or convolution weight).
    """

    name: str
    ids: NDArray[np.int64]
    slots: dict[Slot, list[NDArray[np.int64]]]
    writers: tuple[Slot, ...]
    readers: tuple[Slot, ...]

    @cached_property
    def channels(self) -> int:
        """Output channels that one unit holds, over all writers."""
        return sum(len(self.slots[slot][0]) for slot in self.writers)

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class FixedSlot:
    """Indices of a slot that cannot be removed, with the reason in words."""

    slot: Slot
    indices: NDArray[np.int64]
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Everything that labelling found out about a program.

    Attributes:
        groups: By name, in the order of the graph.
        fixed: Slots, or parts of them, that cannot shrink.
        units: Unit id of every index of every slot; 0 where fixed.
        axes: Unit ids of the dimensions of every node's result (a list: one entry per result); only dimensions that
            can shrink are present.
        unit_count: Number of unit ids, the fixed 0 included.
    """

    groups: dict[str, Group]
    fixed: list[FixedSlot]
    units: dict[Slot, NDArray[np.int64]]
    axes: dict[str, list[dict[int, NDArray[np.int64]]]]
    unit_count: int

    def all_kept(self) -> Kept:
        """Masks that keep everything."""
        return {name: np.ones(len(group), dtype=bool) for name, group in self.groups.items()}

    def alive(self, kept: Mapping[str, Mask]) -> Mask:
        """Which unit ids are kept; unit 0, the fixed one, always is.

        Raises:
            GraphError: If a group is unknown or a mask has the wrong length.
        """
        alive = np.ones(self.unit_count, dtype=bool)
        for name, mask in kept.items():
            group = self.groups.get(name)
            if group is None:
                raise GraphError(f"the program has no channel group {name}")
            if len(mask) != len(group):
                raise GraphError(f"group {name} has {len(group)} units, the mask has {len(mask)}")
            alive[group.ids] = mask
        return alive

    @cached_property
    def total_channels(self) -> int:
        """Output channels of weights over all units: what channel density is a fraction of."""
        return sum(len(group) * group.channels for group in self.groups.values())

    def channel_density(self, kept: Mapping[str, Mask]) -> float:
        """Fraction of the removable output channels (filters) that are kept, in (0, 1]."""
        if not self.total_channels:
            return 1.0
        held = sum(
            int(kept[name].sum()) * g.channels if name in kept else len(g) * g.channels
            for name, g in self.groups.items()
        )
        return held / self.total_channels

    def slot_indices(self, alive: Mask) -> dict[Slot, NDArray[np.int64]]:
        """Indices that remain in every slot that loses some."""
        result = {}
        for slot, ids in self.units.items():
            mask = alive[ids]
            if not mask.all():
                result[slot] = np.flatnonzero(mask)
        return result


def find_groups(program: Program) -> Groups:
    """Label a program and collect its channel groups.

    Args:
        program: A traced program, with ``meta["val"]`` on its nodes.
    """
    labeller = Labeller()
    slots, values = _label(program, labeller)
    unit_of, reasons = _resolve(labeller)
    return _collect(program, slots, values, unit_of, reasons)


def _label(program: Program, labeller: Labeller) -> tuple[dict[Slot, Labels], dict[fx.Node, Any]]:
    slots: dict[Slot, Labels] = {}
    values: dict[fx.Node, Any] = {}
    known: dict[str, Value] = {}
    constants: dict[fx.Node, Tensor] = {}
    for node in program.graph.nodes:
        labeller.node = node.name
        result: Any = None
        if node.op == "placeholder":
            result = Value(shape_of(node.meta["val"]), (), None, "an input of the network")
        elif node.op == "get_attr":
            result = _tensor_value(program, node, labeller, slots, known, constants)
        elif node.op == "call_function":
            result = _call(node, labeller, values, constants)
        elif node.op == "output":
            for source in node.all_input_nodes:
                for value in _as_list(values.get(source)):
                    labeller.fix_value(value, "output of the network")
        else:
            raise GraphError(f"{node.op} {node.target} in the program is not supported")
        values[node] = result
        for value in _as_list(result):
            labeller.remember(value)
    return slots, values


def _as_list(value: Any) -> list[Value]:
    return value if isinstance(value, list) else [value] if isinstance(value, Value) else []


def _tensor_value(
    program: Program,
    node: fx.Node,
    labeller: Labeller,
    slots: dict[Slot, Labels],
    known: dict[str, Value],
    constants: dict[fx.Node, Tensor],
) -> Value | None:
    from edgespa.graph.labels import Block

    name = str(node.target)
    tensor = fetch(program.module, name)
    if not isinstance(tensor, Tensor):
        return None
    if not tensor.is_floating_point():
        constants[node] = tensor.detach()
        return Value(tuple(tensor.shape), (), None)
    if name not in known:
        blocks = []
        for dim, size in enumerate(tensor.shape):
            if size > 1:
                slots[Slot(name, dim)] = labeller.fresh(size)
                blocks.append(Block((dim,), slots[Slot(name, dim)]))
        known[name] = Value(tuple(tensor.shape), tuple(blocks), 0.0)
    return known[name]


def _call(node: fx.Node, labeller: Labeller, values: dict[fx.Node, Any], constants: dict[fx.Node, Tensor]) -> Any:
    if node.target.__name__ == "getitem":  # type: ignore[union-attr]
        source = values.get(node.args[0])  # type: ignore[arg-type]
        if isinstance(source, list) and isinstance(node.args[1], int):
            return source[node.args[1]] if node.args[1] < len(source) else None
        return None
    function = rule_for(node.target)
    if not isinstance(node.target, torch._ops.OpOverload):
        sources = [value for n in node.all_input_nodes for value in _as_list(values.get(n))]
        for value in sources:
            labeller.fix_value(value, f"{node.target} has no rule")
        result = node.meta.get("val")
        return Value(shape_of(result), (), None) if isinstance(result, Tensor) else None
    call = Call(node, labeller, values, constants, named_arguments(node))
    _fold_constant(node, constants)
    if node.target._schema.name in {"aten::sym_size", "aten::size", "aten::sym_numel", "aten::sym_stride"}:
        return None
    return function(call) if function is not None else unknown(call)


def _fold_constant(node: fx.Node, constants: dict[fx.Node, Tensor]) -> None:
    """Compute small integer tensors that depend on nothing but constants, so that indexing by them is understood."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex():
        return
    if not all(source in constants for source in node.all_input_nodes) or any(
        isinstance(s, torch.SymInt) for s in value.shape
    ):
        return
    if value.numel() > 1 << 22 or "rand" in str(node.target):
        return
    arguments, keywords = fx.node.map_arg((node.args, node.kwargs), lambda n: constants[n])
    constants[node] = node.target(*arguments, **keywords)  # type: ignore[operator]


def _resolve(labeller: Labeller) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Connected components of the labels, made rectangular; fixed ones become unit 0.

    Returns:
        Unit of every label, and the reason per *component* for the fixed ones (keyed by component + unit offset).
    """
    count = labeller.count
    edges = list(labeller.edges)
    while True:
        component = _components(count, edges)
        fixed = np.zeros(int(component.max()) + 1, dtype=bool)
        fixed[component[FIXED]] = True
        for fix in labeller.fixes:
            fixed[component[fix.labels]] = True
        more = [
            edge for labels, axis in labeller.joints.values() if (edge := _rectangle(labels, axis, component, fixed))
        ]
        if not more:
            break
        edges += more
    reasons: dict[int, str] = {}
    for fix in labeller.fixes:
        for item in np.unique(component[fix.labels]):
            known = reasons.get(int(item))
            if known is None or known.startswith("tied to"):
                reasons[int(item)] = _reason(fix)
    return np.where(fixed[component], -component - 1, component + 1).astype(np.int64), reasons


def _reason(fix: Fix) -> str:
    return f"{fix.reason} (at {fix.node})"


def _components(count: int, edges: Sequence[tuple[Labels, Labels]]) -> NDArray[np.int64]:
    rows = np.concatenate([one for one, _ in edges]) if edges else np.zeros(0, dtype=np.int32)
    columns = np.concatenate([other for _, other in edges]) if edges else np.zeros(0, dtype=np.int32)
    graph = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(count, count))
    components: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return components


def _rectangle(
    labels: Labels, preferred: int | None, component: NDArray[np.int64], fixed: Mask
) -> tuple[Labels, Labels] | None:
    """The edges that make a joint block depend on one dimension only, or None if it does already."""
    units = component[labels]
    units = np.where(fixed[units], -1, units)
    if (units == -1).all():
        return None
    varying = [axis for axis in range(units.ndim) if (units != units.take([0], axis)).any()]
    if len(varying) <= 1:
        return None
    keep = preferred if preferred in varying else max(varying, key=lambda axis: units.shape[axis])
    first = labels[tuple(slice(None) if axis == keep else slice(0, 1) for axis in range(labels.ndim))]
    one, other = np.broadcast_arrays(first, labels)
    # label 0 stands for "fixed" and takes its partners with it
    return one.ravel(), other.ravel()


def _collect(
    program: Program,
    slots: dict[Slot, Labels],
    values: dict[fx.Node, Any],
    unit_of: NDArray[np.int64],
    reasons: dict[int, str],
) -> Groups:
    raw = {slot: unit_of[labels] for slot, labels in slots.items()}
    used = np.unique(np.concatenate([ids[ids > 0] for ids in raw.values()])) if raw else np.zeros(0, dtype=np.int64)
    renumber = np.zeros(int(np.abs(unit_of).max()) + 1 if len(unit_of) else 1, dtype=np.int64)
    renumber[used] = np.arange(1, len(used) + 1)

    def final(labels: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(labels > 0, renumber[np.maximum(labels, 0)], 0)

    units = {slot: final(ids) for slot, ids in raw.items()}
    axes = {node.name: [_axes(value, unit_of, final) for value in _as_list(result)] for node, result in values.items()}
    signature = _signatures(units, axes, len(used) + 1)
    groups = _make_groups(units, signature, weight_outputs(program))
    fixed = _fixed_slots(raw, units, reasons)
    return Groups(groups, fixed, units, axes, len(used) + 1)


def _axes(
    value: Value, unit_of: NDArray[np.int64], final: Callable[[NDArray[np.int64]], NDArray[np.int64]]
) -> dict[int, NDArray[np.int64]]:
    """Unit ids per dimension of a value; a joint block has become a function of one of its dimensions."""
    found = {}
    for block in value.blocks:
        ids = final(unit_of[block.labels])
        if not ids.any():
            continue
        axis = 0
        if ids.ndim > 1:
            axis = next((a for a in range(ids.ndim) if (ids != ids.take([0], a)).any()), 0)
            ids = ids[tuple(slice(None) if a == axis else 0 for a in range(ids.ndim))]
        found[block.dims[axis]] = ids
    return found


def _signatures(
    units: Mapping[Slot, NDArray[np.int64]], axes: Mapping[str, list[dict[int, NDArray[np.int64]]]], count: int
) -> NDArray[np.uint64]:
    """A number per unit that two units share exactly if they live in the same slots and activations."""
    generator = np.random.default_rng(0)
    signature = np.zeros(count, dtype=np.uint64)
    arrays = [*units.values(), *(ids for results in axes.values() for dims in results for ids in dims.values())]
    for ids in arrays:
        present = np.unique(ids)
        signature[present[present > 0]] += generator.integers(1, 1 << 63, dtype=np.uint64)
    return signature


def weight_outputs(program: Program) -> dict[str, int]:
    """Tensors that are the weight of a linear, convolution or embedding operator, with their output dimension."""
    outputs: dict[str, int] = {}
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target._schema.name.split("::")[1]
        if not (name in {"linear", "embedding"} or name.startswith("conv")):
            continue
        arguments = named_arguments(node)
        weight = arguments.get("weight")
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            transposed = "transpose" in name or arguments.get("transposed") is True
            outputs.setdefault(str(weight.target), 1 if transposed or name == "embedding" else 0)
    return outputs


def _make_groups(
    units: Mapping[Slot, NDArray[np.int64]], signature: NDArray[np.uint64], outputs: Mapping[str, int]
) -> dict[str, Group]:
    members: dict[int, dict[Slot, tuple[NDArray[np.int64], NDArray[np.int64]]]] = defaultdict(dict)
    for slot, ids in units.items():
        indices = np.flatnonzero(ids)
        own = signature[ids[indices]]
        for key in dict.fromkeys(own.tolist()):  # in the order of their first index
            chosen = indices[own == key]
            members[key][slot] = (ids[chosen], chosen)
    groups: dict[str, Group] = {}
    for table in members.values():
        first = next((slot for slot in table if outputs.get(slot.tensor) == slot.dim), next(iter(table)))
        order = list(dict.fromkeys(table[first][0].tolist()))
        position = {unit: index for index, unit in enumerate(order)}
        slots: dict[Slot, list[NDArray[np.int64]]] = {}
        for slot, (ids, indices) in table.items():
            rank = np.array([position[unit] for unit in ids.tolist()])
            sorting = np.argsort(rank, kind="stable")
            counts = np.bincount(rank, minlength=len(order))
            slots[slot] = np.split(indices[sorting], np.cumsum(counts)[:-1])
        name = first.tensor.rpartition(".")[0] or first.tensor
        unique, number = name, 2
        while unique in groups:
            unique, number = f"{name}#{number}", number + 1
        writers = tuple(slot for slot in slots if outputs.get(slot.tensor) == slot.dim)
        readers = tuple(slot for slot in slots if slot.tensor in outputs and slot not in writers)
        groups[unique] = Group(unique, np.array(order, dtype=np.int64), slots, writers, readers)
    return groups


def _fixed_slots(
    raw: Mapping[Slot, NDArray[np.int64]], units: Mapping[Slot, NDArray[np.int64]], reasons: Mapping[int, str]
) -> list[FixedSlot]:
    fixed = []
    for slot, ids in raw.items():
        by_reason: dict[str, list[int]] = defaultdict(list)
        for index in np.flatnonzero(units[slot] == 0).tolist():
            by_reason[reasons.get(int(-ids[index] - 1), TIED)].append(index)
        fixed += [FixedSlot(slot, np.array(indices), reason) for reason, indices in by_reason.items()]
    return fixed
