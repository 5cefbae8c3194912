"""Giving widths back that cost no time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

TOLERANCE = 0.002
"""So much more of the time is none: less than any clock sees."""


def widened(
    counts: Mapping[str, int],
    widths: Mapping[str, Sequence[int]],
    time: Callable[[Mapping[str, int]], float],
    tolerance: float = TOLERANCE,
) -> dict[str, int]:
    """Widen groups as long as the time of all does not rise.

    On a staircase a selection may stand anywhere on a step: the end of the step takes as long. Groups are tried in the
    order that they have, each as far as it goes, until no group can be widened; the time of the result is at most that
    of the selection, and ``tolerance`` of it, whatever was widened on the way.

    Args:
        counts: Of each group that may be widened how many units it keeps.
        widths: Of each group the numbers of units that it may keep.
        time: Of widths, those of all groups in ``counts``.
        tolerance: Of the time of the selection.
    """
    result = dict(counts)
    limit = time(result) * (1 + tolerance)
    moved = True
    while moved:
        moved = False
        for name in result:
            # The widest first: in between a width may lie that a runtime is slow at.
            for width in sorted((each for each in widths[name] if each > result[name]), reverse=True):
                if time({**result, name: width}) <= limit:
                    result[name] = width
                    moved = True
                    break
    return result
