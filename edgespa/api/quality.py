"""How well a task does on test data, recorded in it; nothing is chosen by that."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from edgespa.adaptation.learn import evaluated
from edgespa.api.options import Progress
from edgespa.data import ImageData, Prepared, are_numbers, why_counts_differ
from edgespa.distributed.processes import ALONE, Processes
from edgespa.errors import ConfigError
from edgespa.graph.program import Program
from edgespa.models.interface import output_tensors
from edgespa.objectives.evaluate import objective_for
from edgespa.objectives.measured import SEEN
from edgespa.objectives.taught import taught
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

log = logging.getLogger(__name__)


def count_outputs(program: Program) -> int | None:
    """How many numbers a program gives for an image; None where that is no list."""
    with torch.no_grad():
        outputs = output_tensors(program(*program.example_inputs()))[0]
    return int(outputs.shape[1]) if outputs.dim() == 2 else None


def count_channels(program: Program) -> int | None:
    """How many maps a program gives for an image; None where it gives none."""
    with torch.no_grad():
        first = output_tensors(program(*program.example_inputs()))[0]
    return int(first.shape[1]) if first.dim() == 4 and max(first.shape[2:]) > 1 else None


def require_outputs(outputs: int | None, data: ImageData) -> None:
    """Refuse labelled data whose classes are not the outputs of a model.

    Args:
        outputs: From `count_outputs`; where they are no list, `edgespa.objectives.evaluate.require_answers` says more.
        data: It is known what is right; where that is no row of a table, nothing is refused here.

    Raises:
        ConfigError: It says what may be the matter.
    """
    if outputs is None or not (data.has_table and data.answered) or outputs == len(data.classes):
        return
    if data.kind != "classes":
        raise ConfigError(
            f"the model has {outputs} outputs, {data.name} has {len(data.classes)} columns of targets",
            "give a target for each output",
        )
    raise ConfigError(
        f"the model has {outputs} outputs, {data.name} has {len(data.classes)} classes",
        why_counts_differ(outputs, len(data.classes), numbers=are_numbers(data.classes)),
    )


def with_quality(
    task: Task,
    base: Base,
    test: Prepared,
    *,
    before: Mapping[str, Program] | None = None,
    seen: float = 0.0,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> Task:
    """The task with its results on test data among its metrics, such as ``test_accuracy``, and ``test_images``.

    Args:
        task: As it will be stored.
        base: That of the task.
        test: Of which it is known what is right.
        seen: The share of the test data that the task was made with, from `edgespa.api.overlap.tell_overlap`.
        before: Programs to compare with, of the same classes; that of ``base`` becomes ``base_test_accuracy``.
        progress: Told ``(done, total, text)`` in batches.
        processes: Each takes its part of every batch.
    """
    base = task.fit(base)
    objective = objective_for(test, base.detector)
    test = taught(test, objective, (base.whole or base).program)
    own = evaluated(task.program(base), test, processes, progress, objective=objective)
    found = dict(own.named("test"))
    for key, program in (before or {}).items():
        found.update(evaluated(program, test, processes, progress, objective=objective).named(f"{key}_test"))
    if test.kind == "regression" and own.value < 0:
        log.warning(
            "%s: R2 is %.3g, and the mean of these targets has 0: what was learned does not hold here; see that the "
            "data are like those that were trained on, in the same units, or train longer or with a lower --lr",
            test.name,
            own.value,
        )
    shares = {SEEN: seen} if seen or SEEN in task.header.metrics else {}
    return task.with_metrics(**found, test_images=float(len(test)), **shares)
