"""Widths that cost no time are given back, and none that does."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from edgespa.selection.widen import widened

WIDTHS = {"a": range(1, 65), "b": range(1, 65), "c": (8, 16)}


def stairs(counts: Mapping[str, int]) -> float:
    """Layers between the groups, padded to blocks of 16."""
    a, b, c = (math.ceil(counts[name] / 16) for name in "abc")
    return 3.0 * a * b + b * c


def test_to_the_end_of_each_step() -> None:
    assert widened({"a": 17, "b": 20, "c": 8}, WIDTHS, stairs) == {"a": 32, "b": 32, "c": 16}
    assert widened({"a": 64, "b": 16, "c": 16}, WIDTHS, stairs) == {"a": 64, "b": 16, "c": 16}


def test_over_a_width_that_is_slow() -> None:
    times = {8: 1.0, 12: 5.0, 16: 1.0}
    assert widened({"a": 8}, {"a": (8, 12, 16)}, lambda counts: times[counts["a"]]) == {"a": 16}


def test_what_every_unit_costs_stays() -> None:
    counts = {"a": 17, "b": 20, "c": 8}
    assert widened(counts, WIDTHS, lambda now: float(sum(now.values()))) == counts


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from([8, 16]))
def test_never_narrower_and_never_slower(a: int, b: int, c: int) -> None:
    counts = {"a": a, "b": b, "c": c}
    result = widened(counts, WIDTHS, stairs)
    assert all(result[name] >= count for name, count in counts.items())
    assert stairs(result) <= stairs(counts) * 1.003
    assert widened(result, WIDTHS, stairs) == result
