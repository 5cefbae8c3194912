"""From a base and data to a task: checks, the choice of a head, and the epochs."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from torch import nn

from edgespa.adapt.config import AdaptConfig
from edgespa.adapt.run import Progress, Run
from edgespa.base import Base
from edgespa.checkpoint import Checkpoint
from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared, prepare
from edgespa.errors import ConfigError, DataError
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
        progress: Told ``(done, total, text)`` in training steps.

    Returns:
        The task: its best epoch at the final density.

    Raises:
        ConfigError: If the network and the data do not fit, or a value is out of range.
        DataError: If the images have no classes, or are less than one batch.
        AdapterError: If the loss or a trained value is not a number.
    """
    _require_trainable(base, data, preprocess)
    train, held_out = data.split(config.validation, config.seed)
    prepared = prepare(train, preprocess), prepare(held_out, preprocess)
    if _wants_new_head(base, prepared[0], len(data.classes), config):
        log.info("a new head for %d classes is trained", len(data.classes))
        base = base.with_outputs(len(data.classes), config.seed)
    run = Run(base, data, *prepared, preprocess, config, progress)
    if resume and checkpoint is not None and checkpoint.exists():
        run.restore(Checkpoint.load(checkpoint))
    while run.epoch < config.epochs:
        run.train_epoch()
        if checkpoint is not None:
            run.snapshot().save(checkpoint)
    return run.result(folder)


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
    if not data.labelled:
        raise DataError(f"{data.name} has no classes to learn", "put the images of each class into a folder of its own")


@torch.no_grad()
def _wants_new_head(base: Base, train: Prepared, classes: int, config: AdaptConfig) -> bool:
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
    loss = float(nn.functional.cross_entropy(base.program(images), labels))
    return not loss < math.log(classes)
