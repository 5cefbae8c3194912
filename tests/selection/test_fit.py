"""The search for the largest density within a time: right on any rising curve, and few measurements."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespa.selection.fit import MOST, TOLERANCE, Search, largest_within

CURVES: dict[str, Callable[[float], float]] = {
    "line": lambda density: 1 + 9 * density,
    "square": lambda density: 1 + 9 * density**2,
    "root": lambda density: 1 + 9 * math.sqrt(density),
    "mostly overhead": lambda density: 9 + density,
    "knee": lambda density: 1 + max(0.0, density - 0.9) * 90,
}


def search(limit: float, curve: Callable[[float], float], steps: int = 1000, **options: float) -> Search[int]:
    """On a grid of so many candidates, as alignment makes one."""
    return largest_within(
        limit,
        lambda density: round(density * steps),
        lambda key: curve(key / steps),
        low=options.pop("low", 0.01),
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8, 0.97])
def test_it_ends_just_below_the_limit(name: str, share: float) -> None:
    curve = CURVES[name]
    limit = curve(0.01) + share * (curve(1.0) - curve(0.01))
    found = search(limit, curve)
    assert found.chosen is not None
    assert found.chosen.time <= limit
    next_one = curve((found.chosen.key + 1) / 1000)
    assert found.chosen.time >= (1 - TOLERANCE) * limit or next_one > limit
    assert len(found.trials) <= 12
    assert len({trial.key for trial in found.trials}) == len(found.trials)


def test_a_network_that_is_fast_enough_is_left_whole() -> None:
    found = search(10.5, CURVES["line"])
    assert found.chosen is not None
    assert (found.chosen.density, len(found.trials)) == (1.0, 1)


def test_what_cannot_be_reached_is_told_with_the_fastest() -> None:
    found = search(1.05, CURVES["line"])
    assert found.chosen is None
    assert found.fastest.time == pytest.approx(CURVES["line"](0.01))
    assert len(found.trials) == 2


def test_few_candidates_are_tried_once_each() -> None:
    # Five widths, none near the limit: the largest that fits is right, however far below.
    found = search(8.0, CURVES["line"], steps=4)
    assert found.chosen is not None
    assert found.chosen.key == 3
    found = search(5.4, CURVES["line"], steps=4)
    assert found.chosen is not None
    assert found.chosen.key == 1
    assert len(found.trials) <= 5


@given(
    st.lists(st.floats(0.01, 1.0), min_size=5, max_size=60).map(np.cumsum),
    st.floats(0.0, 1.0),
)
def test_on_any_staircase_no_larger_candidate_fits_or_it_is_near(steps: np.ndarray, share: float) -> None:
    last = len(steps) - 1
    limit = float(steps[0] + share * (steps[-1] - steps[0]))
    found = largest_within(limit, lambda d: round(d * last), lambda key: float(steps[key]), low=0.0, most=100)
    assert found.chosen is not None
    fits = max(index for index, time in enumerate(steps) if time <= limit)
    assert found.chosen.key == fits or found.chosen.time >= (1 - TOLERANCE) * limit
    assert found.chosen.time <= limit


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_lead_astray(seed: int) -> None:
    random = np.random.default_rng(seed)
    found = search(5.0, lambda density: (1 + 9 * density) * float(random.uniform(0.95, 1.1)))
    assert found.chosen is not None
    assert 0.85 * 5 <= found.chosen.time <= 5
    assert len(found.trials) <= MOST
