"""How well a task does on test data, recorded in it; nothing is chosen by that."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from edgespa.adapt.learn import evaluated
from edgespa.base import Base
from edgespa.data import Prepared
from edgespa.evaluate import MEASURES
from edgespa.graph.program import Program
from edgespa.processes import ALONE, Processes
from edgespa.recipes.options import Progress
from edgespa.task import Task

log = logging.getLogger(__name__)


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
    if test.kind == "regression" and found[name] < 0:
        log.warning(
            "%s: R2 is %.3g, and the mean of these targets has 0: what was learned does not hold here; see that the "
            "data are like those that were trained on, in the same units, or train longer or with a lower --lr",
            test.name,
            found[name],
        )
    return task.with_metrics(**found, test_images=float(len(test)))
