"""``edgespa adapt`` and ``edgespa prune`` as one call each: from a model and data to a task file."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.heal import BEFORE, HealConfig, is_healed
from edgespa.adaptation.held_out import fitted_on
from edgespa.adaptation.learn import adapt
from edgespa.adaptation.teacher import load_teacher
from edgespa.adaptation.tracking import Trackers
from edgespa.api.classes import of_classes, tell_imbalance
from edgespa.api.early import require_log_possible, require_outputs_possible, require_there
from edgespa.api.healing import cut_path, heal_pruned, is_healing, pruned_before
from edgespa.api.options import DataOptions, Progress, left_out_of
from edgespa.api.overlap import tell_overlap
from edgespa.api.quality import count_outputs, require_outputs, with_quality
from edgespa.data import ImageData, require_whole, why_counts_differ
from edgespa.data.tensors import prepare_for
from edgespa.distributed.processes import Processes
from edgespa.distributed.ranks import is_main
from edgespa.errors import ConfigError
from edgespa.latency.budget import LatencyFitting
from edgespa.latency.stopwatch import LatencyBudget
from edgespa.latency.told import with_foretold
from edgespa.models.inputs import InputSizes
from edgespa.objectives.evaluate import objective_for, require_answers
from edgespa.objectives.taught import taught
from edgespa.pruning import PruneConfig, prune
from edgespa.system.quiet import NOTE
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task, is_task_file
from edgespa.tasks.unfinished import Unfinished, state_path

log = logging.getLogger(__name__)

_SPOKEN = MappingProxyType({"evaluation": "eval-data", "calibration": "calibration", "held_out": "held-out"})


def adapt_to_file(
    model: str | None,
    data: str,
    output: Path,
    config: AdaptConfig,
    *,
    input_shape: InputSizes | None = None,
    weights: str | None = None,
    trust: bool = False,
    options: DataOptions | None = None,
    evaluation: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    fresh: bool = False,
    command: Mapping[str, JsonValue] | None = None,
    distill: str | None = None,
    start: Path | None = None,
    log_file: Path | None = None,
    trackers: Trackers | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
    latency: LatencyBudget | None = None,
    validation: str | None = None,
) -> Task:
    """``edgespa adapt``: learn a task and write its task file.

    The state lies beside the output, with the suffix ``.resume``, until the task file is written.

    Args:
        model: A model spec; None for the base of ``start``.
        data: Training data.
        output: The task file.
        config: How to adapt.
        input_shape: Sizes of the model's inputs.
        weights: Its weight file.
        trust: The base that ``start`` names may be run if it is code.
        options: How images become inputs.
        evaluation: Test data; what is measured on it is recorded and never used to choose anything.
        overwrite: Replace a task file that is there.
        resume: Go on with an interrupted run, whose state has to be there.
        fresh: Start anew where there is the state of an interrupted run, which is given up.
        command: What the state says of the command that goes on with it, from `edgespa.tasks.unfinished.marked`.
        distill: Whose outputs are distilled: ``base``, or a task file of the same base.
        start: A task file to start from: of one that ``edgespa prune`` made the units and blocks are gone, and its
            weights are the frozen ones; one that was adapted is trained further.
        log_file: Gets a JSON document a line for each pruning step and each epoch.
        trackers: Told the same, and what is measured in the end; the caller closes them.
        progress: Told ``(done, total, text)``.
        processes: Those that share the training; by default those that were launched. The main one writes.
        latency: Find the density by it, as a fraction of the MACs; that of the configuration does not count.
        validation: Data to choose the best epoch on; None for a part of the training data.

    Returns:
        The task, as written.
    """
    options = options or DataOptions(seed=config.seed)
    require_there(
        model=model, weights=weights, data={"--data": data, "--eval-data": evaluation, "--validation-data": validation}
    )
    if is_main():
        require_outputs_possible(output, overwrite=overwrite, resume=resume, fresh=fresh)
        require_log_possible(log_file)
    processes = processes or Processes.start(config.mixed_precision)
    begin = Task.load(start) if start is not None else None
    base = _base_of(model, input_shape, weights, begin, start, trust)
    config = config.model_copy(update={"objective": options.objective})
    train = options.load(data, outputs=base.outputs())
    test = options.load(evaluation, outputs=base.outputs(), measured=True) if evaluation else None
    whole = dataclasses.replace(options, limit=None)
    own = whole.load(validation, outputs=base.outputs()) if validation else None
    test, own = (of_classes(train, each) if each is not None else None for each in (test, own))
    named = {"--data": train, "--eval-data": test, "--validation-data": own}
    given = {option: each for option, each in named.items() if each is not None}
    if processes.is_main:
        require_whole(given, progress)
        tell_imbalance(train, weighed=config.class_weights != "none")
    if begin is None and config.head == "auto" and (outputs := base.outputs()) is not None:
        _tell_off_by_one(base, outputs, train)
    recorded = begin.header.preprocess if begin is not None else None
    sets = [each for each in (train, test, own) if each is not None]
    preprocess = options.preprocess_if_known(base, sets, recorded)
    images = prepare_for(base.program, train, preprocess)
    # What is wrong with it is told now.
    test_data = prepare_for(base.program, test, preprocess) if test is not None else None
    seen = tell_overlap(test, {"--data": images}) if test is not None and processes.is_main else 0.0
    with LatencyFitting.of(latency, base, images, preprocess, progress) as fitting:
        if latency is not None:
            fitting.take(_facts_of(output, resume).get("latency"))
            config = fitting.for_adapting(config, begin is not None, processes)
        task = adapt(
            base,
            train,
            preprocess,
            config,
            output.absolute().parent,
            checkpoint=state_path(output),
            resume=resume,
            teacher=load_teacher(distill, base) if distill else None,
            start=begin,
            log_file=log_file,
            trackers=trackers,
            progress=progress,
            processes=processes,
            facts={"command": command, "latency": fitting.record()},
            validation=own,
            choose=fitting.choose,
        )
        if processes.is_main:
            task = with_foretold(fitting.recorded(task), base)
    known = options.known(base, preprocess, [train], recorded)
    task = dataclasses.replace(task, header=task.header.model_copy(update={"preprocess": known}))
    task = task.with_provenance(**left_out_of(given))
    if test_data is not None:
        task = with_quality(task, base, test_data, seen=seen, progress=progress, processes=processes)
    if processes.is_main:
        if trackers is not None:
            trackers.figures(task.header.metrics)
        task.save(output)
        state_path(output).unlink(missing_ok=True)
    return task


def _base_of(
    model: str | None,
    input_shape: InputSizes | None,
    weights: str | None,
    start: Task | None,
    path: Path | None,
    trust: bool,
) -> Base:
    if start is not None and path is not None and (model is None or input_shape is None):
        return start.open_base(path.absolute().parent, model, weights, trust=trust)
    if model is None:
        raise ConfigError("no model is named", "name a MODEL, or a pruned task to start from with --from")
    return Base.open(model, input_shape, weights)


def prune_to_file(
    model: str,
    output: Path,
    config: PruneConfig,
    *,
    input_shape: InputSizes | None = None,
    weights: str | None = None,
    options: DataOptions | None = None,
    calibration: str | None = None,
    held_out: str | None = None,
    evaluation: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    fresh: bool = False,
    command: Mapping[str, JsonValue] | None = None,
    progress: Progress | None = None,
    latency: LatencyBudget | None = None,
    healing: HealConfig | None = None,
    trackers: Trackers | None = None,
) -> Task:
    """``edgespa prune``: remove units without training and write a task file.

    The state of a front-to-back pass lies beside the output, with the suffix ``.resume``, until the task file is
    written.

    Args:
        model: A model spec.
        output: The task file.
        config: How to prune.
        input_shape: Sizes of the model's inputs.
        weights: Its weight file.
        options: How images become inputs; without images, mean and std are recorded if given.
        calibration: Images that units are chosen by, and new weights fitted on; labels are not looked at, but by
            act-grad.
        held_out: Labelled images, for the allocation ``equal-accuracy``.
        evaluation: Test data; what is measured on it, before and after, is recorded and never used to choose anything.
        overwrite: Replace a task file that is there.
        resume: Go on with an interrupted run, whose state has to be there.
        fresh: Start anew where there is the state of an interrupted run, which is given up.
        command: What the state says of the command that goes on with it, from `edgespa.tasks.unfinished.marked`.
        progress: Told ``(done, total, text)``.
        latency: Find the density by it; that of the configuration does not count.
        healing: Heal what was pruned, on the calibration images, see `edgespa.adaptation.heal`. What it holds out of
            them is not pruned by either.
        trackers: Told how healing goes; the caller closes them.
    """
    options = options or DataOptions(seed=config.seed)
    if healing is not None and calibration is None:
        raise ConfigError("healing needs images", "give --calibration; a few hundred are enough for most networks")
    require_there(
        model=model,
        weights=weights,
        data={"--calibration": calibration, "--held-out": held_out, "--eval-data": evaluation},
    )
    require_outputs_possible(output, overwrite=overwrite, resume=resume, fresh=fresh)
    if is_task_file(model):
        raise ConfigError(
            f"{config.method} removes channels of a model, and {model} is a task file",
            f"remove its channels while it is trained: edgespa adapt --from {model} --data DATA "
            f"--density {config.density:g} --output NEW.spa; or whole blocks: --method sls",
        )
    base = Base.open(model, input_shape, weights)
    named = {"evaluation": evaluation, "calibration": calibration, "held_out": held_out}
    labelled = {name: name != "calibration" or config.how.needs_labels for name in named}
    outputs = count_outputs(base.program) if any(spec and labelled[name] for name, spec in named.items()) else None
    images = {
        name: options.load(spec, labelled=labelled[name], outputs=outputs, measured=name == "evaluation")
        for name, spec in named.items()
        if spec is not None
    }
    all_images = images.get("calibration")
    if all_images is not None:
        images["calibration"] = _looked_at(all_images, config, healing)
    elif config.spare:
        raise ConfigError("images are spared (spare), and there are none", "give --calibration, or leave it out")
    for name, each in images.items():
        if labelled[name]:
            require_outputs(outputs, each)
    require_whole({f"--{_SPOKEN[name]}": each for name, each in images.items()}, progress)
    preprocess = options.preprocess_if_known(base, images.values(), calibration=calibration)
    prepared = {name: prepare_for(base.program, each, preprocess) for name, each in images.items()}
    for name in prepared:
        if labelled[name]:
            prepared[name] = taught(prepared[name], objective_for(prepared[name]), base.program)
    test, data = prepared.get("evaluation"), prepared.get("calibration")
    for name in prepared:
        if labelled[name]:
            require_answers(base.program, prepared[name], objective_for(prepared[name], base.detector))
    seen = 0.0
    if "evaluation" in images:
        others = {f"--{_SPOKEN[name]}": each for name, each in prepared.items() if name != "evaluation"}
        if healing is not None and all_images is not None:
            others["--calibration"] = prepare_for(base.program, all_images, preprocess)
        seen = tell_overlap(images["evaluation"], others)
    with LatencyFitting.of(latency, base, data, preprocess, progress) as fitting:
        if latency is not None:
            fitting.take(_facts_of(output, resume).get("latency"))
        behind = healing is not None and resume and is_healing(output)
        if behind:
            task = pruned_before(output)
        else:
            task = prune(
                base,
                config,
                output.absolute().parent,
                preprocess,
                data=data,
                held_out=prepared.get("held_out"),
                checkpoint=state_path(output),
                resume=resume,
                progress=progress,
                choose_density=fitting.density if latency is not None else None,
                facts=lambda: {"command": command, "latency": fitting.record()},
            )
            task = with_foretold(fitting.recorded(task), base)
        compared = {"base": base.program}
        if healing is not None:
            assert all_images is not None
            cut, facts = task, {"command": command, "latency": fitting.record()}
            task = heal_pruned(
                cut,
                base,
                all_images,
                preprocess,
                healing,
                output,
                resume=behind,
                progress=progress,
                facts=facts,
                trackers=trackers,
            )
            if is_healed(task):
                compared[BEFORE] = cut.program(base)
    known = options.known(base, preprocess, images.values())
    task = dataclasses.replace(task, header=task.header.model_copy(update={"preprocess": known}))
    task = task.with_provenance(**left_out_of({f"--{_SPOKEN[name]}": each for name, each in images.items()}))
    if test is not None:
        task = with_quality(task, base, test, seen=seen, progress=progress, before=compared)
    if trackers is not None:
        trackers.figures(task.header.metrics)
    task.save(output)
    state_path(output).unlink(missing_ok=True)
    cut_path(output).unlink(missing_ok=True)
    return task


def _looked_at(images: ImageData, config: PruneConfig, healing: HealConfig | None) -> ImageData:
    """The calibration images that pruning may look at: what is lost is told on the others, by healing."""
    share, seed = (config.spare, config.seed) if healing is None else (healing.validation, healing.seed)
    return fitted_on(images, share, seed)


def _facts_of(output: Path, resume: bool) -> Mapping[str, Any]:
    """What the state of a run says that is gone on with."""
    return Unfinished.read(state_path(output)).facts if resume else {}


def _tell_off_by_one(base: Base, outputs: int, train: ImageData) -> None:
    """A head that is given up is told; for a background class it is likely a mistake."""
    if train.kind != "classes" or outputs == len(train.classes):
        return
    if abs(outputs - len(train.classes)) > 1:
        log.log(
            NOTE,
            "%s has %d outputs, %s has %d classes: a new last layer of %d is learned",
            *(base.spec, outputs, train.name, len(train.classes), len(train.classes)),
        )
    else:
        log.log(
            NOTE,
            "%s has %d outputs, %s has %d classes, so a new head is trained; to keep its own: %s",
            base.spec,
            outputs,
            train.name,
            len(train.classes),
            why_counts_differ(outputs, len(train.classes)),
        )
