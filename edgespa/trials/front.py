"""Which of several things are best when more than one goal counts: fronts of Pareto, and the best part of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LEVELS = 64
"""Of a goal, that are told apart where the front has more points: what is counted is bounded."""
Point = Sequence[float]
"""A number for each goal, the less the better."""


def dominates(one: Point, other: Point) -> bool:
    """Whether one is nowhere worse and somewhere better.

    Args:
        one: A point.
        other: A point of as many numbers.
    """
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


def pareto(points: Sequence[Point]) -> list[int]:
    """The points that no other dominates, by their number; of equal points the first.

    Args:
        points: Any number.
    """
    found = []
    for index, point in enumerate(points):
        beaten = any(dominates(other, point) for other in points)
        twice = any(tuple(other) == tuple(point) for other in points[:index])
        if not beaten and not twice:
            found.append(index)
    return found


def fronts(points: Sequence[Point]) -> list[list[int]]:
    """The front, the front of what is left without it, and so on. Equal points are in fronts of their own.

    Deb et al. 2002 (NSGA-II), section III-A; there equal points share a front.

    Args:
        points: Any number.
    """
    left = list(range(len(points)))
    found = []
    while left:
        own = [left[index] for index in pareto([points[each] for each in left])]
        found.append(own)
        left = [each for each in left if each not in own]
    return found


def covering(points: Sequence[Point], count: int) -> list[int]:
    """Points that together dominate most of what any of them does, by their number; the first does most alone.

    Greedy choice by hypervolume (Guerreiro, Fonseca and Paquete 2016, doi 10.1162/EVCO_a_00188), here over ranks: what
    a goal is measured in, and how far apart two values of it are, changes nothing. Where points are a curve, its
    middle comes before its ends.

    Args:
        points: Of one front.
        count: How many; all of them if there are fewer.
    """
    if not points:
        return []
    ranks = np.stack([_levels([point[goal] for point in points]) for goal in range(len(points[0]))], axis=1)
    free = np.ones(tuple(ranks.max(axis=0) + 1), dtype=bool)
    left, found = list(range(len(points))), list[int]()
    while left and len(found) < count:
        beyond = {each: tuple(slice(rank, None) for rank in ranks[each]) for each in left}
        gains = {each: int(np.count_nonzero(free[beyond[each]])) for each in left}
        taken = max(left, key=lambda each: (gains[each], -each))
        free[beyond[taken]] = False
        left.remove(taken)
        found.append(taken)
    return found


def _levels(values: Sequence[float]) -> NDArray[np.int64]:
    """The place of each value among all that there are, from 0; of many values several share one."""
    _, ranks = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True)
    most = int(ranks.max())
    return ranks if most < _LEVELS else ranks * (_LEVELS - 1) // most


def best(points: Sequence[Point], count: int) -> list[int]:
    """So many of the points: front after front, of the last one those that cover most; by their number.

    Args:
        points: Any number.
        count: How many; all of them if there are fewer.
    """
    found: list[int] = []
    for own in fronts(points):
        room = count - len(found)
        if room <= 0:
            break
        found += [own[index] for index in covering([points[each] for each in own], room)]
    return sorted(found)


def third(count: int) -> int:
    """How many of so many go on: a third, rounded up.

    Successive halving with the factor 3: Jamieson and Talwalkar 2016, arXiv 1502.07943, algorithm 1; Li et al. 2018
    (Hyperband), arXiv 1603.06560, section 3.

    Args:
        count: How many there are.
    """
    return -(-count // 3)
