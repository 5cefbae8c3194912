"""What each module of a network has: widths, parameters, MACs, the units in it, what is fixed there and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from edgespa.graph.groups import Kept, weight_outputs
from edgespa.graph.labels import Slot
from edgespa.graph.program import Program
from edgespa.graph.regions import module_stack
from edgespa.graph.rules.registry import operator_name
from edgespa.tasks.base import Base


def describe_modules(base: Base, kept: Kept | None = None) -> list[dict[str, Any]]:
    """The modules of a base that have parameters or cost MACs, in the order of its program.

    Args:
        base: A base, or what a task left of it.
        kept: The units of each group that a task keeps; None for all.

    Returns:
        For each its ``module`` (the path), ``operator``, ``channels`` it gives and ``parameters`` and ``macs``, and the
        same as they were: ``base_channels`` (None where it has no weight that gives channels), ``base_parameters``,
        ``base_macs``. What a task removed as a whole is there with zeros. ``group`` is the channel group of most of its
        channels, ``units`` how many of its channels can go, ``fixed`` how many cannot, and ``reason`` why not.
    """
    whole = base.whole or base
    whole = whole.wide or whole
    before, now = _read(whole, None), _read(base, kept)
    return [
        {
            "module": name,
            "operator": row["operator"],
            "channels": now.get(name, _GONE)["channels"] if row["channels"] is not None else None,
            "base_channels": row["channels"],
            **{
                key: value
                for kind in ("parameters", "macs")
                for key, value in ((kind, now.get(name, _GONE)[kind]), (f"base_{kind}", row[kind]))
            },
            **{key: row[key] for key in ("group", "units", "fixed", "reason")},
        }
        for name, row in before.items()
    ]


_GONE: Mapping[str, Any] = {"channels": 0, "parameters": 0, "macs": 0}


def _read(base: Base, kept: Kept | None) -> dict[str, dict[str, Any]]:
    macs, sizes = base.cost.node_macs(kept), base.cost.tensor_parameters(kept)
    alive = None if kept is None else base.groups.alive(kept)
    parameters = frozenset(sizes)
    tensors, outputs = dict(base.program.tensors()), weight_outputs(base.program)
    reasons = {each.slot: each.reason for each in base.groups.fixed}
    owners = {int(unit): name for name, group in base.groups.groups.items() for unit in group.ids}
    rows: dict[str, dict[str, Any]] = {}

    def row_of(name: str, node: fx.Node) -> dict[str, Any]:
        return rows.setdefault(
            name,
            {"operator": operator_name(node), "channels": None, "parameters": 0, "macs": 0}
            | {"group": None, "units": 0, "fixed": 0, "reason": None},
        )

    for node in base.program.graph.nodes:
        read = [str(each.target) for each in node.all_input_nodes if each.op == "get_attr"]
        own = [name for name in read if name in parameters]
        if not own and not macs.get(node.name):
            continue
        row = row_of(_module_of(node, own, base.program), node)
        row["macs"] += macs.get(node.name, 0)
        for name in own:
            place = row if node.name in macs or len(own) == 1 else row_of(_owner(name), node)
            place["parameters"] += sizes.pop(name, 0)  # once, whoever reads it again
            dim = outputs.get(name)
            if dim is not None and place["channels"] is None:
                slot = Slot(name, dim)
                ids = base.groups.units.get(slot)
                count = tensors[name].shape[dim]
                place["channels"] = count if alive is None or ids is None else int(alive[ids].sum())
                free = [] if ids is None else [owners[int(unit)] for unit in ids if int(unit) in owners]
                place["group"] = max(set(free), key=free.count) if free else None
                place["units"], place["fixed"] = len(free), count - len(free)
                place["reason"] = reasons.get(slot)
    return rows


def _module_of(node: fx.Node, parameters: list[str], program: Program) -> str:
    """Whose weights it reads; of what has none, where it was called."""
    tensors: dict[str, Tensor] = dict(program.tensors())
    wide = [name for name in parameters if tensors[name].dim() > 1] or parameters
    if wide:
        return _owner(wide[0])
    stack = module_stack(node)
    return f"{stack[-1][0]}.{operator_name(node)}" if stack and stack[-1][0] else str(node.name)


def _owner(tensor: str) -> str:
    """The module of a tensor; a parameter of the network itself is its own."""
    return tensor.rpartition(".")[0] or tensor
