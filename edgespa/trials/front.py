"""Which of several things are best when more than one goal counts: fronts of Pareto, and the best part of many."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def crowding(points: Sequence[Point]) -> list[float]:
    """How far apart the neighbours of each point are, summed over the goals; of the ends of each goal infinity.

    Deb et al. 2002 (NSGA-II), section III-B.

    Args:
        points: Of one front.
    """
    distances = [0.0] * len(points)
    for goal in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda index: (points[index][goal], index))
        span = points[order[-1]][goal] - points[order[0]][goal]
        distances[order[0]] = distances[order[-1]] = math.inf
        for place in range(1, len(order) - 1):
            if span > 0:
                gap = points[order[place + 1]][goal] - points[order[place - 1]][goal]
                distances[order[place]] += gap / span
    return distances


def best(points: Sequence[Point], count: int) -> list[int]:
    """So many of the points: front after front, of the last one those that stand apart most; by their number.

    Args:
        points: Any number.
        count: How many; all of them if there are fewer.
    """
    found: list[int] = []
    for own in fronts(points):
        room = count - len(found)
        if room <= 0:
            break
        apart = crowding([points[each] for each in own])
        ranked = sorted(range(len(own)), key=lambda index: (-apart[index], own[index]))
        found += [own[index] for index in ranked[:room]]
    return sorted(found)


def third(count: int) -> int:
    """How many of so many go on: a third, rounded up.

    Successive halving with the factor 3: Jamieson and Talwalkar 2016, arXiv 1502.07943, algorithm 1; Li et al. 2018
    (Hyperband), arXiv 1603.06560, section 3.

    Args:
        count: How many there are.
    """
    return -(-count // 3)
