"""Which layers stay in float: the fewest, by how much int8 in each of them alone moves the outputs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_MOST_ERROR = 1e3  # of a layer that makes the outputs infinite: sums must stay numbers


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was found.

    Attributes:
        float_layers: Layers that stay in float, the most sensitive first.
        error: Of a file that keeps them in float.
        tried: Number of files that were made and run after the ranking.
    """

    float_layers: tuple[str, ...]
    error: float
    tried: int


def by_weights(weights: Mapping[str, NDArray[np.float32] | None]) -> tuple[tuple[str, ...], ...]:
    """Layers that have the same weights, together, in the order of the first of each.

    Args:
        weights: Of each layer; one without is alone.
    """
    found: dict[object, list[str]] = {}
    for name, weight in weights.items():
        key = name if weight is None else (weight.shape, hashlib.sha256(weight.tobytes()).digest())
        found.setdefault(key, []).append(name)
    return tuple(map(tuple, found.values()))


def rank(layers: Sequence[str], alone: Callable[[str], float]) -> dict[str, float]:
    """The harm of each layer, the most harmful first.

    Args:
        layers: Names.
        alone: Error of the outputs' worst component, with that layer alone in int8.

    Returns:
        Name -> the square of the error, which adds up where errors are independent; equals keep their order.
    """
    harm = {name: min(alone(name), _MOST_ERROR) ** 2 for name in layers}
    return dict(sorted(harm.items(), key=lambda item: -item[1]))


def choose(
    harm: Mapping[str, float],
    error_with: Callable[[tuple[str, ...]], float],
    most: float,
    least: int = 0,
    budget: float | None = None,
) -> Choice | None:
    """The fewest of the most harmful layers that must stay in float.

    The first guess is where the sum of the rest's harm is small enough. From there by doubling steps and then by
    halves: about log2(layers) files instead of one for each count.

    Args:
        harm: Of each layer, the most harmful first.
        error_with: Error of a file that keeps these layers in float.
        most: Largest error.
        least: Count that is known not to be enough below it.
        budget: Harm of the rest that the first guess allows, where errors are of another kind than the harm; else the
            square of ``most``.

    Returns:
        None if even the last layer but one is not enough.
    """
    names = list(harm)
    found: dict[int, float] = {}

    def good(count: int) -> bool:
        if count not in found:
            found[count] = error_with(tuple(names[:count]))
        return found[count] <= most

    low, high = least - 1, _guess(list(harm.values()), most**2 if budget is None else budget, least)
    step = max(1, high // 2)
    while not good(high):
        if high >= len(names) - 1:
            return None
        low, high, step = high, min(len(names) - 1, high + step), step * 2
    while high - low > 1:
        middle = (low + high) // 2
        if good(middle):
            high = middle
        else:
            low = middle
    return Choice(tuple(names[:high]), found[high], len(found))


def _guess(harm: Sequence[float], budget: float, least: int) -> int:
    rest = sum(harm)
    for count, each in enumerate(harm):
        if rest <= budget:
            return max(least, min(count, len(harm) - 1))
        rest -= each
    return max(least, len(harm) - 1)
