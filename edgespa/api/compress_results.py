"""What `edgespa.compress` gives; see `edgespa.api.results`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgespa.api.results import Result
from edgespa.api.tables import Table
from edgespa.objectives.measured import measured
from edgespa.objectives.measures import ERROR
from edgespa.system.plain import to_plain

MOST_LOST = 0.8
"""Relative error of the outputs beyond which they say little: at 1 their mean would say as much."""


@dataclasses.dataclass(frozen=True)
class Side:
    """A network on the device: as it was, or as it is now.

    Attributes:
        variant: The file that is fastest there.
        latency_ms: Of one inference, batch 1; the median.
        size_bytes: Of the file.
        macs: Multiply-accumulates of one sample.
        parameters: Number of them.
        quality: How well the file does on ``eval_data``, in words; None without.
        measure: What that is, in words.
    """

    variant: str
    latency_ms: float
    size_bytes: int
    macs: int
    parameters: int
    quality: str | None
    measure: str | None


@dataclasses.dataclass(frozen=True)
class Round:
    """One candidate: cut, healed, exported and measured.

    Attributes:
        asked_ms: What it was cut for.
        times_ms: Of each of its files.
        whole_ms: Of those of the network as it was, measured in alternation.
        target_ms: What one of its files was to reach.
    """

    asked_ms: float
    times_ms: Mapping[str, float]
    whole_ms: Mapping[str, float]
    target_ms: float

    @property
    def share(self) -> float:
        """What its fastest file takes, of what it was to take."""
        return min(self.times_ms.values()) / self.target_ms


@dataclasses.dataclass(frozen=True, repr=False)
class Compression(Result):
    """A network that was made fast enough for a device.

    Attributes:
        bundle: The folder with the one file that was chosen.
        task: The task file, where it was asked for; None also where nothing had to be removed.
        device: Where it was measured.
        threads: With how many.
        target_ms: What was asked for.
        before: The network as it was, by its fastest float32 file.
        after: As it is now.
        rounds: All candidates; none where the network was fast enough as it is.
        lost: What healing saw on images that it did not train on, by name; empty where nothing was removed or healed.
    """

    bundle: Path
    task: Path | None
    device: str
    threads: int
    target_ms: float
    before: Side
    after: Side
    rounds: tuple[Round, ...]
    lost: Mapping[str, float]

    @property
    def speedup(self) -> float:
        """How many times as fast as before."""
        return self.before.latency_ms / self.after.latency_ms

    def to_dict(self) -> dict[str, Any]:
        """As `edgespa compress --json`."""
        plain: dict[str, Any] = to_plain({**dataclasses.asdict(self), "speedup": self.speedup})
        return plain

    def _title(self) -> str:
        return f"{self.bundle}: {self.speedup:.2f} times as fast on {self.device}, asked for {self.target_ms:.3g} ms"

    def _tables(self) -> Sequence[Table]:
        before, after = self.before, self.after

        def share(own: float, of: float) -> str:
            return f"{own / of:.2f}" if of else "-"

        rows: list[tuple[object, ...]] = [
            ("file", before.variant, after.variant, None),
            (
                "latency ms",
                f"{before.latency_ms:.3g}",
                f"{after.latency_ms:.3g}",
                share(after.latency_ms, before.latency_ms),
            ),
            (
                "file KiB",
                f"{before.size_bytes / 1024:,.0f}",
                f"{after.size_bytes / 1024:,.0f}",
                share(after.size_bytes, before.size_bytes),
            ),
            ("MACs", f"{before.macs / 1e6:,.1f}M", f"{after.macs / 1e6:,.1f}M", share(after.macs, before.macs)),
            (
                "parameters",
                f"{before.parameters:,}",
                f"{after.parameters:,}",
                share(after.parameters, before.parameters),
            ),
        ]
        if before.quality or after.quality:
            rows.append((after.measure or before.measure, before.quality, after.quality, None))
        columns = ("", "before", "after", "share")
        return [Table(columns, tuple(rows), right=columns[1:])]

    def _notes(self) -> Sequence[str]:
        notes = (
            [f"candidates: {len(self.rounds)}"] if self.rounds else ["nothing was removed: it is fast enough as it is"]
        )
        notes += [f"{each.name}: {each}" for each in measured(self.lost)]
        if self.lost.get(f"validation_{ERROR.name}", 0.0) > MOST_LOST:
            notes.append(
                "what is left answers little like the original: ask for less, give more images, or learn the task with "
                "labels (edgespa adapt)"
            )
        return notes
