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
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from edgespa.errors import GraphError
from edgespa.graph.labelling import label_program, results_of
from edgespa.graph.labels import FIXED, TIED, Fix, Labeller, Labels, Slot, Value, components
from edgespa.graph.program import Program
from edgespa.graph.weights import weight_operands

__all__ = ["FixedSlot", "Group", "Groups", "Kept", "Mask", "Slot", "find_groups", "weight_outputs"]

NO_WRITER = "not written by a weight: there is no channel to remove"
Mask = NDArray[np.bool_]
Indices = NDArray[np.int64] | list[NDArray[np.int64]]  # of each unit; a list if units differ in their number
Kept = dict[str, Mask]  # group name -> which of its units are kept


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Units that share the same slots.

    Attributes:
        name: The module path of the first weight that writes the group's channels.
        ids: Unit ids in the order of their first index; position *k* of a mask is unit ``ids[k]``.
        slots: Per slot the indices of each unit, ``[units, indices per unit]``; a list of arrays where that is ragged.
        writers: The slots that are outputs of a weight (rows of a linear or convolution weight).
        readers: The slots that are inputs of a weight (columns of a linear or convolution weight).
    """

    name: str
    ids: NDArray[np.int64]
    slots: dict[Slot, Indices]
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
    def owner(self) -> NDArray[np.int64]:
        """The group of each unit id: 1 for the first, and so on; 0 where nothing can shrink."""
        found = np.zeros(self.unit_count, dtype=np.int64)
        for number, group in enumerate(self.groups.values(), 1):
            found[group.ids] = number
        return found

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


def find_groups(program: Program, *, widths: bool = False) -> Groups:
    """Label a program and collect its channel groups.

    Args:
        program: A traced program, with ``meta["val"]`` on its nodes.
        widths: In attention the units are dimensions that all heads have, instead of whole heads.
    """
    labeller = Labeller(widths=widths)
    slots, values = label_program(program, labeller)
    unit_of, reasons = _resolve(labeller)
    return _collect(program, slots, values, unit_of, reasons)


def _resolve(labeller: Labeller) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Connected components of the labels, made rectangular; fixed ones become unit 0.

    Returns:
        Unit of every label, and the reason per *component* for the fixed ones (keyed by component + unit offset).
    """
    count = labeller.count
    edges = list(labeller.edges)
    while True:
        component = components(edges, count)
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
    outputs = weight_outputs(program)
    blocks = [results_of(values[node])[0].block(dim) for node, dim in weight_operands(program)]
    written = [unit_of[block.labels].ravel() for block in blocks if block is not None]
    idle = (unit_of > 0) & ~np.isin(unit_of, np.concatenate([*written, np.zeros(0, dtype=np.int64)]))
    reasons = {**reasons, **dict.fromkeys((unit_of[idle] - 1).tolist(), NO_WRITER)}
    unit_of = np.where(idle, -unit_of, unit_of)
    raw = {slot: unit_of[labels] for slot, labels in slots.items()}
    used = np.unique(np.concatenate([ids[ids > 0] for ids in raw.values()])) if raw else np.zeros(0, dtype=np.int64)
    renumber = np.zeros(int(np.abs(unit_of).max()) + 1 if len(unit_of) else 1, dtype=np.int64)
    renumber[used] = np.arange(1, len(used) + 1)

    def final(labels: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(labels > 0, renumber[np.maximum(labels, 0)], 0)

    units = {slot: final(ids) for slot, ids in raw.items()}
    axes = {
        node.name: [_axes(value, unit_of, final) for value in results_of(result)] for node, result in values.items()
    }
    signature = _signatures(units, axes, len(used) + 1)
    groups = _make_groups(units, signature, outputs)
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
    for ids in arrays:  # a unit that occurs several times in an array is counted once: indexed addition is not repeated
        signature[ids] += generator.integers(1, 1 << 63, dtype=np.uint64)
    signature[0] = 0
    return signature


def weight_outputs(program: Program) -> dict[str, int]:
    """Tensors that an operator multiplies the data with as a weight, with their output dimension.

    Weights of linear, convolution and embedding operators, and parameters that are an operand of a matrix product, of
    an einsum, or the values of an attention; those that are computed from other parameters are not in it.
    """
    outputs: dict[str, int] = {}
    for operand, dim in weight_operands(program):
        if operand.op == "get_attr":
            outputs.setdefault(str(operand.target), dim)
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
    position = np.zeros(len(signature), dtype=np.int64)
    for table in members.values():
        first = next((slot for slot in table if outputs.get(slot.tensor) == slot.dim), next(iter(table)))
        order = np.array(list(dict.fromkeys(table[first][0].tolist())), dtype=np.int64)
        position[order] = np.arange(len(order))
        slots = {slot: _by_unit(indices, position[ids], len(order)) for slot, (ids, indices) in table.items()}
        name = first.tensor.rpartition(".")[0] or first.tensor
        unique, number = name, 2
        while unique in groups:
            unique, number = f"{name}#{number}", number + 1
        writers = tuple(slot for slot in slots if outputs.get(slot.tensor) == slot.dim)
        readers = tuple(slot for slot in slots if slot.tensor in outputs and slot not in writers)
        groups[unique] = Group(unique, order, slots, writers, readers)
    return groups


def _by_unit(indices: NDArray[np.int64], position: NDArray[np.int64], count: int) -> Indices:
    """The indices of each unit, ascending."""
    counts = np.bincount(position, minlength=count)
    ordered = indices[np.argsort(position, kind="stable")]
    if (counts == counts[0]).all():
        return ordered.reshape(count, -1)
    return np.split(ordered, np.cumsum(counts)[:-1])


def _fixed_slots(
    raw: Mapping[Slot, NDArray[np.int64]], units: Mapping[Slot, NDArray[np.int64]], reasons: Mapping[int, str]
) -> list[FixedSlot]:
    fixed = []
    for slot, ids in raw.items():
        indices = np.flatnonzero(units[slot] == 0)
        if not indices.size:
            continue
        own = ids[indices]
        by_reason: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
        for unit in np.unique(own).tolist():
            by_reason[reasons.get(-unit - 1, TIED)].append(indices[own == unit])
        fixed += [FixedSlot(slot, np.sort(np.concatenate(parts)), reason) for reason, parts in by_reason.items()]
    return fixed
