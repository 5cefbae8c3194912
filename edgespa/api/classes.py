"""Test data in the classes that are learned: in their order, with all or some of them, and with no others."""

from __future__ import annotations

import logging

import numpy as np

from edgespa.api.options import some
from edgespa.api.quality import require_outputs
from edgespa.data import ImageData, Numbering, are_numbers
from edgespa.data.balance import imbalance
from edgespa.errors import ConfigError
from edgespa.models.imports import nearest

log = logging.getLogger(__name__)


def of_classes(train: ImageData, test: ImageData) -> ImageData:
    """Test data, its classes numbered as those of the training data; classes without test images are told.

    Args:
        train: Of ``--data``.
        test: Of ``--eval-data``.

    Raises:
        ConfigError: The test data are of another kind, or have classes that are not learned.
    """
    if test.kind != train.kind:
        raise ConfigError(
            f"{train.name} is {train.kind} data, {test.name} is {test.kind} data", "give data of one kind"
        )
    if tuple(test.classes) != tuple(train.classes):
        test = _renumbered(train, test)
    if (test.has_boxes and train.has_boxes) or (test.kind == "classes" and test.labelled and train.labelled):
        has, learned = (each.used_classes for each in (test, train))
        if absent := [
            name for name, here, there in zip(train.classes, has, learned, strict=True) if there and not here
        ]:
            log.warning(
                "%s has no %s of %d of the %d classes of %s (%s): its %s says nothing about them",
                test.name,
                "boxes" if test.has_boxes else "images",
                len(absent),
                len(train.classes),
                train.name,
                some(absent),
                "quality" if test.has_boxes else "accuracy",
            )
    return test


def as_learned(data: ImageData, classes: tuple[str, ...], learns: str, outputs: int | None) -> ImageData:
    """Test data, its classes numbered as those that a task or a bundle has.

    Args:
        data: Of ``--eval-data``.
        classes: Of the task; empty where they are not known.
        learns: What it was trained to do.
        outputs: Of the model, where they are a list.

    Raises:
        ConfigError: The data are of another kind, or have other classes.
    """
    if classes and data.kind == "classes" and set(data.classes) <= set(classes):
        data = Numbering(classes, file="the task")(data)  # one may have no images, or be numbered otherwise
    if classes and tuple(data.classes) != classes:
        raise ConfigError(
            f"{data.name} has the classes {some(data.classes)}, the task was trained on {some(classes)}",
            "evaluate on data of the same task",
        )
    if classes and learns != data.kind:
        raise ConfigError(
            f"{data.name} is {data.kind} data, the task was trained on {learns} data", "give data of one kind"
        )
    if not classes:
        require_outputs(outputs, data)
    return data


def tell_imbalance(train: ImageData, *, weighed: bool) -> None:
    """Say that some classes of the training data are far more frequent than others.

    Args:
        train: Of ``--data``.
        weighed: Classes count differently in the loss already.
    """
    if not (train.labelled and train.kind == "classes"):
        return
    counts = np.bincount(train.labels, minlength=len(train.classes))
    if (told := imbalance(counts.tolist(), train.classes)) is not None:
        log.warning("%s: %s%s", train.name, told, "" if weighed else "; --class-weights balanced weighs the rare ones")


def _renumbered(train: ImageData, test: ImageData) -> ImageData:
    if test.kind != "classes" and not test.has_boxes:
        raise ConfigError(
            f"{train.name} has the targets {some(train.classes)}, {test.name} has {some(test.classes)}",
            "give --eval-data with the same targets",
        )
    extra = [name for name in test.classes if name not in train.classes]
    if not extra:
        return Numbering(tuple(train.classes), file=f"--data {train.name}")(test)
    if are_numbers(test.classes) != are_numbers(train.classes):
        numbered, named = (test, train) if are_numbers(test.classes) else (train, test)
        raise ConfigError(
            f"the classes of {numbered.name} are numbers, those of {named.name} have names ({some(named.classes)})",
            "give --labels FILE with the name of each number, a line each",
        )
    near = nearest(extra[0], train.classes, 1)
    raise ConfigError(
        f"--eval-data {test.name} has {len(extra)} of its {len(test.classes)} classes that --data {train.name} lacks: "
        f"{some(extra)}; --data has {some(train.classes)}",
        "leave their images out of --eval-data, or name classes alike"
        + (f": '{extra[0]}' may be '{near[0]}'" if near else ""),
    )
