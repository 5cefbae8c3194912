"""What can be removed from a model, what cannot and why, and what a task has removed: as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgespa.base import Base
from edgespa.graph.groups import Group, Kept
from edgespa.task import Task


def describe(base: Base) -> dict[str, Any]:
    """A model's channel groups.

    Returns:
        ``totals`` (parameters, macs, size_bytes), ``prunable`` (units, channels, and the shares of parameters and MACs
        that go when every group keeps one unit), ``groups`` with their ``slots``, and ``fixed``. A slot has a
        ``tensor``, a ``dim`` and ``units``: for each unit of the group the indices along that dimension. Zeroing these
        indices in every slot of a unit is what removing the unit is equal to.
    """
    whole = base.whole_cost
    least: Kept = {name: np.arange(len(group)) == 0 for name, group in base.groups.groups.items()}
    floor = base.cost.cost(least)
    return {
        "model": base.spec,
        "digest": base.digest,
        "input_shape": list(base.input_shape),
        "totals": {"parameters": whole.parameters, "macs": whole.macs, "size_bytes": whole.size_bytes},
        "prunable": {
            "groups": len(base.groups.groups),
            "units": sum(len(group) for group in base.groups.groups.values()),
            "channels": base.groups.total_channels,
            "parameter_share": 1 - floor.parameters / whole.parameters if whole.parameters else 0.0,
            "mac_share": 1 - floor.macs / whole.macs if whole.macs else 0.0,
        },
        "groups": [_group(base, group) for group in base.groups.groups.values()],
        "fixed": [
            {
                "tensor": fixed.slot.tensor,
                "dim": fixed.slot.dim,
                "indices": fixed.indices.tolist(),
                "reason": fixed.reason,
            }
            for fixed in base.groups.fixed
        ],
    }


def describe_task(task: Task, base: Base, path: Path) -> dict[str, Any]:
    """A task on its base: `describe`, with ``kept`` unit numbers in every group, and what the task file records."""
    result = describe(base)
    for group in result["groups"]:
        group["kept"] = np.flatnonzero(task.kept[group["name"]]).tolist()
    header = task.header
    result["task"] = {
        "file": str(path),
        "size_bytes": path.stat().st_size,
        "created": header.created,
        "edgespa_version": header.edgespa_version,
        "adapter": header.adapter.model_dump() if header.adapter else None,
        "outputs": header.outputs,
        "classes": list(header.classes),
        "preprocess": header.preprocess.model_dump() if header.preprocess else None,
        "figures": header.figures.model_dump(),
        "metrics": dict(header.metrics),
        "provenance": dict(header.provenance),
    }
    return result


def _group(base: Base, group: Group) -> dict[str, Any]:
    without = base.cost.cost({group.name: np.zeros(len(group), dtype=bool)})
    whole = base.whole_cost
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
