"""Whether a measurement is clean: throttled, slowed down or swapping machines give other figures. Pure.

A Raspberry Pi's bits (``vcgencmd get_throttled``): 0 under-voltage, 1 clock capped, 2 throttled, 3 soft temperature
limit, each *now*; 16 to 19 the same *since it was started*. A run is doubtful with a low bit set before, while or after
it, or with a high bit that was not set before.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from edgespa.device.host import Conditions

_NOW = {0: "under-voltage", 1: "its clock is capped", 2: "it is throttled", 3: "it is at its soft temperature limit"}
_MOST_SWAPPED_KIB = 256
MIN_TREND = 30
"""Fewer latencies say nothing about a trend."""

_STEADY = 0.02
_SIGNIFICANT = 2.58


def doubts(states: Sequence[Conditions]) -> tuple[str, ...]:
    """Why a run is not clean, in words; empty where nothing speaks against it.

    Args:
        states: Before the run, while it ran, and after it, in order.
    """
    found: dict[str, None] = {}
    for state in states:
        for bit, what in _NOW.items():
            if (state.pi_throttled or 0) >> bit & 1:
                found[what] = None
        for name in state.slowed_by:
            found[f"{name} slows it down"] = None
        limit, most = state.frequency_limit_khz, state.frequency_max_khz
        if limit and most and limit < most:
            found[f"its clock is limited to {limit / 1000:.0f} of {most / 1000:.0f} MHz"] = None
    if len(states) > 1:
        for what in _since(states[0], states[-1]):
            found[what] = None
    return tuple(found)


def _since(before: Conditions, after: Conditions) -> list[str]:
    found = []
    for bit, what in _NOW.items():
        high = 1 << (bit + 16)
        if (after.pi_throttled or 0) & high and not (before.pi_throttled or 0) & high:
            found.append(f"{what} (meanwhile)")
    for name, count in after.throttle_counts.items():
        if count > before.throttle_counts.get(name, count):
            found.append(f"it was throttled {count - before.throttle_counts[name]} times ({name})")
    if before.swapped_pages is not None and after.swapped_pages is not None:
        pages = after.swapped_pages - before.swapped_pages
        if pages > _MOST_SWAPPED_KIB // 4:
            found.append(f"it swapped {pages} pages")
    elif before.swap_used_kib is not None and after.swap_used_kib is not None:
        kib = after.swap_used_kib - before.swap_used_kib
        if kib > _MOST_SWAPPED_KIB:
            found.append(f"it swapped {kib} KiB out")
    return found


def is_steady(times_ms: Sequence[float]) -> bool | None:
    """Whether latencies had settled: no trend over a run; None for fewer than `MIN_TREND` of them.

    Kendall's rank correlation of latency with time (the test of Mann 1945) and the slope of Theil and Sen, which a few
    slow runs do not move. Not steady: |z| > 2.58 (1%) *and* the slope over the whole run above 2% of the median.
    To save time both are taken over the medians of at most 60 pieces of equal length, one behind the other.

    Args:
        times_ms: Latencies in the order in which they were measured.
    """
    count = len(times_ms)
    if count < MIN_TREND:
        return None
    pieces = min(count, 60)
    edges = [round(i * count / pieces) for i in range(pieces + 1)]
    values = [statistics.median(times_ms[a:b]) for a, b in itertools.pairwise(edges)]
    pairs = [(i, j) for i in range(pieces) for j in range(i + 1, pieces)]
    score = sum((values[j] > values[i]) - (values[j] < values[i]) for i, j in pairs)
    slope = statistics.median((values[j] - values[i]) / (j - i) for i, j in pairs)
    z = (abs(score) - 1) / math.sqrt(pieces * (pieces - 1) * (2 * pieces + 5) / 18)
    return not (z > _SIGNIFICANT and abs(slope) * pieces > _STEADY * statistics.median(values))
