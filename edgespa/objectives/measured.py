"""How well a task does, as it is recorded and as it is worded: of what kind of images, and of how many."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgespa.objectives.measures import NAME, Measure, measure_named

IMAGES = "images"
"""``test_images``, ``validation_images``: how many images a metric of that kind is of."""
SEEN = "test_seen"
"""The share of the test images that the task was made with."""
_NAME = re.compile(rf"(?:(?P<of>[a-z]+)_)?(?P<kind>validation|test)_(?P<measure>{NAME})(?:_(?P<store>[a-z0-9]+))?")
_NO_MEASURES = ("images", "seen")


@dataclass(frozen=True)
class Measured:
    """One of a task's metrics that says how well it does.

    Attributes:
        kind: ``validation``: of the part of the training data that the best epoch was chosen on; ``test``: of images
            that nothing was chosen by.
        measure: What was measured.
        value: The figure.
        images: On how many images; None where that was not recorded.
        of: Of what, if not of the task: ``base``, ``uncut``.
        store: With factors stored in that type, if not in the task file's.
        seen: The share of the images that the task was made with, as far as it was looked for.
    """

    kind: Literal["validation", "test"]
    measure: Measure
    value: float
    images: int | None = None
    of: str = ""
    store: str = ""
    seen: float = 0.0

    @property
    def name(self) -> str:
        """Such as ``test accuracy``, ``uncut test R2``, ``validation mIoU in fp32``."""
        stored = f" in {self.store}" if self.store else ""
        return f"{self.of} {self.kind} {self.measure.title}{stored}".lstrip()

    @property
    def figure(self) -> str:
        """The value alone: a fraction in per cent, another number as it is."""
        return self.measure.figure(self.value)

    @property
    def count(self) -> str:
        """``1,000 images``, ``1,000 images, all seen before``, or that nobody wrote down how many."""
        if self.images is None:
            return "number of images not recorded"
        seen = ", all seen before" if self.seen == 1 else f", {self.seen:.0%} seen before" if self.seen else ""
        return f"{self.images:,} image{'s' if self.images != 1 else ''}{seen}"

    def __str__(self) -> str:
        return f"{self.figure} ({self.count})"


def others(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that `measured` does not look at: errors of reconstructions, latencies."""
    return {name: value for name, value in metrics.items() if not _NAME.fullmatch(name)}


def measured(metrics: Mapping[str, float]) -> tuple[Measured, ...]:
    """Those of a task's metrics that say how well it does, in their order.

    Args:
        metrics: By name, such as ``test_accuracy``, ``base_test_accuracy``, ``test_images``.
    """
    found = []
    for name, value in metrics.items():
        if (match := _NAME.fullmatch(name)) is not None and match["measure"] not in _NO_MEASURES:
            count = metrics.get(f"{match['kind']}_{IMAGES}")
            images = None if count is None else int(count)
            kind: Literal["validation", "test"] = "test" if match["kind"] == "test" else "validation"
            seen = metrics.get(SEEN, 0.0) if kind == "test" else 0.0
            measure = measure_named(match["measure"])
            found.append(Measured(kind, measure, value, images, match["of"] or "", match["store"] or "", seen))
    return tuple(found)
