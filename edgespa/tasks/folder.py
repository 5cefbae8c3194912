"""The task files of a folder over their bases: what each holds, what they cost together, and how two differ."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgespa.errors import BaseMismatchError, TaskFileError
from edgespa.models.imports import nearest_path
from edgespa.objectives.measured import Measured, measured
from edgespa.system.recognised import hint_of_task_folder
from edgespa.tasks.task import SUFFIX, Task

BYTES = 4  # of a parameter in float32


@dataclasses.dataclass(frozen=True)
class Entry:
    """One task file.

    Attributes:
        file: Its name in the folder.
        size_bytes: Of the file.
        adapter: The kind, with the type of its stored factors if that is not float32; None for a pruned model.
        channel_density: Fraction of the removable channels that are kept.
        parameter_density: Fraction of the base's parameters in the compact program.
        mac_density: The same of multiply-accumulates.
        validation: How well it does on the part of its training data that its best epoch was chosen on, if it is known.
        test: How well it does on test data, if it is known.
        alternative_bytes: What a separately fine-pruned model of this size takes: its parameters in float32.
        depth: Residual blocks that are kept and those of the base, as ``8 of 12``; None if all are kept.
    """

    file: str
    size_bytes: int
    adapter: str | None
    channel_density: float
    parameter_density: float
    mac_density: float
    validation: Measured | None
    test: Measured | None
    alternative_bytes: int
    depth: str | None = None

    @classmethod
    def of(cls, task: Task, path: Path) -> Entry:
        """The entry of a task file.

        Args:
            task: Its content.
            path: Where it lies.
        """
        figures, metrics, adapter = task.header.figures, task.header.metrics, task.header.adapter
        own = {each.kind: each for each in reversed(measured(metrics)) if not (each.of or each.store)}
        store = f" {adapter.store}" if adapter is not None and adapter.store != "fp32" else ""
        return cls(
            path.name,
            path.stat().st_size,
            f"{adapter.kind}{store}" if adapter else None,
            figures.channel_density,
            figures.parameters / max(figures.base_parameters, 1),
            figures.macs / max(figures.base_macs, 1),
            own.get("validation"),
            own.get("test"),
            BYTES * figures.parameters,
            depth_text(task),
        )


def depth_text(task: Task) -> str | None:
    """How many residual blocks a task keeps, as ``8 of 12``; None if it keeps all."""
    depth = task.header.depth
    return None if depth is None else f"{depth.blocks - len(depth.removed)} of {depth.blocks}"


@dataclasses.dataclass(frozen=True)
class Family:
    """Task files of one base.

    Attributes:
        base: How the base was named, by the first of them.
        digest: Of the base.
        base_bytes: The base's parameters in float32.
        entries: By file name.
    """

    base: str
    digest: str
    base_bytes: int
    entries: tuple[Entry, ...]

    @property
    def shared_bytes(self) -> int:
        """The base and all task files."""
        return self.base_bytes + sum(entry.size_bytes for entry in self.entries)

    @property
    def separate_bytes(self) -> int:
        """A fine-pruned model for each task instead."""
        return sum(entry.alternative_bytes for entry in self.entries)

    @property
    def break_even(self) -> int | None:
        """From how many tasks of this mean size on the base with task files is smaller; None if never."""
        saved = (self.separate_bytes - (self.shared_bytes - self.base_bytes)) / len(self.entries)
        return math.ceil(self.base_bytes / saved) if saved > 0 else None


@dataclasses.dataclass(frozen=True)
class Folder:
    """What `read_folder` finds.

    Attributes:
        families: The task files that can be read, by base.
        errors: One for each that cannot; it names the file.
    """

    families: tuple[Family, ...]
    errors: tuple[TaskFileError, ...]


def read_folder(folder: Path) -> Folder:
    """All task files of a folder.

    Args:
        folder: Where they lie; folders in it are not searched.

    Raises:
        TaskFileError: If there is no such folder, or no task file in it.
    """
    other = hint_of_task_folder(folder)
    if not folder.is_dir():
        what = "a file, not a folder" if folder.is_file() else "no such folder"
        raise TaskFileError(f"{folder}: {what}", other or nearest_path(folder) or "name a folder of task files")
    paths = sorted(path for path in folder.glob(f"*{SUFFIX}") if path.is_file())
    if not paths:
        made = "make one with: edgespa adapt or edgespa prune"
        raise TaskFileError(f"{folder}: no task files (*{SUFFIX})", other or made)
    found: dict[str, list[tuple[Task, Path]]] = {}
    errors: list[TaskFileError] = []
    for path in paths:
        try:
            task = Task.load(path)
        except TaskFileError as error:
            errors.append(error)
            continue
        found.setdefault(task.header.digest, []).append((task, path))
    families = (
        Family(
            _base_name(own[0][0]),
            digest,
            BYTES * own[0][0].header.figures.base_parameters,
            tuple(Entry.of(task, path) for task, path in own),
        )
        for digest, own in found.items()
    )
    return Folder(tuple(families), tuple(errors))


def _base_name(task: Task) -> str:
    return str(task.header.base.get("spec") or "")


@dataclasses.dataclass(frozen=True)
class Difference:
    """How two tasks of one base differ.

    Attributes:
        fields: What their headers say differently: name -> (of one, of the other).
        units_both: Units that both keep.
        units_one: Units that only the first keeps.
        units_other: Units that only the second keeps.
        tensors: Per tensor that both store in one shape ``|a - b| / |a|`` (Frobenius), without those that are equal.
        equal: Number of tensors that are equal.
        unlike: Number of tensors that only one stores, or that have different shapes.
    """

    fields: Mapping[str, tuple[Any, Any]]
    units_both: int
    units_one: int
    units_other: int
    tensors: Mapping[str, float]
    equal: int
    unlike: int

    @property
    def same(self) -> bool:
        """Whether they compute the same."""
        return not (self.units_one or self.units_other or self.tensors or self.unlike)


def compare(one: Task, other: Task) -> Difference:
    """Compare two tasks.

    Raises:
        BaseMismatchError: If they were made on different bases; with both digests.
        TaskFileError: If they keep different blocks, or group the base's channels differently, as tasks with different
            inserted operators do.
    """
    if one.header.digest != other.header.digest:
        raise BaseMismatchError(
            f"the tasks were made on different bases: {one.header.digest} and {other.header.digest}",
            "compare tasks of one base; see them with: edgespa tasks DIR",
        )
    if one.header.depth != other.header.depth:
        depths = " and ".join(depth_text(task) or "all" for task in (one, other))
        raise TaskFileError(f"the tasks keep different blocks: {depths}", "compare tasks of one depth")
    if one.header.units != other.header.units:
        raise TaskFileError("the tasks group the channels of their base differently", "make them with one version")
    both, first, second = 0, 0, 0
    for name, mask in one.kept.items():
        both += int(np.sum(mask & other.kept[name]))
        first += int(np.sum(mask & ~other.kept[name]))
        second += int(np.sum(~mask & other.kept[name]))
    mine, theirs = one.factors.flat(), other.factors.flat()
    distances, equal = {}, 0
    shared = [key for key in mine if key in theirs and mine[key].shape == theirs[key].shape]
    for key in shared:
        if torch.equal(mine[key], theirs[key]):
            equal += 1
        else:
            a, b = mine[key].double(), theirs[key].double()
            distances[key] = float((a - b).norm() / a.norm().clamp_min(1e-30))
    unlike = len(mine.keys() | theirs.keys()) - len(shared)
    return Difference(_fields(one, other), both, first, second, distances, equal, unlike)


def _fields(one: Task, other: Task) -> dict[str, tuple[Any, Any]]:
    """Leaves of the headers that differ, without times and the history of the training."""
    left, right = (_leaves(task.header.model_dump(mode="json")) for task in (one, other))
    ignored = ("created", "base.", "provenance.history", "provenance.lr_trials")
    return {
        key: (left.get(key), right.get(key))
        for key in dict.fromkeys((*left, *right))
        if left.get(key) != right.get(key) and not key.startswith(ignored)
    }


def _leaves(value: Any, path: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {".".join(path): value}
    return {key: leaf for name, own in value.items() for key, leaf in _leaves(own, (*path, str(name))).items()}
