"""The record of a sweep, ``sweep.json``: every task over one base, and what there is of it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from edgespa.config import Strict
from edgespa.findings.evaluation import Column
from edgespa.findings.stored import Finding
from edgespa.system.bounds import Count
from edgespa.trials.record import Number, Positive, Text

RECORD = "sweep.json"
"""In the folder of a sweep."""
TaskState = Literal["made", "unchanged", "failed", "waiting"]
Called = Annotated[str, Field(max_length=200)]
MOST_TASKS = 10_000
_MOST_FILES = 100


class SweptFile(Strict):
    """A file of a task's bundle: its name, its size, and how well it does by the measure of the task."""

    name: Called
    size_bytes: Count
    quality: Number | None = None


class SweptTime(Strict):
    """What an inference takes on a device, with the fastest file.

    Attributes:
        ms: The median.
        variant: Of the file.
        runtime: That ran it.
        clean: Whether nothing else ran meanwhile; None where that is not known.
    """

    ms: Positive
    variant: Called
    runtime: Called | None = None
    clean: bool | None = None


class SweptTask(Strict):
    """A task, or the base: see `edgespa.api.sweep_results.Swept`."""

    name: Called
    state: TaskState
    why: Text = ""
    task: Text | None = None
    task_bytes: Count | None = None
    bundle: Text | None = None
    quality: Number | None = None
    measure: Column | None = None
    of: Literal["test", "validation"] | None = None
    files: tuple[SweptFile, ...] = Field(default=(), max_length=_MOST_FILES)
    times: dict[Called, SweptTime] = Field(default_factory=dict, max_length=_MOST_FILES)
    seconds: Positive = 0.0
    error: Annotated[str, Field(max_length=20_000)] | None = None
    hint: Annotated[str, Field(max_length=20_000)] | None = None

    @property
    def smallest(self) -> int | None:
        """Bytes of the smallest file of its bundle."""
        return min((each.size_bytes for each in self.files), default=None)


class SweepRecord(Finding):
    """A sweep.

    Attributes:
        folder: Of all of it.
        sweep: The file that says what is wanted.
        base: The unpruned network; None where nothing is exported.
        tasks: In the order of the file.
        seconds: That the last call took.
        done: Nothing is left to do.
        dry: It was only looked what there is to do.
    """

    FORMAT: ClassVar[str] = "edgespa sweep"
    format: Literal["edgespa sweep"] = "edgespa sweep"
    format_version: Literal[1] = 1
    folder: Text
    sweep: Text
    base: SweptTask | None = None
    tasks: tuple[SweptTask, ...] = Field(default=(), max_length=MOST_TASKS)
    seconds: Positive = 0.0
    done: bool = False
    dry: bool = False

    @property
    def all(self) -> tuple[SweptTask, ...]:
        """The base, where there is one, and the tasks."""
        return (*([] if self.base is None else [self.base]), *self.tasks)
