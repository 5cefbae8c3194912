"""Schedules: which density holds after each pruning step, when the steps are, and the learning rate between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from edgespa.errors import ConfigError

Schedule = Literal["one-shot", "linear", "cubic", "stepwise"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)
WARM_UP = 0.05


def densities(schedule: str, target: float, steps: int, fraction: float = 0.05) -> list[float]:
    """Densities after steps 1..n of a schedule; the last is the target.

    ``one-shot`` has a single step. ``linear``: ``1 - (1 - target) * t``. ``cubic``:
    ``target + (1 - target) * (1 - t)**3`` (Zhu and Gupta 2017, arXiv 1710.01878, eq. 1, from density 1), with
    ``t = step / steps``. ``stepwise``: each step takes the same fraction of the *unpruned* network, 5% in Structured
    Pruning Adapters (Hedegaard et al. 2022, arXiv 2211.10155, section 5); the last one what is left to take.

    Args:
        schedule: Its name.
        target: Final density, in (0, 1].
        steps: Number of steps, at least 1; not looked at by ``one-shot`` and ``stepwise``.
        fraction: What a step of ``stepwise`` takes, in (0, 1].

    Raises:
        ConfigError: If a value is out of range.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"unknown schedule '{schedule}'", f"choose one of: {', '.join(SCHEDULES)}")
    if not 0 < target <= 1:
        raise ConfigError(f"density must be in (0, 1], got {target:g}")
    if steps < 1:
        raise ConfigError(f"a schedule needs at least one step, got {steps}")
    if not 0 < fraction <= 1:
        raise ConfigError(f"the fraction of a pruning step must be in (0, 1], got {fraction:g}")
    if target == 1:
        return []
    if schedule == "one-shot":
        return [target]
    if schedule == "stepwise":
        count = max(1, math.ceil((1 - target) / fraction - 1e-9))
        return [1 - fraction * step for step in range(1, count)] + [target]
    times = [step / steps for step in range(1, steps + 1)]
    if schedule == "linear":
        return [1 - (1 - target) * t for t in times[:-1]] + [target]
    return [target + (1 - target) * (1 - t) ** 3 for t in times[:-1]] + [target]


def pruning_times(count: int, total: int, first: float, last: float) -> list[int]:
    """Training steps of evenly spread pruning steps, none after the last training step.

    The final density has to be reached, and trained on; so several may fall on one step.

    Args:
        count: Number of pruning steps.
        total: Number of training steps.
        first: Fraction of the training at which the first is.
        last: Fraction at which the last is.
    """
    begin, end = round(first * total), round(last * total)
    gaps = max(count - 1, 1)
    return [min(begin + round((end - begin) * index / gaps), total - 1) for index in range(count)]


def recovery_times(count: int, total: int, first: float, gap: int) -> list[int]:
    """Training steps of pruning steps that are a fixed number of training steps apart, the last one recovering too.

    Args:
        count: Number of pruning steps.
        total: Number of training steps.
        first: Fraction of the training at which the first is.
        gap: Training steps of recovery after each, at least 1.

    Raises:
        ConfigError: If the training is too short; it says how many training steps are needed.
    """
    begin = round(first * total)
    if begin + count * gap > total:
        raise ConfigError(
            f"{count} pruning steps with {gap} training steps of recovery each, after the first {begin}, do not fit "
            f"into {total} training steps",
            f"take {math.ceil(count * gap / max(1 - first, 1e-9) / total * 100)}% of the epochs (--epochs), fewer "
            "pruning steps, or a shorter recovery (--recovery-epochs)",
        )
    return [begin + index * gap for index in range(count)]


def learning_rate(
    step: int, total: int, peak: float, restarts: Sequence[int] = (), warm_up_share: float = WARM_UP
) -> float:
    """Linear warm-up over a part of the steps, then a half cosine to zero; anew from each restart.

    Args:
        step: From 0.
        total: Number of training steps.
        peak: Highest rate.
        restarts: Steps at which it begins anew, such as pruning steps.
        warm_up_share: Of the steps.
    """
    begin = max((each for each in restarts if each <= step), default=0)
    end = min((each for each in restarts if each > step), default=total)
    place, length = step - begin, end - begin
    warm_up = max(1, round(warm_up_share * length))
    if place < warm_up:
        return peak * (place + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (place - warm_up) / max(1, length - warm_up)))
