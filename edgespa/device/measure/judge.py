"""Whether a measurement is clean: a machine that is slowed down, busy or swapping gives other figures. Pure.

Looked at are: throttling, the clock while it ran, quotas, threads and cores, the work of others while it ran and their
number before, how far apart its times are, swapping. A measurement is clean if all of these could be read and none
speaks against it; what could not be read is said.

A Raspberry Pi's bits (``vcgencmd get_throttled``): 0 under-voltage, 1 clock capped, 2 throttled, 3 soft temperature
limit, each *now*; 16 to 19 the same *since it was started*. A run is doubtful with a low bit set before, while or after
it, or with a high bit that was not set before.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from edgespa.device.host import Clock, Conditions, Usage

_NOW = {0: "under-voltage", 1: "its clock is capped", 2: "it is throttled", 3: "it is at its soft temperature limit"}
_MOST_SWAPPED_KIB = 256
MIN_TREND = 30
"""Fewer latencies say nothing about a trend."""

_CLOCK, _BOOSTED = 0.9, 0.5
"""Of its highest clock a processor should hold so much; less where that is one that it holds for moments only."""

_CHOOSING = ("intel_pstate", "amd-pstate", "amd_pstate")
"""Drivers under which the governor ``powersave`` chooses a clock as need be, and does not hold the lowest."""

_BUSY = 0.25
"""Of the cores that may be used; others that compute more slow memory, caches and clocks down."""

_CONTENDED = 0.25
"""Of one core: so much may be missing."""

_WAITING = 1.0
"""Of programs beyond the cores, over the last minute: so many wait now and then on an idle machine, too."""

_STALLED = 2.0
_SPREAD = 2.0
_STOLEN = 0.02
"""Of one core's time."""

_STEADY = 0.02
_SIGNIFICANT = 2.58


