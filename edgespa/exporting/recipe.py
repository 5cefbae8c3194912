"""How a task's weights are made of its base and its task file where neither torch nor the graph is at hand.

A recipe is JSON: bit masks, and for each tensor of the compact program where it comes from, which indices are kept, and
how the adapter changes it. `edgespa.device.runner.materialise` follows it with numpy. What that does not give as it
should be (a plugin's adapter, a constant that compaction rewrote) is stored whole beside it: it is right or it is
there.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
from numpy.typing import NDArray

from edgespa.adapters.base import Adapter
from edgespa.adapters.lowrank import LowRank
from edgespa.adapters.mixing import Mixing
from edgespa.adapters.repadapter import RepAdapter
from edgespa.adapters.splopa import SPLoPA
from edgespa.adapters.ssf import SSF
from edgespa.bundle import Weights
from edgespa.device import runner
from edgespa.graph.program import Program
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

Array = NDArray[Any]

RECIPE, TASK, REST = "recipe.json.gz", "task.spa.gz", "rest.safetensors"
LIMIT = 1e-6
"""Largest difference of a tensor from the program's, relative to its largest value: another order of summation."""
_KEY = "edgespa-base"


def base_file(base: Base) -> bytes:
    """The tensors of a base as a safetensors file: what devices keep once for all its tasks.

    Args:
        base: As `Task.find_base` gives it: with its own head, all its blocks and nothing inserted.
    """
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in base.program.state().items()}
    return safetensors.torch.save(tensors, {_KEY: base.digest})


@dataclasses.dataclass(frozen=True)
class Made:
    """What was written for the weights of a task.

    Attributes:
        weights: For the manifest.
        whole: Names of the tensors that are stored whole because the recipe does not make them.
        error: The largest difference of the others, see `LIMIT`.
    """

    weights: Weights
    whole: tuple[str, ...]
    error: float


def write_recipe(
    folder: Path, task: Task, base: Base, program: Program, names: tuple[str, ...], sha256: str, size: int
) -> Made:
    """Write what a task's weights are made of, and follow it, as the device will, to see that it is right.

    Args:
        folder: Of the bundle; the packed task file lies there under the name `TASK`, the base file as `runner.BASE`.
        task: The task.
        base: Its base, fitted.
        program: The task's merged program, in float32.
        names: The tensors that are needed.
        sha256: Of the base file.
        size: Of the base file, in bytes.
    """
    state = program.state()
    wanted = {name: state[name].detach().cpu().numpy() for name in names}
    made_bytes = sum(array.nbytes for array in wanted.values())
    weights = Weights(recipe=RECIPE, task=TASK, base_sha256=sha256, base_size_bytes=size, made_bytes=made_bytes)
    entries, masks = _entries(folder, task, base, wanted)
    _write(folder / RECIPE, entries, masks)
    found = runner.materialise(folder, {"name": "onnx-fp32", "weights": weights.model_dump()})
    errors = {name: _difference(found[name], wanted[name]) for name in entries}
    whole = {name: wanted[name] for name in names if errors.get(name, np.inf) > LIMIT}
    if whole:
        kept = {name: entry for name, entry in entries.items() if name not in whole}
        kept.update({name: {"from": "rest", "name": name} for name in whole})
        _write(folder / RECIPE, kept, masks)
        safetensors.numpy.save_file(whole, folder / REST)
        weights = weights.model_copy(update={"rest": REST})
    return Made(weights, tuple(whole), max((errors[name] for name in errors if name not in whole), default=0.0))


def _difference(found: Array, wanted: Array) -> float:
    """Largest difference, relative to the largest value; infinite where even the shape or the type is another."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    if np.array_equal(found, wanted):
        return 0.0
    if wanted.dtype.kind != "f":
        return float("inf")
    top = float(np.abs(wanted).max(initial=0.0))
    error = float(np.abs(found.astype(np.float64) - wanted).max())
    return error / top if top and np.isfinite(error) else float("inf")


def _write(path: Path, entries: Mapping[str, Any], masks: list[list[Any]]) -> None:
    text = json.dumps({"version": 1, "masks": masks, "tensors": entries}, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _entries(folder: Path, task: Task, base: Base, wanted: Mapping[str, Array]) -> tuple[dict[str, Any], list[Any]]:
    """The recipe of each tensor that has one, and the masks that they speak of."""
    there = {side: runner.read_tensors(folder / name) for side, name in (("base", runner.BASE), ("task", TASK))}
    adapted = task.adapted(base)
    masks: list[list[Any]] = []
    keep: dict[str, list[list[int]]] = {}
    for slot, indices in base.groups.slot_indices(base.groups.alive(task.kept)).items():
        if slot.tensor not in wanted or slot.tensor not in there["base"]:
            continue
        count = len(base.groups.units[slot])
        if there["base"][slot.tensor].shape[slot.dim : slot.dim + 1] != (count,):  # the task has another head
            continue
        bits = np.zeros(count, dtype=bool)
        bits[indices] = True
        mask = [count, np.packbits(bits).tobytes().hex()]
        if mask not in masks:
            masks.append(mask)
        keep.setdefault(slot.tensor, []).append([slot.dim, masks.index(mask)])
    entries: dict[str, Any] = {}
    for name, array in wanted.items():
        entry: dict[str, Any]
        if f"tensor/{name}" in there["task"]:
            entry = {"from": "task", "name": f"tensor/{name}"}
        elif name in there["base"]:
            entry = {"from": "base", "name": name}
            if name in keep:
                entry["keep"] = keep[name]
            if name in adapted.adapted:
                how = _change(adapted.adapter_of(name))
                if how is None:
                    continue
                entry["adapter"] = how
                if how["kind"] == "mixed":  # of all filters and channels
                    entry.pop("keep", None)
        else:
            continue
        if there[entry["from"]][entry["name"]].dtype != array.dtype:
            entry["dtype"] = str(array.dtype)
        entries[name] = entry
    return entries, masks


def _change(adapter: Adapter) -> dict[str, Any] | None:
    """What an adapter does to its weight in the words of a recipe; None for one that has no such words."""
    if isinstance(adapter, LowRank):
        return {"kind": "low-rank", "kernel": adapter.kernel, "scale": adapter.scale}
    if isinstance(adapter, SSF):
        return {"kind": "scale"}
    if isinstance(adapter, RepAdapter):
        return {"kind": "before", "in_dim": adapter.in_dim, "scale": adapter.scale}
    if isinstance(adapter, SPLoPA):
        return {"kind": "prototypes"}
    if isinstance(adapter, Mixing):
        return {"kind": "mixed" if adapter.change is None else "added"}
    return None
