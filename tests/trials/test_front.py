"""What is best by several goals: worked out by hand, and laws over any points."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from edgespa.trials.front import best, crowding, dominates, fronts, pareto, third

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), max_size=25)


def test_by_hand() -> None:
    points = [(1, 5), (2, 3), (4, 1), (3, 4), (4, 4), (2, 3)]
    assert pareto(points) == [0, 1, 2]
    assert fronts(points) == [[0, 1, 2], [5], [3], [4]]  # what is equal comes a front later
    assert dominates((1, 2), (1, 3))
    assert not dominates((1, 2), (1, 2))
    assert not dominates((1, 3), (2, 2))


def test_crowding_by_hand() -> None:
    """Deb et al. 2002: the gap between the neighbours over the span, summed over the goals."""
    assert crowding([(0, 10), (1, 4), (4, 3), (10, 0)]) == [math.inf, 4 / 10 + 7 / 10, 9 / 10 + 4 / 10, math.inf]
    assert crowding([]) == []
    assert crowding([(1, 1), (1, 1)]) == [math.inf, math.inf]


def test_the_best_are_whole_fronts_then_what_stands_apart() -> None:
    points = [(0, 10), (1, 4), (4, 3), (10, 0), (11, 11)]
    assert best(points, 3) == [0, 2, 3]
    assert best(points, 4) == [0, 1, 2, 3]
    assert best(points, 9) == [0, 1, 2, 3, 4]
    assert best(points, 0) == []


def test_a_third_is_rounded_up() -> None:
    assert [third(count) for count in (0, 1, 2, 3, 4, 9, 12)] == [0, 1, 1, 1, 2, 3, 4]


@given(POINTS)
def test_nothing_on_the_front_is_beaten_and_all_else_is(points: list[tuple[int, int, int]]) -> None:
    own = pareto(points)
    for index, point in enumerate(points):
        beaten = any(dominates(other, point) for other in points)
        twice = any(points[each] == point for each in own if each != index)
        assert (index in own) != (beaten or twice)


@given(POINTS, st.integers(0, 30))
def test_what_goes_on_is_not_beaten_by_what_does_not(points: list[tuple[int, int, int]], count: int) -> None:
    kept = best(points, count)
    assert len(kept) == len(set(kept)) == min(count, len(points))
    left = set(range(len(points))) - set(kept)
    assert not any(dominates(points[other], points[each]) for each in kept for other in left)
    assert sorted(each for own in fronts(points) for each in own) == list(range(len(points)))
