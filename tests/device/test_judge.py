from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgespa.device.host import Conditions
from edgespa.device.measure.judge import doubts, is_steady


def state(**changes: Any) -> Conditions:
    values: dict[str, Any] = {"load_average": None, "governor": None, "frequency_khz": None, "temperature_c": {}}
    return Conditions.model_validate({**values, **changes})


def test_a_machine_of_which_nothing_is_known_is_not_doubted() -> None:
    assert doubts([state(), state()]) == ()


@pytest.mark.parametrize(
    ("before", "between", "after", "words"),
    [
        (0x0, 0x0, 0x0, None),
        (0x50000, 0x50000, 0x50000, None),  # since it was started, but not now
        (0x50005, 0x50000, 0x50000, "under-voltage"),
        (0x0, 0x4, 0x40000, "it is throttled"),
        (0x0, 0x0, 0x20000, "its clock is capped (meanwhile)"),
        (0x20000, 0x20000, 0xA0000, "it is at its soft temperature limit (meanwhile)"),
    ],
)
def test_the_bits_of_a_raspberry_pi(before: int, between: int, after: int, words: str | None) -> None:
    found = doubts([state(pi_throttled=bits) for bits in (before, between, after)])
    assert (words in found) if words else (found == ())


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"throttle_counts": {"cores": 3}}, {"throttle_counts": {"cores": 5}}, "it was throttled 2 times (cores)"),
        ({"throttle_counts": {"cores": 3}}, {"throttle_counts": {"cores": 3}}, None),
        ({"throttle_counts": {}}, {"throttle_counts": {"oc1": 9}}, None),  # a counter that has just appeared
        ({"swapped_pages": 10}, {"swapped_pages": 500}, "it swapped 490 pages"),
        ({"swapped_pages": 10}, {"swapped_pages": 20}, None),
        ({"swap_used_kib": 0}, {"swap_used_kib": 4096}, "it swapped 4096 KiB out"),
        ({}, {"slowed_by": {"cpufreq-cpu0": 2}}, "cpufreq-cpu0 slows it down"),
        (
            {},
            {"frequency_limit_khz": 1200000, "frequency_max_khz": 1800000},
            "its clock is limited to 1200 of 1800 MHz",
        ),
    ],
)
def test_what_makes_a_run_doubtful(before: dict[str, Any], after: dict[str, Any], words: str | None) -> None:
    assert doubts([state(**before), state(**after)]) == ((words,) if words else ())


def test_what_happens_in_between_counts() -> None:
    assert doubts([state(), state(slowed_by={"gpu-throttle": 1}), state()]) == ("gpu-throttle slows it down",)


RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("count", [30, 60, 200, 5000])
def test_noise_is_steady_and_a_drift_is_not(count: int) -> None:
    noise = 10 + RANDOM.standard_normal(count) * 0.3
    assert is_steady(noise.tolist()) is True
    assert is_steady((noise + np.linspace(0, 2, count)).tolist()) is False
    assert is_steady((noise - np.linspace(0, 2, count)).tolist()) is False


def test_a_few_slow_runs_are_no_trend() -> None:
    times = [10.0 + 0.01 * (i % 7) for i in range(200)]
    for index in (3, 50, 51, 190):
        times[index] = 80.0
    assert is_steady(times) is True


def test_a_trend_too_small_to_matter() -> None:
    assert is_steady([10 + i * 1e-4 for i in range(100)]) is True  # certain, but 0.1%
    assert is_steady([10.0] * 100) is True


def test_false_alarms_are_rare() -> None:
    runs = [is_steady((10 + RANDOM.standard_normal(60)).tolist()) for _ in range(300)]
    assert runs.count(False) <= 10  # 1% by chance


def test_too_few_say_nothing() -> None:
    assert is_steady([1.0] * 29) is None
