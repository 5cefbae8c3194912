"""Accuracy of a program on a data set."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgespa.data import Prepared
from edgespa.errors import DataError

BATCH_SIZE = 250
Progress = Callable[[float, float | None, str], None]


@torch.no_grad()
def accuracy(
    program: Callable[[Tensor], Tensor],
    data: Prepared,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> float:
    """Top-1 accuracy, in [0, 1].

    Args:
        program: Gives logits ``[N, classes]`` for inputs ``[N, C, H, W]``.
        data: Labelled data.
        batch_size: Samples at a time.
        progress: Told ``(done, total, text)`` in batches.

    Raises:
        DataError: If the data are empty, or have no classes.
    """
    total = data.num_batches(batch_size)
    if not total:
        raise DataError("no images to evaluate on", "give a data set with at least one image")
    if bool((data.labels < 0).any()):
        raise DataError(f"{data.name} has no classes to compare with", "give labelled data")
    correct = count = 0
    for index, (images, labels) in enumerate(data.batches(batch_size, shuffle_seed=None)):
        correct += int((program(images).argmax(1) == labels).sum())
        count += len(labels)
        if progress:
            progress(index + 1, total, "evaluate")
    return correct / count
