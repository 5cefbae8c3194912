"""``edgespa heal``, and what ``edgespa prune --heal`` does after pruning: from a cut task to one that is healed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from edgespa.adaptation.heal import BEFORE, HealConfig, did_harm, heal, original_of, unhealed
from edgespa.adaptation.original import Original
from edgespa.adaptation.tracking import Trackers
from edgespa.api.early import require_log_possible, require_outputs_possible, require_there
from edgespa.api.options import DataOptions, Progress, left_out_of
from edgespa.api.overlap import tell_overlap
from edgespa.api.quality import count_outputs, require_outputs, with_quality
from edgespa.config import Preprocess
from edgespa.data import ImageData, require_whole
from edgespa.data.tensors import prepare_for
from edgespa.distributed.processes import Processes
from edgespa.errors import UnfinishedError
from edgespa.objectives.evaluate import objective_for, require_answers
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task
from edgespa.tasks.unfinished import Unfinished, state_path

log = logging.getLogger(__name__)


def heal_to_file(
    start: Path,
    calibration: str,
    output: Path,
    config: HealConfig,
    *,
    original: Path | None = None,
    base: str | None = None,
    weights: str | None = None,
    trust: bool = False,
    options: DataOptions | None = None,
    evaluation: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    fresh: bool = False,
    command: Mapping[str, JsonValue] | None = None,
    log_file: Path | None = None,
    trackers: Trackers | None = None,
    progress: Progress | None = None,
) -> Task:
    """``edgespa heal``: train a cut task towards what it was before, and write its task file.

    The state lies beside the output, with the suffix ``.resume``, until the task file is written.

    Args:
        start: The task file.
        calibration: Samples; no labels are read.
        output: The task file that is written.
        config: How to heal.
        original: The task as it was before it was cut; needed for one that was learned. None for the base.
        base: Its base, if it is not where it was.
        weights: The weight file of the base.
        trust: The base that the task names may be run if it is code.
        options: How images become inputs; a task file records that.
        evaluation: Test data; what is measured on it, before and after, is recorded and never used to choose anything.
        overwrite: Replace a task file that is there.
        resume: Go on with an interrupted run, whose state has to be there.
        fresh: Start anew where there is the state of an interrupted run, which is given up.
        command: What the state says of the command that goes on with it, from `edgespa.tasks.unfinished.marked`.
        log_file: Gets a JSON document a line for each look at what is held out.
        trackers: Told the same, and what is measured in the end; the caller closes them.
        progress: Told ``(done, total, text)``.

    Returns:
        The task, as written.
    """
    options = options or DataOptions(seed=config.seed)
    require_there(
        model=str(start), weights=weights, data={"--calibration": calibration, "--eval-data": evaluation},
        tasks={"--original": original},
    )  # fmt: skip
    require_outputs_possible(output, overwrite=overwrite, resume=resume, fresh=fresh)
    require_log_possible(log_file)
    task = Task.load(start)
    opened = task.find_base(start.absolute().parent, base, weights, trust=trust)
    before = None if original is None else Task.load(original)
    towards = original_of(task, opened, before, "" if original is None else original.name)
    fitted = task.fit(opened)
    images = options.load(calibration, labelled=False)
    test = None
    if evaluation is not None:
        outputs = count_outputs(fitted.program)
        test = options.load(evaluation, outputs=outputs, measured=True)
        require_outputs(outputs, test)
    sets = {"--calibration": images, **({} if test is None else {"--eval-data": test})}
    require_whole(sets, progress)
    preprocess = options.preprocess_if_known(fitted, sets.values(), task.header.preprocess, calibration=calibration)
    prepared, seen = None, 0.0
    if test is not None:
        prepared = prepare_for(fitted.program, test, preprocess)
        require_answers(fitted.program, prepared, objective_for(prepared, fitted.detector))
        seen = tell_overlap(test, {"--calibration": prepare_for(fitted.program, images, preprocess)})
    healed = heal(
        opened,
        images,
        preprocess,
        config,
        output.absolute().parent,
        task,
        towards,
        checkpoint=state_path(output),
        resume=resume,
        log_file=log_file,
        trackers=trackers,
        progress=progress,
        facts={"command": command},
    )
    known = options.known(fitted, preprocess, [images], task.header.preprocess)
    healed = dataclasses.replace(healed, header=healed.header.model_copy(update={"preprocess": known}))
    healed = healed.with_provenance(**left_out_of(sets))
    if prepared is not None:
        uncut = {} if original is not None else {"base": towards.program}
        others = {**uncut, BEFORE: task.program(fitted)}
        healed = with_quality(healed, opened, prepared, seen=seen, progress=progress, before=others)
    if trackers is not None:
        trackers.figures(healed.header.metrics)
    healed.save(output)
    state_path(output).unlink(missing_ok=True)
    return healed


def cut_path(output: Path) -> Path:
    """Where a task lies that was pruned and is healed now, beside the state of that."""
    return output.with_name(output.name + ".cut")


def is_healing(output: Path) -> bool:
    """Whether the state of a run that prunes and heals is one of healing: pruning is behind.

    Args:
        output: What the run writes in the end.
    """
    return "epoch" in Unfinished.read(state_path(output)).facts


def pruned_before(output: Path) -> Task:
    """The pruned task of a run that is gone on with while it heals.

    Args:
        output: What the run writes in the end.

    Raises:
        UnfinishedError: It is not there any more.
    """
    path = cut_path(output)
    if not path.exists():
        raise UnfinishedError(f"{path}, which the state beside it goes on from, is gone", "start anew with --fresh")
    return Task.load(path)


def heal_pruned(
    task: Task,
    base: Base,
    images: ImageData,
    preprocess: Preprocess | None,
    config: HealConfig,
    output: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    facts: Mapping[str, Any] | None = None,
    trackers: Trackers | None = None,
) -> Task:
    """Heal a task that was pruned just now, towards its base; where that does harm, it stays as it was.

    Args:
        task: The task.
        base: Its base.
        images: Samples; no labels are read.
        preprocess: How an image becomes an input.
        config: How to heal.
        output: What is written in the end; the task lies beside it meanwhile, see `cut_path`.
        resume: Go on with a state of healing.
        progress: Told ``(done, total, text)``.
        facts: What the state says besides.
        trackers: Told how it goes; the caller closes them.
    """
    task.save(cut_path(output))
    healed = heal(
        base,
        images,
        preprocess,
        config,
        output.absolute().parent,
        task,
        Original.of_base(base),
        checkpoint=state_path(output),
        resume=resume,
        progress=progress,
        processes=Processes.start(config.mixed_precision),
        facts=facts,
        trackers=trackers,
    )
    if not did_harm(healed.header.metrics):
        return healed
    log.warning("it is written as it was pruned")
    return task.with_metrics(**unhealed(healed.header.metrics))
