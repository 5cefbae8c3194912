"""Schedules by their formulas."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespa.errors import ConfigError
from edgespa.pruning.schedule import SCHEDULES, densities


def test_formulas() -> None:
    assert densities("one-shot", 0.3, 7) == [0.3]
    assert densities("linear", 0.2, 4) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert densities("cubic", 0.2, 2) == pytest.approx([0.2 + 0.8 / 8, 0.2])
    assert densities("cubic", 0.5, 1) == [0.5]


@given(st.sampled_from(SCHEDULES), st.floats(0.01, 0.99), st.integers(1, 30))
def test_a_schedule_falls_and_ends_at_exactly_the_target(schedule: str, target: float, steps: int) -> None:
    values = densities(schedule, target, steps)
    assert values[-1] == target
    assert len(values) == (1 if schedule == "one-shot" else steps)
    assert all(later <= earlier for earlier, later in itertools.pairwise(values))
    assert values[0] <= 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_density_one_needs_no_step(schedule: str) -> None:
    assert densities(schedule, 1.0, 5) == []


@pytest.mark.parametrize(
    ("schedule", "target", "steps"),
    [("step", 0.5, 1), ("linear", 0.0, 1), ("linear", 1.01, 1), ("linear", math.nan, 1), ("cubic", 0.5, 0)],
)
def test_what_cannot_be_is_refused(schedule: str, target: float, steps: int) -> None:
    with pytest.raises(ConfigError):
        densities(schedule, target, steps)