def doubts(
    states: Sequence[Conditions], *, threads: int = 1, clock: Clock | None = None, usage: Usage | None = None
) -> tuple[str, ...]:
    """Why a run is not clean, in words; empty where nothing speaks against it.

    Args:
        states: Before the run, while it ran, and after it, in order.
        threads: That computed.
        clock: While it ran.
        usage: Of the cores, while it ran.
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
    for what in [*_clock(clock, limited=any("clock is limited" in each for each in found)), *_cores(usage, threads)]:
        found[what] = None
    if states and usage is not None and (waiting := _load(states[0], usage.cores, threads)) is not None:
        found[waiting] = None
    return tuple(found)


def unknowns(states: Sequence[Conditions], *, clock: Clock | None, usage: Usage | None) -> tuple[str, ...]:
    """What a run would have to be looked at for and could not, and why; empty where all could be read.

    Args:
        states: Before the run, while it ran, and after it.
        clock: While it ran.
        usage: Of the cores, while it ran.
    """
    found = dict(states[0].unread) if states else {}
    if clock is None or not clock.khz:
        found.setdefault("its clock", "it could not be read while it ran")
    if usage is None or usage.others_s is None:
        found.setdefault("the work of other programs", "it could not be read while it ran")
    return tuple(f"{what}: {why}" for what, why in found.items())


def _clock(clock: Clock | None, *, limited: bool) -> list[str]:
    """What speaks against the clock: the second half of the run counts, since some governors take their time."""
    if clock is None or not clock.max_khz:
        return []
    most, limit = clock.max_khz, clock.limit_khz
    found = []
    if limit and limit < most and not limited:
        found.append(f"its clock was limited to {limit / 1000:.0f} of {most / 1000:.0f} MHz")
        limited = True
    held = clock.governor == "powersave" and not (clock.driver or "").startswith(_CHOOSING)
    named = f" (governor {clock.governor})" if clock.governor else ""
    wanted = clock.base_khz or most
    share = _BOOSTED if clock.boosts and not clock.base_khz else _CLOCK
    seen = statistics.median(clock.khz[len(clock.khz) // 2 :]) if clock.khz else None
    if seen is not None and seen < share * wanted:
        if not (limited and limit and seen >= share * limit):
            found.append(f"its clock was {seen / 1000:.0f} of {most / 1000:.0f} MHz while it ran{named}")
    elif seen is None and held:
        found.append("its governor is powersave, which holds the lowest clock")
    return found


def _cores(usage: Usage | None, threads: int) -> list[str]:
    """What speaks against the cores: too few for the threads, or others that use them."""
    if usage is None:
        return []
    found = []
    cores = usage.cores
    if cores is not None and threads > cores:
        found.append(f"{threads} threads on {cores} core{'s' if cores > 1 else ''} that it may use")
    if usage.seconds <= 0:
        return found
    if usage.others_s is not None and cores is not None:
        others = usage.others_s / usage.seconds
        if others > _BUSY * cores or (others > _CONTENDED and others + min(threads, cores) > cores + _CONTENDED):
            found.append(f"other programs used {others:.1f} of the {cores} cores that it may use")
    if usage.stolen_s is not None and usage.stolen_s > _STOLEN * usage.seconds:
        found.append(f"the hypervisor gave {usage.stolen_s / usage.seconds:.0%} of a core's time to others")
    return found


def _load(before: Conditions, cores: int | None, threads: int) -> str | None:
    """Who else wanted the cores before a run; an earlier run of ours counts for as many as it had threads."""
    load = before.load_average
    if load is None or cores is None or load[0] <= max(cores, threads) + _WAITING:
        return None
    return f"{load[0]:.1f} programs wanted the {cores} core{'s' if cores > 1 else ''} that it may use, just before"


def _since(before: Conditions, after: Conditions) -> list[str]:
    found = []
    for bit, what in _NOW.items():
        high = 1 << (bit + 16)
        if (after.pi_throttled or 0) & high and not (before.pi_throttled or 0) & high:
            found.append(f"{what} (meanwhile)")
    for name, count in after.throttle_counts.items():
        if count > before.throttle_counts.get(name, count):
            found.append(f"it was throttled {count - before.throttle_counts[name]} times ({name})")
    if before.quota is not None and after.quota is not None:
        periods, held_ms = after.quota.periods - before.quota.periods, after.quota.held_ms - before.quota.held_ms
        if periods > 0:
            cores = f" of {after.quota.cores:g} cores" if after.quota.cores is not None else ""
            times = "once" if periods == 1 else f"{periods:.0f} times"
            found.append(f"a quota{cores} held it {times}, for {held_ms:,.0f} ms")
    if before.swapped_pages is not None and after.swapped_pages is not None:
        pages = after.swapped_pages - before.swapped_pages
        if pages > _MOST_SWAPPED_KIB // 4:
            found.append(f"it swapped {pages} pages")
    elif before.swap_used_kib is not None and after.swap_used_kib is not None:
        kib = after.swap_used_kib - before.swap_used_kib
        if kib > _MOST_SWAPPED_KIB:
            found.append(f"it swapped {kib} KiB out")
    return found


def stalls(mean_ms: float, p50_ms: float, runs: int) -> str | None:
    """What a mean far above the median says: most runs are quick, and some wait for something; None where it is not.

    Args:
        mean_ms: Of all latencies.
        p50_ms: Their median.
        runs: How many there were; few say nothing.
    """
    if runs < MIN_TREND or mean_ms <= _STALLED * p50_ms:
        return None
    return f"some runs waited for something: the mean is {mean_ms / p50_ms:.1f} times the median"


def spread(p50_ms: float, p90_ms: float, runs: int) -> str | None:
    """What a tenth of the runs say that take far longer than half of them; None where they do not.

    Args:
        p50_ms: The median.
        p90_ms: What nine in ten keep.
        runs: How many there were; few say nothing.
    """
    if runs < MIN_TREND or p90_ms <= _SPREAD * p50_ms:
        return None
    return f"its times are far apart: one run in ten took {p90_ms / p50_ms:.1f} times the median or longer"


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
