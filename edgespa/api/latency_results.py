"""What `edgespa.latencies` gives; see `edgespa.api.results`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.results import Result
from edgespa.api.tables import Table
from edgespa.system.plain import to_plain

if TYPE_CHECKING:
    from edgespa.latency.known import Foretold
    from edgespa.latency.predict import LayerTime
    from edgespa.latency.table import LatencyTable

_SHOWN = 20


@dataclasses.dataclass(frozen=True, repr=False)
class TableFigures:
    """What there is to say of a latency table.

    Attributes:
        device: Name of the device.
        variant: Of what files.
        threads: Of the runtime.
        runtime: Its name and version.
        cpu_model: The processor.
        created: When it was last added to.
        kinds: Kinds of layers.
        points: Measured files.
        networks: That its scale is taken from.
        step: The runtime's block of channels.
        seconds: That the making took.
        bytes_sent: That went to the device.
        path: The file.
    """

    device: str
    variant: str
    threads: int
    runtime: str
    cpu_model: str | None
    created: str
    kinds: int
    points: int
    networks: int
    step: int
    seconds: float
    bytes_sent: int
    path: Path

    @classmethod
    def of(cls, table: LatencyTable) -> TableFigures:
        """Of a table.

        Args:
            table: The table.
        """
        from edgespa.latency.table import table_path

        origin = table.origin
        return cls(
            origin.device,
            origin.variant,
            origin.threads,
            origin.runtime,
            origin.cpu_model,
            table.created,
            len(table.kinds),
            sum(map(len, table.kinds.values())),
            len(table.wholes),
            table.step,
            round(table.seconds, 1),
            table.bytes_sent,
            table_path(origin.device, origin.variant, origin.threads),
        )


@dataclasses.dataclass(frozen=True, repr=False)
class Prediction(Result):
    """What a network, or a task, takes on a device by the device's latency table.

    Attributes:
        table: The table's figures.
        latency_ms: Foretold, of one inference.
        whole_ms: Foretold, of the network unpruned.
        corrected: Whether the sums are scaled by a measurement of this very network.
        scale: By which the sums are multiplied.
        layers: Each with what it takes.
        unknown: Operators that no layer stands for, with their numbers: they count nothing.
        foretold: Foretells any other selection.
    """

    table: TableFigures
    latency_ms: float
    whole_ms: float
    corrected: bool
    scale: float
    layers: tuple[LayerTime, ...]
    unknown: Mapping[str, int]
    foretold: Foretold = dataclasses.field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As `edgespa devices latencies --json`."""
        values: dict[str, Any] = to_plain(
            {
                "table": dataclasses.asdict(self.table),
                "latency_ms": self.latency_ms,
                "whole_ms": self.whole_ms,
                "corrected": self.corrected,
                "scale": self.scale,
                "layers": [dataclasses.asdict(each) for each in self.layers],
                "unknown": dict(self.unknown),
            }
        )
        return values

    def _title(self) -> str:
        table = self.table
        threads = f"{table.threads} thread{'s' if table.threads > 1 else ''}"
        cut = (
            f", {self.latency_ms / self.whole_ms:.0%} of the unpruned network"
            if self.latency_ms != self.whole_ms
            else ""
        )
        return (
            f"{self.latency_ms:.4g} ms on {table.device} ({table.variant}, {threads}, {table.runtime}){cut}, foretold"
        )

    def _tables(self) -> Sequence[Table]:
        total = sum(each.latency_ms for each in self.layers) or 1.0
        slow = sorted(self.layers, key=lambda each: -each.latency_ms)
        rows = [
            (
                each.layer,
                each.kind,
                " x ".join(map(str, each.widths)),
                each.latency_ms,
                f"{each.latency_ms / total:.1%}",
            )
            for each in slow[:_SHOWN]
        ]
        if slow[_SHOWN:]:
            rest = sum(each.latency_ms for each in slow[_SHOWN:])
            rows.append((f"{len(slow) - _SHOWN} others", "", "", rest, f"{rest / total:.1%}"))
        return [
            Table(("layer", "kind", "widths", "ms", "share"), tuple(rows), "The slowest layers", ("share", "widths"))
        ]

    def _notes(self) -> Sequence[str]:
        notes = [] if self.corrected else ["the whole network was not measured: the sum is corrected by others, or not"]
        if self.unknown:
            names = ", ".join(f"{name} ({count})" for name, count in sorted(self.unknown.items()))
            notes.append(f"not counted, for nothing is measured that is like it: {names}")
        return notes


@dataclasses.dataclass(frozen=True, repr=False)
class Latencies(Result):
    """The latency tables of a device, and a network by them.

    Attributes:
        device: Name of the device.
        tables: Those that there are.
        predictions: Of the network, where one was given: for each variant.
        removed: Files of tables that are gone now.
    """

    device: str
    tables: tuple[TableFigures, ...]
    predictions: tuple[Prediction, ...] = ()
    removed: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As `edgespa devices latencies --json`."""
        return {
            "device": self.device,
            "tables": [to_plain(dataclasses.asdict(each)) for each in self.tables],
            "predictions": [each.to_dict() for each in self.predictions],
            "removed": [str(path) for path in self.removed],
        }

    def _title(self) -> str:
        if self.removed:
            return f"{self.device}: {len(self.removed)} removed"
        return f"{self.device}: {'no latency table' if not self.tables else 'latency tables'}"

    def _tables(self) -> Sequence[Table]:
        rows = tuple(
            (
                each.variant,
                each.threads,
                each.runtime,
                each.kinds,
                each.points,
                each.networks,
                each.step,
                each.created[:16],
            )
            for each in self.tables
        )
        head = ("variant", "threads", "runtime", "kinds", "files", "networks", "step", "measured")
        found = [Table(head, rows)] if rows else []
        for each in self.predictions:
            found += [dataclasses.replace(table, title=each._title()) for table in each._tables()]
        return found

    def _notes(self) -> Sequence[str]:
        return [note for each in self.predictions for note in each._notes()]
