"""How evenly classes are there. Pure."""

from __future__ import annotations

from collections.abc import Sequence

STRONG = 10
"""So many times as many of one class as of another are told."""


def imbalance(counts: Sequence[int], names: Sequence[str], what: str = "images") -> str | None:
    """That some classes are far more frequent than others, in words; None where they are not.

    Args:
        counts: Of each class.
        names: Of them.
        what: Is counted.
    """
    there = [(count, name) for count, name in zip(counts, names, strict=True) if count]
    if len(there) < 2:
        return None
    (least, rare), (most, frequent) = min(there), max(there)
    if most < STRONG * least:
        return None
    told = f"{most:,} {what} of '{frequent}' and {least:,} of '{rare}', {most / least:.0f} times as many"
    if what != "images":
        return told
    return f"{told}: whoever always says '{frequent}' is right in {most / sum(counts):.0%}"
