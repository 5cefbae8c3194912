"""Schedules by their formulas."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespa.errors import ConfigError
from edgespa.selection.schedule import SCHEDULES, densities, learning_rate, pruning_times, recovery_times


def test_formulas() -> None:
    assert densities("one-shot", 0.3, 7) == [0.3]
    assert densities("linear", 0.2, 4) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert densities("cubic", 0.2, 2) == pytest.approx([0.2 + 0.8 / 8, 0.2])
    assert densities("cubic", 0.5, 1) == [0.5]
    assert densities("stepwise", 0.8, 1) == pytest.approx([0.95, 0.9, 0.85, 0.8])
    assert densities("stepwise", 0.83, 1) == pytest.approx([0.95, 0.9, 0.85, 0.83])
    assert densities("stepwise", 0.5, 1, 0.5) == [0.5]
    assert densities("stepwise", 0.97, 1) == [0.97]


@given(st.sampled_from(SCHEDULES), st.floats(0.01, 0.99), st.integers(1, 30))
def test_a_schedule_falls_and_ends_at_exactly_the_target(schedule: str, target: float, steps: int) -> None:
    values = densities(schedule, target, steps)
    assert values[-1] == target
    if schedule != "stepwise":
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


@given(st.floats(0.01, 0.99), st.floats(0.01, 1.0))
def test_no_step_of_the_papers_schedule_takes_more_than_its_fraction(target: float, fraction: float) -> None:
    values = [1.0, *densities("stepwise", target, 1, fraction)]
    taken = [earlier - later for earlier, later in itertools.pairwise(values)]
    assert all(0 < each <= fraction + 1e-6 for each in taken)
    assert all(each == pytest.approx(fraction) for each in taken[:-1])


@pytest.mark.parametrize("fraction", [0.0, 1.5])
def test_a_fraction_that_cannot_be_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        densities("stepwise", 0.5, 1, fraction)


def test_times_by_hand() -> None:
    assert pruning_times(3, 100, 0.1, 0.5) == [10, 30, 50]
    assert pruning_times(1, 100, 0.1, 0.5) == [10]
    assert pruning_times(0, 100, 0.1, 0.5) == []
    assert pruning_times(2, 100, 0.9, 1.0) == [90, 99]  # never after the last step
    assert recovery_times(3, 100, 0.1, 30) == [10, 40, 70]
    assert recovery_times(0, 10, 0.1, 30) == []


def test_a_training_too_short_for_its_recovery_is_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit into 100 training steps") as caught:
        recovery_times(3, 100, 0.1, 31)
    assert "--epochs" in str(caught.value.hint)


def test_the_learning_rate_by_hand() -> None:
    rates = [learning_rate(step, 100, 2.0) for step in range(100)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[5] == 2.0
    assert rates[5 + 95 // 2] == pytest.approx(1 + math.cos(math.pi * 47 / 95))
    assert 0 < rates[99] < 0.01
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[5:]))


def test_the_learning_rate_begins_anew_at_each_restart() -> None:
    restarts = (40, 60)
    rates = [learning_rate(step, 100, 2.0, restarts) for step in range(100)]
    for begin, end in ((0, 40), (40, 60), (60, 100)):
        assert rates[begin:end] == [learning_rate(step, end - begin, 2.0) for step in range(end - begin)]
    assert rates[39] < 0.1 < rates[40]
