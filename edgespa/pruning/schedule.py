"""Schedules: which density holds after each pruning step."""

from __future__ import annotations

from typing import Literal, get_args

from edgespa.errors import ConfigError

Schedule = Literal["one-shot", "linear", "cubic"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)


def densities(schedule: str, target: float, steps: int) -> list[float]:
    """Densities after steps 1..n of a schedule; the last is the target.

    ``one-shot`` has a single step. ``linear``: ``1 - (1 - target) * t``. ``cubic``:
    ``target + (1 - target) * (1 - t)**3`` (Zhu and Gupta 2017, arXiv 1710.01878, eq. 1, from density 1), with
    ``t = step / steps``.

    Args:
        schedule: Its name.
        target: Final density, in (0, 1].
        steps: Number of steps, at least 1.

    Raises:
        ConfigError: If a value is out of range.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"unknown schedule '{schedule}'", f"choose one of: {', '.join(SCHEDULES)}")
    if not 0 < target <= 1:
        raise ConfigError(f"density must be in (0, 1], got {target:g}")
    if steps < 1:
        raise ConfigError(f"a schedule needs at least one step, got {steps}")
    if target == 1:
        return []
    if schedule == "one-shot":
        return [target]
    times = [step / steps for step in range(1, steps + 1)]
    if schedule == "linear":
        return [1 - (1 - target) * t for t in times[:-1]] + [target]
    return [target + (1 - target) * (1 - t) ** 3 for t in times[:-1]] + [target]
