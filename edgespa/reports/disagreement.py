"""How far apart two answers about one input are, whatever they say: classes, areas, boxes, numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgespa.device.runner.answer import Result
from edgespa.pixels.boxes import overlaps

HALF = 0.5
"""Of the union of two boxes: what they share at least, to be of the same thing."""


def disagreement(one: Result, other: Result) -> float:
    """How much two answers about one input differ: 0 where they are equal; above 1 where what is decided differs.

    Of classes: another first class, or the difference of its probability. Of areas: the share of pixels of another
    class. Of boxes: the share of those of either that the other has not (the same class, overlapping by half). Of
    numbers, points and pictures: the differences against their own range.
    """
    if "top" in one.answer and "top" in other.answer:
        first, second = ({row["index"]: row for row in each["top"]} for each in (one.answer, other.answer))
        odds = [
            abs(row["probability"] - second.get(index, {"probability": 0.0})["probability"])
            for index, row in first.items()
        ]
        return float(_decided(one) != _decided(other)) + max(odds, default=0.0)
    if one.mask is not None and other.mask is not None:
        return float(np.mean(one.mask != other.mask))
    if "boxes" in one.answer:
        total = len(one["boxes"]) + len(other["boxes"])
        met = 2 * _matched(one["boxes"], other["boxes"])
        return 0.0 if not total else 2.0 * (total - met) / total
    a, b = (np.concatenate([output.reshape(-1) for output in each.outputs]).astype(np.float64) for each in (one, other))
    spread = float(np.ptp(a)) or 1.0
    return float(np.sqrt(np.mean((a - b) ** 2)) / spread)


def _decided(result: Result) -> list[int]:
    """The first class; of labels any of which may be, those that are."""
    rows = result.answer["top"]
    chosen = [row["index"] for row in rows if row["present"]] if rows and "present" in rows[0] else [rows[0]["index"]]
    return sorted(chosen)


def _matched(ones: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> int:
    """How many boxes of one answer have one of their own in the other: of the same class, overlapping by half."""
    left = list(others)
    met = 0
    for one in ones:
        same = [each for each in left if each["index"] == one["index"]]
        if not same:
            continue
        found = overlaps(np.asarray(one["box"], float), np.asarray([each["box"] for each in same], float))
        if found.max() >= HALF:
            left.remove(same[int(found.argmax())])
            met += 1
    return met
