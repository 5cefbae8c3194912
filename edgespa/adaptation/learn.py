"""From a base and data to a task: checks, the choice of a head, and the epochs."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.log import TrainingLog
from edgespa.adaptation.rates import settle_rate
from edgespa.adaptation.run import Progress, Run
from edgespa.adaptation.start import continued, is_adapted, require_same_classes, started, with_start
from edgespa.adaptation.state import Keeper, restore
from edgespa.adapters.adapted import AdaptedProgram
from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared, prepare, why_counts_differ
from edgespa.distributed.processes import Processes
from edgespa.errors import ConfigError, DataError
from edgespa.graph.program import BATCH, Program
from edgespa.objectives.class_weights import class_weights
from edgespa.objectives.evaluate import MEASURES, blind_quality, quality
from edgespa.objectives.loss import Objective, Teacher
from edgespa.objectives.targets import shapes_of
from edgespa.objectives.units import Units
from edgespa.selection.criteria import criterion_named
from edgespa.system.stopping import held_back
from edgespa.tasks.base import Base
from edgespa.tasks.checkpoint import Checkpoint
from edgespa.tasks.task import Task

log = logging.getLogger(__name__)

HEAD_CHECK_IMAGES = 512


def adapt(
    base: Base,
    data: ImageData,
    preprocess: Preprocess,
    config: AdaptConfig,
    folder: Path,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    teacher: Teacher | None = None,
    start: Task | None = None,
    log_file: Path | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Task:
    """Learn a task.

    Ctrl-C, SIGTERM and a closed terminal end it after the training step that it is at, once its state is written; a
    second time at once.

    Several processes, as ``accelerate launch`` starts them, share each batch and come to one task; only the main one
    writes the checkpoint and the log.

    Args:
        base: The pretrained model.
        data: Labelled training data; a stratified part is held out for validation.
        preprocess: How an image becomes an input.
        config: How to adapt.
        folder: Where the task file will lie.
        checkpoint: A file that holds the state: from the beginning, after each epoch, and every few minutes inside of
            one. The caller removes it when the task is saved.
        resume: Go on from the checkpoint if there is one.
        teacher: Whose outputs are distilled.
        start: A task to start from: of a pruned one its units, blocks and weights; one that was adapted is gone on
            with, so its adapters have to be those of the configuration where that names any.
        log_file: Gets a JSON document a line for each pruning step and each epoch.
        progress: Told ``(done, total, text)`` in training steps.
        processes: Those that share the training; by default those that were launched.
        facts: What the state says besides, as plain values.

    Returns:
        The task: its best epoch at the final density.

    Raises:
        ConfigError: If the network and the data do not fit, or a value is out of range.
        DataError: If the images have no classes, or are less than one batch.
        AdapterError: If the loss or a trained value is not a number.
    """
    _require_trainable(base, data, preprocess, config)
    goes_on = start is not None and is_adapted(start)
    if start is not None and goes_on:
        config = continued(config, start)
        require_same_classes(start, data.classes, data.name)
        if teacher is not None and teacher.of_base:
            raise ConfigError(
                "a task that is gone on with has a head of its own, which the base cannot teach",
                "distill from the task as it was before it was cut: --distill TASK.spa",
            )
    processes = processes or Processes.start(config.mixed_precision)
    base = started(base, start) if start is not None else base
    train, held_out = data.split(config.validation, config.seed)
    prepared = prepare(train, preprocess), prepare(held_out, preprocess)
    weights = class_weights(config.class_weights, prepared[0].labels, data.classes, data.kind, data.name)
    units = Units.of(prepared[0].labels, base) if data.kind == "regression" else None
    if units is not None:
        base = units.inside(base)
    objective = Objective(
        config.label_smoothing,
        weights if weights is None else weights.to(processes.device),
        teacher if teacher is None else _moved(teacher, processes),
        config.distill_weight,
        config.distill_temperature,
        data.kind,
        processes,
        units,
    )
    if not goes_on and _wants_new_head(base, prepared[0], len(data.classes), config, objective):
        if teacher is not None and teacher.of_base:
            raise ConfigError(
                f"{base.spec} does not know the classes of {data.name}, so it cannot teach them",
                "learn the task unpruned first, and distill from that: --distill TASK.spa",
            )
        log.info("a new head for %d classes is trained", len(data.classes))
        base = base.with_outputs(len(data.classes), config.seed)
    base = base.extended(config.adapter, config.adapter_options, norms=config.adds_norms(base.program))
    run = Run(base, data, *prepared, preprocess, config, progress, objective, processes)
    if start is not None and goes_on:
        run.go_on_from(start.kept, start.factors)
    else:
        if start is not None:
            run.begin_at(start.kept)
        run.calibrate_norms()
    goes_on_from = Checkpoint.load(checkpoint) if resume and checkpoint is not None and checkpoint.exists() else None
    if goes_on_from is not None:
        restore(run, goes_on_from)
    if log_file is not None and processes.is_main:
        run.log = TrainingLog(log_file, (run.epoch, run.step) if resume else None)
    with held_back() as stop, contextlib.closing(Keeper(run, checkpoint, stop, facts)) as keeper:
        if not run.settled:
            settle_rate(run, keeper, progress)
        if goes_on_from is None:
            keeper.save()  # that it can be written is known before anything long begins
        else:
            keeper.take()
        while run.epoch < config.epochs:
            run.train_epoch(keeper.pause)
            keeper.save()
        if stop.asked is not None:
            stop.end()
    if run.best_quality <= (blind := blind_quality(prepared[1])):
        log.warning(
            "nothing was learned: validation %s %.3f (%d images), and the same answer to all images has %.3f; "
            "train with a lower learning rate (--lr %.1g) or longer",
            MEASURES[data.kind],
            run.best_quality,
            len(prepared[1]),
            blind,
            run.timeline.peak / 10,
        )
    task = _stored(run.result(folder), base, run, config.store)
    return with_start(task, start, base) if start is not None else task


def _stored(task: Task, base: Base, run: Run, store: str) -> Task:
    """The task with its factors in the type that is asked for, and what that costs in accuracy."""
    if store == "fp32" or not task.adapters:
        return task
    rounded = task.stored_as(store)
    now = evaluated(rounded.program(base), run.held_out, run.processes)
    name = f"validation_{MEASURES[run.objective.kind]}"
    exact = task.header.metrics[name]
    log.info("stored as %s: validation %.4f, in float32 %.4f", store, now, exact)
    return rounded.with_metrics(**{name: now, f"{name}_fp32": exact})


@torch.no_grad()
def _require_trainable(base: Base, data: ImageData, preprocess: Preprocess, config: AdaptConfig) -> None:
    if base.outputs() is None:
        raise ConfigError(
            f"{base.spec} does not end in a linear layer, so it cannot be adapted as a classifier",
            "give a model with a linear last layer",
        )
    wanted = (BATCH, preprocess.channels, preprocess.height, preprocess.width)
    shapes = [spec.shape for spec in base.program.inputs]
    if shapes != [wanted]:
        raise ConfigError(
            f"{base.spec} takes inputs of {shapes}, and training needs {wanted}: images in batches of any size",
            "correct --input-shape, or write the model so that it takes any batch size",
        )
    output = base.program(*base.program.example_inputs())
    if not isinstance(output, torch.Tensor) or output.dim() != 2:
        raise ConfigError(
            f"{base.spec} gives {shapes_of(output)}, and training needs one output [N, K]: a number per class",
            "give a model that returns its logits alone",
        )
    if not data.labelled and data.targets is None:
        raise DataError(f"{data.name} has no classes to learn", "put the images of each class into a folder of its own")
    if data.kind != "classes" and criterion_named(config.criterion).relevance:
        raise ConfigError(
            f"the criterion {config.criterion} begins at the output of a class, and {data.name} is {data.kind} data",
            "choose another criterion, such as taylor",
        )


def evaluated(program: Program, data: Prepared, processes: Processes, progress: Progress | None = None) -> float:
    """`edgespa.objectives.evaluate.quality`, split over processes on their devices.

    Args:
        program: In evaluation form.
        data: With labels or targets.
        processes: Each takes its part of every batch.
        progress: Told ``(done, total, text)`` in batches.
    """
    return quality(_on_device(program, processes), data, progress=progress, processes=processes)


def _on_device(program: Program, processes: Processes) -> Program | AdaptedProgram:
    if processes.device.type == "cpu":
        return program
    moved = AdaptedProgram(program, {}, ())
    moved.move_to(processes.device)
    return moved


def _moved(teacher: Teacher, processes: Processes) -> Teacher:
    """The teacher on the device of the student."""
    if not isinstance(teacher.run, Program):
        return teacher
    return dataclasses.replace(teacher, run=_on_device(teacher.run, processes))


@torch.no_grad()
def _wants_new_head(base: Base, train: Prepared, classes: int, config: AdaptConfig, objective: Objective) -> bool:
    """Whether the base's last layer is of no use for the task; see `AdaptConfig.head`."""
    if base.outputs() != classes:
        if config.head == "keep":
            raise ConfigError(
                f"the base has {base.outputs()} outputs and the data {classes} classes: its head cannot be kept",
                f"leave out --head; {why_counts_differ(base.outputs() or 0, classes)}",
            )
        return True
    if config.head != "auto":
        return config.head == "new"
    images, labels = next(iter(train.batches(min(len(train), HEAD_CHECK_IMAGES), shuffle_seed=config.seed)))
    loss = objective.plain(base.program(images), labels)
    return not float(objective.processes.from_main(loss)) < objective.guess(labels, classes)
