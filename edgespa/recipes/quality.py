"""How well a task does on test data, recorded in it; nothing is chosen by that."""

from __future__ import annotations

from collections.abc import Mapping

from edgespa.adapt.learn import evaluated
from edgespa.base import Base
from edgespa.data import Prepared
from edgespa.evaluate import MEASURES
from edgespa.graph.program import Program
from edgespa.processes import ALONE, Processes
from edgespa.recipes.options import Progress
from edgespa.task import Task


def with_quality(
    task: Task,
    base: Base,
    test: Prepared,
    *,
    before: Mapping[str, Program] | None = None,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> Task:
    """The task with its result on test data among its metrics, such as ``test_accuracy``, and ``test_images``.

    Args:
        task: As it will be stored.
        base: That of the task.
        test: With labels or targets.
        before: Programs to compare with, of the same classes; that of ``base`` becomes ``base_test_accuracy``.
        progress: Told ``(done, total, text)`` in batches.
        processes: Each takes its part of every batch.
    """
    name = f"test_{MEASURES[test.kind]}"
    programs = {name: task.program(base), **{f"{key}_{name}": program for key, program in (before or {}).items()}}
    found = {key: evaluated(program, test, processes, progress) for key, program in programs.items()}
    return task.with_metrics(**found, test_images=float(len(test)))
