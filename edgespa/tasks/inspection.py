"""What can be removed from a model, what cannot and why, and what a task has removed: as plain values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node
from torch.nn import Parameter

from edgespa.graph.groups import FixedSlot, Group, Kept, Slot, weight_outputs
from edgespa.graph.labels import UNLABELLED
from edgespa.graph.rules.registry import named_arguments
from edgespa.models.inputs import as_inputs
from edgespa.tasks.base import Base
from edgespa.tasks.modules import describe_modules
from edgespa.tasks.task import Task


def describe(base: Base) -> dict[str, Any]:
    """A model's channel groups.

    Returns:
        ``totals`` (parameters, macs, size_bytes), ``prunable`` (units, channels, their share of all channels, and the
        shares of parameters and MACs that go when every group keeps one unit), ``groups`` with their ``slots``,
        ``blocks``, ``layers`` and ``fixed``. Of a base without some of its blocks, all this is of the rest, and
        ``removed`` names the others.

        A slot has a ``tensor``, a ``dim`` and ``units``: for each unit of the group the indices along that dimension.
        Zeroing these indices in every slot of a unit is what removing the unit is equal to.

        ``layers`` are the weights in the order of the program, each with its operator and its dimensions ``in`` and
        ``out``; of any other parameter that has several dimensions these are the first and the last.

        ``modules`` is what each module costs and has, see `edgespa.tasks.modules.describe_modules`.

        What is fixed has a ``reason`` in full, its ``cause`` (the reason behind the reason), and a ``kind``:
        ``kernel`` (the extent of a kernel), ``boundary`` (an input or output of the network) or ``inner``. Channels
        are output channels of weights, those that are outputs of the network aside.
    """
    whole = base.cost.cost()
    least: Kept = {name: np.arange(len(group)) == 0 for name, group in base.groups.groups.items()}
    floor = base.cost.cost(least)
    layers = _layers(base)
    fixed = [_fixed(each) for each in base.groups.fixed]
    removable, channels = _channels(base, layers, fixed)
    return {
        "model": base.spec,
        "digest": base.digest,
        "input_shape": list(base.input_shape),
        "inputs": [str(each) for each in as_inputs(base.input_sizes)],
        "totals": {"parameters": whole.parameters, "macs": whole.macs, "size_bytes": whole.size_bytes},
        "prunable": {
            "groups": len(base.groups.groups),
            "units": sum(len(group) for group in base.groups.groups.values()),
            "channels": removable,
            "all_channels": channels,
            "channel_share": removable / channels if channels else 0.0,
            "parameter_share": 1 - floor.parameters / whole.parameters if whole.parameters else 0.0,
            "mac_share": 1 - floor.macs / whole.macs if whole.macs else 0.0,
        },
        "groups": [_group(base, group) for group in base.groups.groups.values()],
        "blocks": describe_blocks(base),
        "removed": list(base.removed),
        "layers": layers,
        "modules": describe_modules(base),
        "fixed": fixed,
    }


def describe_blocks(base: Base) -> list[dict[str, Any]]:
    """The repeated residual blocks of a model, in the order of the program.

    Returns:
        Each with its ``name``, the ``kind`` of its module, its ``stage``, the ``shape`` of its output without the
        batch, whether it is ``removable``, the ``reason`` if not, and the ``parameters`` and ``macs`` that go with it.
    """
    macs = base.cost.node_macs()
    readers: dict[str, set[str]] = {}
    for node in base.program.graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(str(node.target), set()).update(user.name for user in node.users)
    sizes = {name: tensor.numel() for name, tensor in base.program.tensors() if isinstance(tensor, Parameter)}
    return [
        {
            "name": block.name,
            "kind": block.kind,
            "stage": block.stage,
            "shape": list(block.shape),
            "removable": block.removable,
            "reason": block.reason,
            "parameters": sum(size for name, size in sizes.items() if readers[name] <= block.nodes),
            "macs": sum(macs.get(name, 0) for name in block.nodes),
        }
        for block in base.blocks
    ]


def describe_task(task: Task, base: Base, path: Path) -> dict[str, Any]:
    """A task on its base: `describe`, with ``kept`` unit numbers in every group, and what the task file records."""
    result = describe(base)
    for group in result["groups"]:
        group["kept"] = np.flatnonzero(task.kept[group["name"]]).tolist()
    result["modules"] = describe_modules(base, task.kept)
    header = task.header
    result["task"] = {
        "file": str(path),
        "size_bytes": path.stat().st_size,
        "created": header.created,
        "edgespa_version": header.edgespa_version,
        "adapter": header.adapter.model_dump() if header.adapter else None,
        "outputs": header.outputs,
        "depth": header.depth.model_dump() if header.depth else None,
        "head_widths": dict(header.widths),
        "classes": list(header.classes),
        "preprocess": header.preprocess.model_dump() if header.preprocess else None,
        "figures": header.figures.model_dump(),
        "metrics": dict(header.metrics),
        "provenance": dict(header.provenance),
    }
    return result


def _group(base: Base, group: Group) -> dict[str, Any]:
    without = base.cost.cost({group.name: np.zeros(len(group), dtype=bool)})
    whole = base.cost.cost()
    return {
        "name": group.name,
        "units": len(group),
        "channels_per_unit": group.channels,
        "parameters": whole.parameters - without.parameters,
        "macs": whole.macs - without.macs,
        "slots": [
            {"tensor": slot.tensor, "dim": slot.dim, "units": [indices.tolist() for indices in units]}
            for slot, units in group.slots.items()
        ],
    }


def _layers(base: Base) -> list[dict[str, Any]]:
    """Weights, and what else may have channels along two of its dimensions, in the order of their first use."""
    tensors = dict(base.program.tensors())
    outputs = weight_outputs(base.program)
    layers: dict[str, dict[str, Any]] = {}
    for node in base.program.graph.nodes:
        for source in node.all_input_nodes:
            name = str(source.target)
            if source.op == "get_attr" and name in tensors and name not in layers:
                layer = _layer(node, source, tensors[name], outputs.get(name))
                if layer is not None:
                    layers[name] = layer
    return list(layers.values())


def _layer(node: Node, source: Node, tensor: Tensor, writes: int | None) -> dict[str, Any] | None:
    """A tensor as a layer, by the node that uses it first; None for one that has channels along one dimension only."""
    arguments = named_arguments(node) if isinstance(node.target, OpOverload) else {}
    operator = node.target.overloadpacket.__name__ if isinstance(node.target, OpOverload) else str(node.target)
    wide = [dim for dim, size in enumerate(tensor.shape) if size > 1 and dim != writes]
    if writes is None:
        if len(wide) < 2 or not isinstance(tensor, Parameter) or not tensor.is_floating_point():
            return None
        operator, reads, writes = "parameter", wide[0], wide[-1]
    elif source is arguments.get("weight"):  # of a convolution the input channels, one though they be, not the kernel
        reads = 1 - writes
    else:
        reads = wide[0] if wide else writes
    groups = int(arguments.get("groups") or 1) if source is arguments.get("weight") else 1
    shape = list(tensor.shape)
    return {
        "tensor": str(source.target),
        "operator": operator,
        "shape": shape,
        "in": reads,
        "out": writes,
        "groups": groups,
    }


def _fixed(fixed: FixedSlot) -> dict[str, Any]:
    cause = root_cause(fixed.reason)
    kind = "kernel" if cause == _KERNEL else "boundary" if cause in _BOUNDARY else "inner"
    return {
        "tensor": fixed.slot.tensor,
        "dim": fixed.slot.dim,
        "indices": fixed.indices.tolist(),
        "reason": fixed.reason,
        "cause": cause,
        "kind": kind,
    }


def root_cause(reason: str) -> str:
    """The reason behind a reason: what keeps the tensor from shrinking that a slot meets, else the reason itself.

    Args:
        reason: Of a fixed slot, for example ``multiplied (linear) with a tensor that cannot shrink there (layer_norm
            statistics over the channels) (at linear_3)``, whose cause is ``layer_norm statistics over the channels``.
    """
    reason = re.sub(r" \(at [^()]*\)$", "", reason)
    _, met, behind = reason.partition(UNLABELLED)
    if met and behind.startswith(" (") and behind.endswith(")"):
        return root_cause(behind[2:-1])
    return _BOUNDARY[0] if reason.endswith(_BOUNDARY[0]) else reason


_KERNEL = "kernel extent"
_BOUNDARY = ("input of the network", "output of the network")


def _channels(base: Base, layers: list[dict[str, Any]], fixed: list[dict[str, Any]]) -> tuple[int, int]:
    """Output channels of weights that can go, and all of them; outputs of the network are not counted."""
    outer = {(each["tensor"], each["dim"]): len(each["indices"]) for each in fixed if each["cause"] == _BOUNDARY[1]}
    removable = total = 0
    for layer in layers:
        if layer["operator"] != "parameter":
            slot = Slot(layer["tensor"], layer["out"])
            total += layer["shape"][slot.dim] - outer.get(slot, 0)
            removable += int((base.groups.units[slot] > 0).sum()) if slot in base.groups.units else 0
    return removable, total
