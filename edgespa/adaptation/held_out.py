"""The part of the data that the best epoch is chosen on: held out at random, in a row, or data of its own."""

from __future__ import annotations

import logging

import numpy as np
import torch

from edgespa.data import ImageData, Prepared
from edgespa.data.inputs import arguments
from edgespa.data.parts import held_out
from edgespa.errors import DataError
from edgespa.system.quiet import NOTE

log = logging.getLogger(__name__)

_PAIRS = 48
_ALIKE = 0.5
"""Neighbours are alike where they differ by less than this part of what any two differ by: those of CamVid by 0.36
of it, of CIFAR-10, Fashion-MNIST and ImageNet photographs by 0.96 to 1.15."""


def parted(
    data: ImageData, own: ImageData | None, fraction: float, seed: int, *, block: bool = False
) -> tuple[ImageData, ImageData]:
    """What is trained on, and what is held out.

    Args:
        data: The training data.
        own: Data to choose on, where there are some of their own.
        fraction: Else what is held out.
        seed: Which part.
        block: In a row, see `edgespa.data.ImageData.split`.

    Raises:
        DataError: Data of their own are of another kind, or have other classes.
    """
    if own is None:
        return data.split(fraction, seed, block=block)
    if own.kind != data.kind or tuple(own.classes) != tuple(data.classes):
        raise DataError(
            f"{own.name} is {own.kind} data with {len(own.classes)} classes, {data.name} is {data.kind} data with "
            f"{len(data.classes)}",
            "choose the best epoch on data of the same task (--validation-data)",
        )
    return data, own


def fitted_on(data: ImageData, fraction: float, seed: int) -> ImageData:
    """What may be looked at before healing: all but what `parted` holds out of the same data without their answers.

    Args:
        data: Samples; their answers stay.
        fraction: That healing holds out; at 0 nothing.
        seed: Of healing.

    Raises:
        DataError: There are too few.
    """
    if not fraction:
        return data
    rows = np.arange(len(data))
    out = held_out(np.zeros(len(data), dtype=np.int64), fraction, seed)
    if not out.any() or out.all():
        raise DataError(
            f"{data.name}: {len(data)} samples are too few to spare {fraction:g} of them",
            "take a larger fraction, or more images",
        )
    return data.subset(rows[~out])


def tell_if_neighbours_are_alike(data: ImageData, train: Prepared) -> None:
    """Say that samples beside each other look alike, as those of one video do: held out at random they are known.

    Args:
        data: What is trained on.
        train: The same as the network gets it.
    """
    groups = data.labels if data.labelled else np.zeros(len(data), dtype=np.int64)
    near = np.flatnonzero(groups[1:] == groups[:-1])
    if len(near) < _PAIRS or not train.cached:
        return
    random = np.random.RandomState(0)
    chosen = np.sort(random.choice(near, _PAIRS, replace=False))
    others = np.array([random.choice(np.flatnonzero(groups == groups[place])) for place in chosen])
    first, second, other = (_rows(train, places) for places in (chosen, chosen + 1, others))
    apart = float((first - other).abs().mean(1).median())
    if float((first - second).abs().mean(1).median()) < _ALIKE * apart:
        log.log(
            NOTE,
            "%s: samples that follow each other look alike, as pictures of one video do, and the best epoch is chosen "
            "on some between them: it will look better than it is; hold out a row of them (--hold-out block), or name "
            "data of their own (--validation-data)",
            data.name,
        )


def _rows(train: Prepared, places: np.ndarray) -> torch.Tensor:
    """All numbers of some samples, ``[n, numbers]``."""
    pairs = zip(arguments(train.tensor(places)), train.axes, strict=True)
    return torch.cat([each.movedim(axis, 0).reshape(len(places), -1).float() for each, axis in pairs], 1)
