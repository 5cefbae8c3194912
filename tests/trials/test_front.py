"""What is best by several goals: worked out by hand, and laws over any points."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgespa.trials.front import best, covering, dominates, fronts, pareto, third

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), max_size=25)


def test_by_hand() -> None:
    points = [(1, 5), (2, 3), (4, 1), (3, 4), (4, 4), (2, 3)]
    assert pareto(points) == [0, 1, 2]
    assert fronts(points) == [[0, 1, 2], [5], [3], [4]]  # what is equal comes a front later
    assert dominates((1, 2), (1, 3))
    assert not dominates((1, 2), (1, 2))
    assert not dominates((1, 3), (2, 2))


def test_covering_by_hand() -> None:
    """Over ranks, with a place behind the last: of four on a line the middle ones have 2 x 3 cells, the ends 1 x 4."""
    line = [(0, 1000), (1, 4), (4, 3), (10, 0)]
    assert covering(line, 1) == [1]
    # Then 2 and 3 add as much, 2 cells each, and 0 one: the earlier of equal ones.
    assert covering(line, 2) == [1, 2]
    assert covering(line, 3) == [1, 2, 0]
    assert covering(line, 9) == [1, 2, 0, 3]
    # What was covered counts once: 1 alone has 8 cells, and beside 2, with which it shares six, as few as 0.
    assert covering([(0, 4), (1, 3), (2, 2), (3, 1), (4, 0)], 2) == [2, 0]
    assert covering([], 3) == []
    assert covering([(1, 1), (1, 1)], 1) == [0]
    assert covering([(1, 1)], 0) == []


def test_covering_has_a_bound() -> None:
    """So many different numbers are told apart by levels alone, and the middle still comes first."""
    many = [(float(each), float(-each), float(each % 7)) for each in range(1000)]
    (first,) = covering(many, 1)
    assert 250 < first < 750
    assert len(set(covering(many, 40))) == 40


def test_the_best_are_whole_fronts_then_what_covers_most() -> None:
    points = [(0, 1000), (1, 4), (4, 3), (10, 0), (11, 1001)]
    assert best(points, 1) == [1]
    assert best(points, 2) == [1, 2]
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


@given(POINTS, st.integers(1, 30), st.floats(0.1, 10), st.floats(-5, 5))
def test_what_goals_are_measured_in_changes_nothing(
    points: list[tuple[int, int, int]], count: int, factor: float, shift: float
) -> None:
    other = [(one * factor + shift, two**3, three) for one, two, three in points]
    assert best(other, count) == best(points, count)
