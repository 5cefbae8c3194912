"""From a base and data to a task: checks, the choice of a head, and the epochs."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from edgespa.adapt.config import AdaptConfig
from edgespa.adapt.log import TrainingLog
from edgespa.adapt.objective import Objective, Teacher, balanced_weights
from edgespa.adapt.run import Progress, Run
from edgespa.adapt.start import started, with_start
from edgespa.base import Base
from edgespa.checkpoint import Checkpoint
from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared, prepare
from edgespa.errors import ConfigError, DataError
from edgespa.evaluate import quality
from edgespa.graph.program import BATCH
from edgespa.task import Task

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
) -> Task:
    """Learn a task.

    Args:
        base: The pretrained model.
        data: Labelled training data; a stratified part is held out for validation.
        preprocess: How an image becomes an input.
        config: How to adapt.
        folder: Where the task file will lie.
        checkpoint: A file that holds the state after each epoch; the caller removes it when the task is saved.
        resume: Go on from the checkpoint if there is one.
        teacher: Whose outputs are distilled.
        start: A pruned task to start from: its units and its weights.
        log_file: Gets a JSON document a line for each pruning step and each epoch.
        progress: Told ``(done, total, text)`` in training steps.

    Returns:
        The task: its best epoch at the final density.

    Raises:
        ConfigError: If the network and the data do not fit, or a value is out of range.
        DataError: If the images have no classes, or are less than one batch.
        AdapterError: If the loss or a trained value is not a number.
    """
    _require_trainable(base, data, preprocess)
    base = started(base, start) if start is not None else base
    train, held_out = data.split(config.validation, config.seed)
    prepared = prepare(train, preprocess), prepare(held_out, preprocess)
    if config.class_weights != "none" and data.kind != "classes":
        raise ConfigError(f"{data.name} is {data.kind} data: it has no classes to weigh", "leave out --class-weights")
    weights = balanced_weights(prepared[0].labels, len(data.classes)) if config.class_weights == "balanced" else None
    objective = Objective(
        config.label_smoothing, weights, teacher, config.distill_weight, config.distill_temperature, data.kind
    )
    if _wants_new_head(base, prepared[0], len(data.classes), config, objective):
        if teacher is not None and teacher.of_base:
            raise ConfigError(
                f"{base.spec} does not know the classes of {data.name}, so it cannot teach them",
                "learn the task unpruned first, and distill from that: --distill TASK.spa",
            )
        log.info("a new head for %d classes is trained", len(data.classes))
        base = base.with_outputs(len(data.classes), config.seed)
    base = base.extended(config.adapter, config.adapter_options)
    run = Run(base, data, *prepared, preprocess, config, progress, objective)
    if start is not None:
        run.begin_at(start.kept)
    if resume and checkpoint is not None and checkpoint.exists():
        run.restore(Checkpoint.load(checkpoint))
    if log_file is not None:
        run.log = TrainingLog(log_file, run.epoch if resume else None)
    while run.epoch < config.epochs:
        run.train_epoch()
        if checkpoint is not None:
            run.snapshot().save(checkpoint)
    task = _stored(run.result(folder), base, run, config.store)
    return with_start(task, start, base) if start is not None else task


def _stored(task: Task, base: Base, run: Run, store: str) -> Task:
    """The task with its factors in the type that is asked for, and what that costs in accuracy."""
    if store == "fp32" or not task.adapters:
        return task
    rounded = task.stored_as(store)
    now = quality(rounded.program(base), run.held_out)
    ((name, exact),) = task.header.metrics.items()
    log.info("stored as %s: validation %.4f, in float32 %.4f", store, now, exact)
    return rounded.with_metrics(**{name: now, f"{name}_fp32": exact})


def _require_trainable(base: Base, data: ImageData, preprocess: Preprocess) -> None:
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
    if not data.labelled and data.targets is None:
        raise DataError(f"{data.name} has no classes to learn", "put the images of each class into a folder of its own")


@torch.no_grad()
def _wants_new_head(base: Base, train: Prepared, classes: int, config: AdaptConfig, objective: Objective) -> bool:
    """Whether the base's last layer is of no use for the task; see `AdaptConfig.head`."""
    if base.outputs() != classes:
        if config.head == "keep":
            raise ConfigError(
                f"the base has {base.outputs()} outputs and the data {classes} classes: its head cannot be kept",
                "leave out --head, or use data with as many classes",
            )
        return True
    if config.head != "auto":
        return config.head == "new"
    images, labels = next(iter(train.batches(min(len(train), HEAD_CHECK_IMAGES), shuffle_seed=config.seed)))
    loss = float(objective.plain(base.program(images), labels))
    return not loss < objective.guess(labels, classes)
