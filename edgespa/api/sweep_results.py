"""What `edgespa.sweep` gives; see `edgespa.api.results`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from edgespa.api.results import Result
from edgespa.api.tables import Table
from edgespa.objectives.measures import Measure

State = Literal["made", "unchanged", "failed", "waiting"]


@dataclasses.dataclass(frozen=True)
class Swept:
    """One task of a sweep, as it is now.

    Attributes:
        name: Of the task; ``base`` of the unpruned network.
        state: ``made`` by this call; ``unchanged`` since an earlier one; ``failed``; ``waiting``: something is to be
            done that this call has not done.
        why: Why something was, or is, to be done; empty where nothing was.
        task: Its file; None where it is not there.
        task_bytes: Of that.
        bundle: Its folder; None where it is not there.
        quality: How well it does: of the test data, or else of the validation data.
        measure: What that is.
        of: ``test`` or ``validation``.
        files: Of the bundle: ``name``, ``size_bytes``, ``quality``.
        times: By device: ``ms`` of one inference with the fastest file, ``variant``, ``runtime``, ``clean``.
        seconds: That its stages took, when they were done.
        error: What failed.
        hint: What to do about it.
    """

    name: str
    state: State
    why: str = ""
    task: Path | None = None
    task_bytes: int | None = None
    bundle: Path | None = None
    quality: float | None = None
    measure: Measure | None = None
    of: str | None = None
    files: tuple[Mapping[str, Any], ...] = ()
    times: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None
    hint: str | None = None

    @property
    def smallest(self) -> int | None:
        """Bytes of the smallest file of its bundle."""
        return min((int(each["size_bytes"]) for each in self.files), default=None)


@dataclasses.dataclass(frozen=True, repr=False)
class SweepResult(Result):
    """Many tasks over one base, as far as they are.

    Attributes:
        path: The folder.
        sweep: The file that says them.
        base: The unpruned network; None where nothing is exported.
        tasks: In the order of the file.
        seconds: That the call took.
        done: Nothing is left to do.
        dry: It was only looked what there is to do.
    """

    path: Path
    sweep: Path
    base: Swept | None
    tasks: tuple[Swept, ...]
    seconds: float
    done: bool
    dry: bool = False

    @property
    def failed(self) -> tuple[Swept, ...]:
        """The tasks, and the base, that could not be done, or not all of it."""
        return tuple(each for each in self.all if each.state == "failed")

    @property
    def all(self) -> tuple[Swept, ...]:
        """The base, where it is exported, and the tasks."""
        return (*([] if self.base is None else [self.base]), *self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """As `edgespa sweep --json`."""
        return {
            "folder": str(self.path),
            "sweep": str(self.sweep),
            "base": None if self.base is None else _plain(self.base),
            "tasks": [_plain(each) for each in self.tasks],
            "seconds": self.seconds,
            "done": self.done,
            "dry": self.dry,
        }

    def _title(self) -> str:
        counts = Counter("to do" if self.dry and each.state == "waiting" else each.state for each in self.tasks)
        words = ", ".join(f"{count} {state}" for state, count in counts.items())
        count = f"{len(self.tasks)} task{'s' if len(self.tasks) != 1 else ''}"
        return f"{self.path}: {count} ({words}), {self.seconds:.1f} s"

    def _tables(self) -> Sequence[Table]:
        if self.dry:
            rows = tuple((each.name, each.why or "nothing to do") for each in self.all)
            return [Table(("task", "what is to be done, because of"), rows)]
        measures = {each.measure.title: None for each in self.tasks if each.measure is not None}
        title = " / ".join(measures) or "quality"
        devices = tuple(dict.fromkeys(name for each in self.all for name in each.times))
        columns = ("task", "state", title, "task KiB", "file KiB", *(f"ms {name}" for name in devices))
        whole: tuple[tuple[object, ...], ...] = tuple(
            (
                each.name,
                each.state,
                None if each.quality is None or each.measure is None else each.measure.figure(each.quality),
                _kib(each.task_bytes),
                _kib(each.smallest),
                *(f"{each.times[name]['ms']:.3g}" if name in each.times else None for name in devices),
            )
            for each in self.all
        )
        return [Table(columns, whole, right=columns[2:])]

    def _notes(self) -> Sequence[str]:
        notes = [f"{each.name}: {each.error}" + (f" ({each.hint})" if each.hint else "") for each in self.failed]
        if any(each.of == "validation" for each in self.tasks) and not self.dry:
            notes.append("without eval-data, quality is of the images that the best epoch was chosen on")
        return notes


def _kib(size: int | None) -> str | None:
    return None if size is None else f"{size / 1024:,.0f}"


def _plain(each: Swept) -> dict[str, Any]:
    return {
        "name": each.name,
        "state": each.state,
        "why": each.why,
        "task": None if each.task is None else str(each.task),
        "task_bytes": each.task_bytes,
        "bundle": None if each.bundle is None else str(each.bundle),
        "quality": each.quality,
        "measure": None if each.measure is None else vars(each.measure),
        "of": each.of,
        "files": [dict(one) for one in each.files],
        "times": {name: dict(one) for name, one in each.times.items()},
        "seconds": each.seconds,
        "error": each.error,
        "hint": each.hint,
    }
