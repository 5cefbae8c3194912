"""From a base and data to a task: checks, the choice of a head, and the epochs."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from edgespa.adaptation.augment import MIX
from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.held_out import parted, tell_if_neighbours_are_alike
from edgespa.adaptation.log import Several, Told, TrainingLog
from edgespa.adaptation.loss import Teacher, TrainingLoss
from edgespa.adaptation.original import Original
from edgespa.adaptation.rates import settle_rate
from edgespa.adaptation.run import Progress, Run, wide
from edgespa.adaptation.start import (
    continued,
    is_adapted,
    require_same_classes,
    require_whole_filters,
    started,
    with_start,
)
from edgespa.adaptation.state import Keeper, restore
from edgespa.adaptation.tracking import FACT, Trackers
from edgespa.adaptation.units import Units
from edgespa.adapters.adapted import AdaptedProgram
from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared, why_counts_differ
from edgespa.data.inputs import arguments, moved, takes_of
from edgespa.data.tensors import prepare_for
from edgespa.distributed.processes import Processes
from edgespa.errors import ConfigError, DataError
from edgespa.graph.inner import watched
from edgespa.graph.program import BATCH, Program
from edgespa.models.interface import output_tensors
from edgespa.objectives.base import Objective, first_tensor, shapes_of
from edgespa.objectives.class_weights import class_weights
from edgespa.objectives.evaluate import BATCH_SIZE, Evaluation, batch_size, evaluate, require_answers, require_measures
from edgespa.objectives.kinds import objective_named
from edgespa.objectives.taught import taught
from edgespa.selection.select import Choose
from edgespa.system.quiet import NOTE
from edgespa.system.stopping import held_back
from edgespa.tasks.base import Base
from edgespa.tasks.checkpoint import Checkpoint
from edgespa.tasks.task import Task

log = logging.getLogger(__name__)

_FEW = 4
"""Training steps of an epoch on fewer images than are in a batch by default."""

HEAD_CHECK_IMAGES = 512


def adapt(
    base: Base,
    data: ImageData,
    preprocess: Preprocess | None,
    config: AdaptConfig,
    folder: Path,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    teacher: Teacher | None = None,
    start: Task | None = None,
    log_file: Path | None = None,
    trackers: Trackers | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
    facts: Mapping[str, Any] | None = None,
    validation: ImageData | None = None,
    towards: Original | None = None,
    choose: Choose | None = None,
) -> Task:
    """Learn a task.

    Ctrl-C, SIGTERM and a closed terminal end it after the training step that it is at, once its state is written; a
    second time at once.

    Several processes, as ``accelerate launch`` starts them, share each batch and come to one task; only the main one
    writes the checkpoint and the log.

    Args:
        base: The pretrained model.
        data: Training data, of which it is known what is right; a stratified part is held out for validation.
        preprocess: How an image becomes an input; None where the data are tensors of a model that takes no image.
        config: How to adapt.
        folder: Where the task file will lie.
        checkpoint: A file that holds the state: from the beginning, after each epoch, and every few minutes inside of
            one. The caller removes it when the task is saved.
        resume: Go on from the checkpoint if there is one.
        teacher: Whose outputs are distilled.
        start: A task to start from: of a pruned one its units, blocks and weights; one that was adapted is gone on
            with, so its adapters have to be those of the configuration where that names any.
        log_file: Gets a JSON document a line for each pruning step and each epoch.
        trackers: Told the same; the caller closes them.
        progress: Told ``(done, total, text)`` in training steps.
        processes: Those that share the training; by default those that were launched.
        facts: What the state says besides, as plain values.
        validation: Data to choose the best epoch on; None for a part of the training data.
        towards: What ``start`` is to become like again, outside and inside, instead of learning anything; see
            `edgespa.adaptation.heal`.
        choose: Chooses the units of each pruning step in place of the budget.

    Returns:
        The task: its best epoch at the final density.

    Raises:
        ConfigError: If the network and the data do not fit, or a value is out of range.
        DataError: If the images have no classes, or are less than one batch.
        AdapterError: If the loss or a trained value is not a number.
    """
    objective = objective_named(data.kind).bound(base.detector)
    _require_trainable(base, data, preprocess, config, objective)
    goes_on = start is not None and is_adapted(start)
    if start is not None and goes_on:
        config = continued(config, start)
        if towards is None:
            require_same_classes(start, data.classes, data.name)
        if teacher is not None and teacher.of_base:
            raise ConfigError(
                "a task that is gone on with has a head of its own, which the base cannot teach",
                "distill from the task as it was before it was cut: --distill TASK.spa",
            )
    require_whole_filters(config, start)
    processes = processes or Processes.start(config.mixed_precision)
    original = (base.whole or base).program if towards is None else towards.program
    base = started(base, start) if start is not None else base
    objective = objective.bound(base.detector)  # a start has a head of its own
    taken = original
    if towards is not None and start is not None:
        healing = towards.objective(base, start.kept)
        objective, taken = healing, watched(original, [each.theirs for each in healing.streams])
    train, held_out = parted(data, validation, config.validation, config.seed, block=config.hold_out == "block")
    config = _of_few(config, len(train), processes)
    prepared = prepare_for(base.program, train, preprocess), prepare_for(base.program, held_out, preprocess)
    chosen_on_it = config.take != "last"  # healing takes the last step, and has no other part to hold out
    if validation is None and config.hold_out == "random" and chosen_on_it and processes.is_main:
        tell_if_neighbours_are_alike(train, prepared[0])
    if objective.of_base:
        if teacher is not None:
            raise ConfigError(
                f"the objective {objective.name} learns from the base already: it is a distillation",
                "leave out --distill, or learn something else",
            )
        ask = _on_device(taken, processes) if towards is None else _in_training_form(taken, processes)
        ours, theirs = (taught(each, objective, taken, ask, processes.device) for each in prepared)
        prepared = ours, theirs
    if MIX in config.augment and not objective.of_base:
        raise ConfigError(
            f"images that are mixed (--augment {MIX}) have no labels for the objective {objective.name}",
            f"leave {MIX} out, or learn from the base: --objective match",
        )
    if config.label_smoothing and not objective.smooths:
        raise ConfigError(f"the objective {objective.name} has no labels to smooth", "leave out --label-smoothing")
    pixels = train.pixels_of_classes.tolist() if train.has_masks else None
    weights = class_weights(config.class_weights, prepared[0].labels, data.classes, objective, data.name, pixels)
    units = Units.of(prepared[0].labels, base) if objective.standardised else None
    if units is not None:
        base = units.inside(base)
    loss = TrainingLoss(
        objective,
        config.label_smoothing,
        weights if weights is None else weights.to(processes.device),
        teacher if teacher is None else _moved(teacher, processes),
        config.distill_weight,
        config.distill_temperature,
        units,
    )
    if not goes_on and _wants_new_head(base, prepared[0], config, loss, processes):
        if teacher is not None and teacher.of_base:
            raise ConfigError(
                f"{base.spec} does not know the classes of {data.name}, so it cannot teach them",
                "learn the task unpruned first, and distill from that: --distill TASK.spa",
            )
        log.info("a new head for %d classes is trained", len(data.classes))
        base = base.with_outputs(len(data.classes), config.seed)
        objective = objective.bound(base.detector)
        loss = dataclasses.replace(loss, objective=objective)
    require_answers(base.program, prepared[1], objective)
    if towards is None:  # with inner values it is no program as it is here that is measured
        require_measures(base.program, prepared[1], objective)
    if objective.of_base:
        require_same_outputs(base, original, objective)
    base = base.extended(config.adapter, config.adapter_options, norms=config.adds_norms(base.program))
    run = Run(base, data, *prepared, preprocess, config, progress, loss, processes)
    run.choose = choose
    run.validation = None if validation is None else f"{validation.name}: {validation.digest}"
    if start is not None and goes_on:
        run.go_on_from(start.kept, start.factors)
    else:
        if start is not None:
            run.begin_at(start.kept)
        run.calibrate_norms()
    goes_on_from = Checkpoint.load(checkpoint) if resume and checkpoint is not None and checkpoint.exists() else None
    if goes_on_from is not None:
        restore(run, goes_on_from)
    if processes.is_main:
        run.log, facts = _told(run, log_file, trackers, goes_on_from, facts, resume=resume)
    with held_back() as stop, contextlib.closing(Keeper(run, checkpoint, stop, facts)) as keeper:
        if not run.settled:
            settle_rate(run, keeper, progress)
        if goes_on_from is None:
            keeper.save()  # that it can be written is known before anything long begins
        else:
            keeper.take()
        while run.epoch < config.epochs:
            run.train_epoch(keeper.pause)
            if config.looks_after(run.epoch) or keeper.due:
                keeper.save()
        if stop.asked is not None:
            stop.end()
    _tell_if_nothing_was_learned(run)
    task = _stored(run.result(folder), base, run, config.store)
    return with_start(task, start, base) if start is not None else task


def _told(
    run: Run,
    log_file: Path | None,
    trackers: Trackers | None,
    goes_on_from: Checkpoint | None,
    facts: Mapping[str, Any] | None,
    *,
    resume: bool,
) -> tuple[Several, Mapping[str, Any]]:
    """What is told how it goes, and what the state says of that."""
    logs: list[Told] = []
    if log_file is not None:
        logs.append(TrainingLog(log_file, (run.epoch, run.step) if resume else None))
    before = None if goes_on_from is None else goes_on_from.facts.get(FACT)
    if trackers is not None:
        logs.append(trackers)
        step = None if goes_on_from is None else run.step
        config = run.config.model_dump(mode="json")
        before = trackers.begin(config, steps=run.steps, measure=run.measure.name, resumed=before, step=step)
    return Several(*logs), {**(facts or {}), **({FACT: before} if before else {})}


def _tell_if_nothing_was_learned(run: Run) -> None:
    blind = run.last.blind if run.last is not None else None
    if blind is not None and run.best_values and run.best_quality <= run.measure.merit(blind):
        log.warning(
            "nothing was learned: validation %s %.3f (%d images), and the same answer to all images has %.3f; "
            "train with a lower learning rate (--lr %.1g) or longer",
            run.measure.title,
            run.best_values[0],
            len(run.held_out),
            blind,
            run.timeline.peak / 10,
        )


def _stored(task: Task, base: Base, run: Run, store: str) -> Task:
    """The task with its factors in the type that is asked for, and what that costs."""
    if store == "fp32" or not task.adapters:
        return task
    rounded = task.stored_as(store)
    now = evaluated(rounded.program(base), run.held_out, run.processes, objective=run.loss.objective)
    metrics = task.header.metrics
    exact = {f"{name}_fp32": metrics[name] for name in now.named("validation") if name in metrics}
    log.info("stored as %s: validation %.4f, in float32 %.4f", store, now.value, run.best_values[0])
    return rounded.with_metrics(**now.named("validation"), **exact)


@torch.no_grad()
def _of_few(config: AdaptConfig, count: int, processes: Processes) -> AdaptConfig:
    """With smaller batches, if nobody has said how large they are and the images are fewer than the default."""
    if "batch_size" in config.model_fields_set or count >= config.batch_size:
        return config
    each = max(2, count // _FEW // processes.count)
    log.log(NOTE, "batches of %d: there are only %d training images", each * processes.count, count)
    return config.model_copy(update={"batch_size": each * processes.count})


def _require_trainable(
    base: Base, data: ImageData, preprocess: Preprocess | None, config: AdaptConfig, objective: Objective
) -> None:
    if objective.answers == "table" and base.outputs() is None:
        raise ConfigError(
            f"{base.spec} does not end in a linear layer, so it cannot be adapted as a classifier",
            "give a model with a linear last layer",
        )
    shapes = [spec.shape for spec in base.program.inputs]
    if preprocess is None:
        if not base.program.dynamic_batch:
            raise ConfigError(
                f"{base.spec} takes inputs of {shapes}, and training needs batches of any size",
                "write the model so that it takes any batch size",
            )
        takes_of(base.program)
    elif shapes != [wanted := (BATCH, preprocess.channels, preprocess.height, preprocess.width)]:
        raise ConfigError(
            f"{base.spec} takes inputs of {shapes}, and training needs {wanted}: images in batches of any size",
            "correct --input-shape, or write the model so that it takes any batch size",
        )
    output = base.program(*base.program.example_inputs())
    if objective.answers == "table" and first_tensor(output).dim() != 2:
        raise ConfigError(
            f"{base.spec} gives {shapes_of(output)}, and training needs a first output [N, K]: a number per class",
            "give a model that returns its logits, alone or first",
        )
    if objective.answers == "masks" and first_tensor(output).dim() != 4:
        raise ConfigError(
            f"{base.spec} gives {shapes_of(output)}, and {data.name} has masks, for which training needs a map of "
            "scores for each class, [N, classes, height, width]",
            "give a model that segments, or data with a folder per class",
        )
    if objective.answers != "none" and not data.answered:
        raise DataError(f"{data.name} has no classes to learn", "put the images of each class into a folder of its own")
    if objective.of_base and config.head == "new":
        raise ConfigError(f"the objective {objective.name} is the base's own outputs", "leave out --head new")


@torch.no_grad()
def require_same_outputs(base: Base, original: Program, objective: Objective) -> None:
    """Refuse a task that is gone on with and has other outputs than the base.

    Args:
        base: As the task has it.
        original: Whose outputs are learned.
        objective: It takes them.

    Raises:
        ConfigError: With both.
    """
    own, its = (output_tensors(objective.take(each(*each.example_inputs()))) for each in (base.program, original))
    if [each.shape for each in own] != [each.shape for each in its]:
        raise ConfigError(
            f"the task to start from gives {shapes_of(own)}, and what it is to give as it does gives {shapes_of(its)}",
            "adapt the base itself, or give data with classes",
        )


def evaluated(
    program: Program,
    data: Prepared,
    processes: Processes,
    progress: Progress | None = None,
    *,
    objective: Objective | None = None,
) -> Evaluation:
    """`edgespa.objectives.evaluate.evaluate`, split over processes on their devices.

    Args:
        program: In evaluation form.
        data: Of which it is known what is right.
        processes: Each takes its part of every batch.
        progress: Told ``(done, total, text)`` in batches.
        objective: Whose measures; that of the data's kind where nothing is said.
    """
    size = batch_size(program, BATCH_SIZE)
    run = _on_device(program, processes)
    return evaluate(run, data, objective, batch=size, progress=progress, processes=processes)


def _on_device(program: Program, processes: Processes) -> Program | AdaptedProgram:
    if processes.device.type == "cpu":
        return program
    moved = AdaptedProgram(program, {}, ())
    moved.move_to(processes.device)
    return moved


def _in_training_form(program: Program, processes: Processes) -> Callable[..., Any]:
    """A program asked as the one in training runs: in its precision, images as they train fastest; in evaluation form.

    In bfloat16 a ResNet-56 is asked in 0.08 s where it took 0.26, and agrees with itself on 99.6% of the images.
    """
    asked = AdaptedProgram(program, {}, ())
    asked.move_to(processes.device)

    def ask(*inputs: Tensor) -> Any:
        with processes.autocast():
            found = asked(*arguments(moved(inputs, processes.device, torch.channels_last)))
        return tree_map_only(Tensor, wide, found)

    return ask


def _moved(teacher: Teacher, processes: Processes) -> Teacher:
    """The teacher on the device of the student."""
    if not isinstance(teacher.run, Program):
        return teacher
    return dataclasses.replace(teacher, run=_on_device(teacher.run, processes))


@torch.no_grad()
def _wants_new_head(base: Base, train: Prepared, config: AdaptConfig, loss: TrainingLoss, processes: Processes) -> bool:
    """Whether the base's last layer is of no use for the task; see `AdaptConfig.head`."""
    classes, own = len(train.classes), base.outputs()
    if not train.classes or own is None:  # an objective of the user's own knows what its network gives
        return _asked_for(config.head, own)
    if own != classes:
        if config.head == "keep":
            raise ConfigError(
                f"the base has {own} outputs and the data {classes} classes: its head cannot be kept",
                f"leave out --head; {why_counts_differ(own, classes)}",
            )
        return True
    if config.head != "auto":
        return config.head == "new"
    size = min(len(train), batch_size(base.program, HEAD_CHECK_IMAGES))
    inputs, targets = next(iter(train.batches(size, shuffle_seed=config.seed)))
    guess = loss.guess(targets, classes)
    now = float(processes.from_main(loss.plain(base.program(*arguments(inputs)), targets)))
    return guess is not None and not now < guess


def _asked_for(head: str, outputs: int | None) -> bool:
    if head == "new" and outputs is None:
        raise ConfigError("the network does not end in one layer that could be made anew", "leave out --head new")
    return head == "new"
