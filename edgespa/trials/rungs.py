"""Which trials of a wave go on, pure: what is too slow never begins, of the rest the best third, twice.

A wave goes through the stages together, so that what is decided hangs neither on how many run at a time nor on which
ends first: synchronous successive halving, Jamieson and Talwalkar 2016, arXiv 1502.07943, with several goals, where the
best are the first fronts (`edgespa.trials.front`).
"""

from __future__ import annotations

from collections.abc import Sequence

from edgespa.objectives.measures import Measure
from edgespa.trials.front import best, pareto, third
from edgespa.trials.record import Goal, Trial

_FAR = 1e18
"""In place of a number that is not known: behind all others."""


def over_budget(trial: Trial, latency_ms: float | None, size_bytes: int | None) -> str | None:
    """Why a trial is not worth its training; None where it is.

    Args:
        trial: With what was foretold of it.
        latency_ms: What an inference may take.
        size_bytes: What the file may have.
    """
    if latency_ms is not None and trial.latency_ms is not None and trial.latency_ms > latency_ms:
        return f"too slow by the latency table: {trial.latency_ms:.3g} ms, and {latency_ms:.3g} are asked for"
    if size_bytes is not None and trial.size_bytes is not None and trial.size_bytes > size_bytes:
        return f"too large: {trial.size_bytes:,} bytes, and {size_bytes:,} are asked for"
    return None


def merit(trial: Trial, measure: Measure | None) -> float | None:
    """How good a trial is after its last stage, the less the better; only among those of that stage.

    Args:
        trial: It.
        measure: What quality is.
    """
    if trial.stage in ("full", "file") and trial.quality is not None:
        value = trial.quality
    elif trial.stage == "few" and trial.few is not None:
        value = trial.few
    elif trial.stage == "cut":
        return trial.error
    else:
        return None
    return -measure.merit(value) if measure is not None else -value


def point_of(trial: Trial, goals: Sequence[Goal], measure: Measure | None) -> tuple[float, ...]:
    """A trial by its goals, the less the better.

    Args:
        trial: It.
        goals: What counts.
        measure: What quality is.
    """
    known = {"quality": merit(trial, measure), "latency": trial.time_ms, "bytes": trial.size_bytes}
    return tuple(_FAR if (value := known[goal]) is None else float(value) for goal in goals)


def going_on(trials: Sequence[Trial], goals: Sequence[Goal], measure: Measure | None) -> list[int]:
    """The best third of trials that are at the same stage, by their place in the list.

    Args:
        trials: Of one wave, at one stage.
        goals: What counts.
        measure: What quality is.
    """
    return best([point_of(each, goals, measure) for each in trials], third(len(trials)))


def on_front(trials: Sequence[Trial], goals: Sequence[Goal], measure: Measure | None) -> list[int]:
    """The trials that no other beats, by their place in the list.

    Args:
        trials: Complete ones.
        goals: What counts.
        measure: What quality is.
    """
    return pareto([point_of(each, goals, measure) for each in trials])


def told(trial: Trial, goals: Sequence[Goal], measure: Measure | None) -> tuple[float, ...] | None:
    """What a sampler is told of a trial; None of one that failed.

    Stages cannot be compared by their figures, so the quality is in the first place how far a trial came: whatever was
    fully adapted is better than what was stopped before, what was rejected is worse than all. Within a stage it is the
    order of its own figure, between 0 and 1.

    Args:
        trial: That is done with.
        goals: What counts.
        measure: What quality is.
    """
    if trial.state == "failed" or trial.state == "waiting":
        return None
    far = {"": 0, "cut": 1, "few": 2, "full": 3, "file": 3}[trial.stage]
    value = merit(trial, measure)
    reached = -1.0 if trial.state == "rejected" or value is None else far - value / (1 + abs(value)) / 2
    point = dict(zip(goals, point_of(trial, goals, measure), strict=True))
    return tuple(reached if goal == "quality" else point[goal] for goal in goals)
