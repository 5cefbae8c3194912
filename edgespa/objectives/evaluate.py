"""Accuracy of a program on a data set, and what stands for it where there are no classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from edgespa.data import Kind, Prepared
from edgespa.distributed.processes import ALONE, Processes
from edgespa.errors import DataError
from edgespa.objectives.targets import has_answers, scores

BATCH_SIZE = 250
Progress = Callable[[float, float | None, str], None]


def accuracy(
    program: Callable[[Tensor], Any],
    data: Prepared,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> float:
    """Top-1 accuracy, in [0, 1].

    Args:
        program: Gives logits ``[N, classes]`` for inputs ``[N, C, H, W]``.
        data: Labelled data.
        batch_size: Samples at a time.
        progress: Told ``(done, total, text)`` in batches.
        processes: Each takes its part of every batch, on its device.

    Raises:
        DataError: If the data are empty, or have no classes, or the outputs are no logits of theirs.
    """
    if data.kind != "classes":
        raise DataError(f"{data.name} has no classes to compare with", "give labelled data")
    return quality(program, data, batch_size=batch_size, progress=progress, processes=processes)


def _batches(data: Prepared, batch_size: int, processes: Processes) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in data.batches(batch_size, shuffle_seed=None, part=processes.part):
        if len(labels):  # the last batch may be smaller than the number of processes
            yield images.to(processes.device), labels.to(processes.device)


MEASURES: dict[Kind, str] = {"classes": "accuracy", "multi-label": "accuracy", "regression": "r2"}


@torch.no_grad()
def quality(
    program: Callable[[Tensor], Any],
    data: Prepared,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> float:
    """How well a program does, the more the better; its name is in `MEASURES`.

    For classes `accuracy`; for multi-label data the fraction of decisions (image and class) that are right, an output
    above 0 being yes; for regression the coefficient of determination, ``1 - sum (y - f)^2 / sum (y - mean y)^2`` over
    all targets, each about its own mean.

    Args:
        program: Gives ``[N, K]`` for inputs ``[N, C, H, W]``.
        data: With labels or targets.
        batch_size: Samples at a time.
        progress: Told ``(done, total, text)`` in batches.
        processes: Each takes its part of every batch, on its device.

    Raises:
        DataError: If the data are empty, have neither classes nor targets, or the outputs are no answers to those, or
            no numbers.
    """
    total = data.num_batches(batch_size)
    if not total:
        raise DataError("no images to evaluate on", "give a data set with at least one image")
    if not has_answers(data):
        raise DataError(f"{data.name} has no classes to compare with", "give labelled data")
    mark = 0.0
    for index, (images, labels) in enumerate(_batches(data, batch_size, processes)):
        mark += mark_of(program(images), labels, data)
        if progress:
            progress(index + 1, total, "evaluate")
    return quality_of(data.kind, processes.totals([mark])[0], data.labels)


def mark_of(output: Any, labels: Tensor, data: Prepared) -> float:
    """What a batch adds to the mark that a quality is made of: right answers, or for regression squared errors.

    Args:
        output: What a program gives for it.
        labels: Class indices ``[N]``, or targets ``[N, K]``.
        data: What it is a batch of.

    Raises:
        DataError: If the output is no answer, or no number.
    """
    outputs = scores(output, data)
    if bool(torch.isnan(outputs).any()):
        raise DataError(
            f"the network's outputs on {data.name} are not numbers",
            "check its weights, and --mean and --std; where it was trained just now, train with a lower --lr",
        )
    if data.kind == "classes":
        return float((outputs.argmax(1) == labels).sum())
    if data.kind == "multi-label":
        return float(((outputs > 0) == (labels > 0.5)).double().mean(1).sum())
    return float((outputs.double() - labels.double()).square().sum())


def quality_of(kind: Kind, mark: float, labels: Tensor) -> float:
    """The `quality` that a mark over all images stands for.

    Args:
        kind: Of the data.
        mark: The sum of `mark_of`.
        labels: Of all images.
    """
    if kind != "regression":
        return mark / len(labels)
    spread = float((labels.double() - labels.double().mean(0)).square().sum())
    return 1 - mark / max(spread, 1e-30)


def blind_quality(data: Prepared) -> float:
    """`quality` of the best outputs that do not depend on the input.

    Args:
        data: With labels or targets.
    """
    if data.kind == "regression":
        return 0.0
    if data.kind == "multi-label":
        yes = (data.labels > 0.5).double().mean(0)
        return float(torch.maximum(yes, 1 - yes).mean())
    return float(torch.bincount(data.labels).max()) / len(data)
