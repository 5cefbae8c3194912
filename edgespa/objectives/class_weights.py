"""How much each class counts in the loss: by a file, or so that all count the same."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgespa.errors import ConfigError
from edgespa.models.imports import nearest
from edgespa.objectives.base import Objective
from edgespa.system.files import plain_text

Given = str | Mapping[str, float] | Sequence[float]
_FORMATS = 'write JSON, {"cat": 2, "dog": 1} or [2, 1] in the order of the classes, or CSV with lines of class,weight'


def read_weights(path: Path) -> dict[str, float] | tuple[float, ...]:
    """Weights from a file.

    Args:
        path: JSON (an object by class, or a list in the order of the classes), or CSV of ``class,weight``.

    Raises:
        ConfigError: If it cannot be read, or a weight is not a number.
    """
    try:
        text = plain_text(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the class weights {path} cannot be read: {error}", "name a file, or: balanced") from error
    try:
        values = json.loads(text) if text.lstrip()[:1] in ("{", "[") else _from_csv(text)
        if isinstance(values, dict):
            return {str(name): _number(value) for name, value in values.items()}
        return tuple(_number(value) for value in values)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} holds no class weights: {error}", _FORMATS) from error


def _from_csv(text: str) -> dict[str, float]:
    lines = [line for line in csv.reader(io.StringIO(text)) if line]
    if not lines or any(len(line) != 2 for line in lines):
        raise ValueError("a line is not class,weight")
    return {name.strip(): float(value) for name, value in lines}


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def class_weights(
    given: Given,
    labels: Tensor,
    classes: Sequence[str],
    objective: Objective,
    data: str,
    pixels: Sequence[int] | None = None,
) -> Tensor | None:
    """The weights that a loss takes.

    Args:
        given: ``none``, ``balanced``, or a number per class, by name or in order.
        labels: Class indices ``[N]``, or targets ``[N, K]`` of 0 and 1.
        classes: Their names.
        objective: What is learned.
        data: The data's name, for messages.
        pixels: Where each pixel has a class: how many pixels each class has.

    Returns:
        ``[classes]``, or None.

    Raises:
        ConfigError: If the data have no classes, or the weights are not one number of at least 0 for each of them.
    """
    if given == "none":
        return None
    if not objective.weighs:
        raise ConfigError(f"{data} is {objective.name} data: it has no classes to weigh", "leave out --class-weights")
    if given == "balanced":
        if pixels is not None:
            return balanced(torch.tensor(pixels[: len(classes)], dtype=torch.float32))
        if objective.name == "multi-label":
            return balanced_yeses(labels)
        return balanced_weights(labels, len(classes))
    values = _in_order(given, classes, data) if isinstance(given, Mapping) else [float(value) for value in given]
    if len(values) != len(classes):
        raise ConfigError(f"{len(values)} class weights, and {data} has {len(classes)} classes", "give one for each")
    for name, value in zip(classes, values, strict=True):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"the weight of class {name} is {value:g}", "give a number of at least 0")
    if not any(values):
        raise ConfigError("all class weights are 0: nothing would be learned", "give one that is larger")
    return torch.tensor(values, dtype=torch.float32)


def _in_order(given: Mapping[str, float], classes: Sequence[str], data: str) -> list[float]:
    for name in given:
        if name not in classes:
            near = ", ".join(nearest(name, classes)) or ", ".join(classes[:5])
            raise ConfigError(f"{data} has no class {name!r}, which has a weight", f"nearest: {near}")
    absent = [name for name in classes if name not in given]
    if absent:
        raise ConfigError(f"the class {absent[0]!r} of {data} has no weight", "give one for each class")
    return [float(given[name]) for name in classes]


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """``N / (classes * N_c)``: every class counts the same in sum; a class without images counts nothing.

    Args:
        labels: Class indices ``[N]``.
        classes: Their number.
    """
    return balanced(torch.bincount(labels, minlength=classes).float())


def balanced(counts: Tensor) -> Tensor:
    """The same from how often each class occurs, ``[classes]``."""
    weights = counts.sum() / (len(counts) * counts.clamp(min=1))
    return torch.where(counts > 0, weights, torch.zeros(()))


def balanced_yeses(targets: Tensor) -> Tensor:
    """``no_c / yes_c``: the yeses of a class count as much as its noes; 1 for a class that has only one of them.

    Args:
        targets: ``[N, K]`` of 0 and 1.
    """
    yes = (targets > 0.5).float().sum(0)
    no = len(targets) - yes
    return torch.where((yes > 0) & (no > 0), no / yes.clamp(min=1), torch.ones(()))
