"""A latency table: what layers take on one device in one runtime, as a file that is trusted no further than its form.

One file for each device, variant and number of threads: ``edgespa/latencies/NAME/VARIANT-THREADS.json`` below
``XDG_DATA_HOME`` or ``~/.local/share``. What is in it was measured on a device, which may say anything: every number is
bounded, every kind has to read as one.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgespa.config import Strict
from edgespa.errors import ConfigError, DeviceError
from edgespa.graph.kinds import OPERATORS, Kind
from edgespa.selection.staircase import CLASSES
from edgespa.system.files import expanded, open_plain, write_whole

log = logging.getLogger(__name__)

VARIANTS = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")
MAX_BYTES = 8 << 20
MAX_KINDS, MAX_POINTS, MAX_WHOLES = 4000, 1000, 200
MAX_WIDTH, MAX_US = 1 << 30, 1e9

Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Time = Annotated[float, Field(ge=0, le=MAX_US, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Factor = Annotated[float, Field(gt=0.05, le=100, allow_inf_nan=False)]


class Point(Strict):
    """The time of a layer at some widths.

    Attributes:
        widths: As many as its kind has.
        us: Microseconds that it takes inside of a network: what a file with one layer costs besides is taken off.
    """

    widths: tuple[Width, ...] = Field(min_length=1, max_length=2)
    us: Time


class Off(Strict):
    """What a width costs that lies off the steps.

    Attributes:
        family: Of kinds, see `edgespa.graph.kinds.Kind.family`.
        axis: Which of the widths, from 0.
        divisor: The largest of 8, 4 and 1 that divides such widths.
        factor: The time against that of the next step.
    """

    family: Text
    axis: Annotated[int, Field(ge=0, le=1)]
    divisor: Literal[8, 4, 1]
    factor: Factor


class Whole(Strict):
    """A whole network that was foretold and measured.

    Attributes:
        digest: Of its base.
        predicted_ms: By the sum of its layers, uncorrected.
        measured_ms: What it took.
    """

    digest: Text
    predicted_ms: Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]
    measured_ms: Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]


class Origin(Strict):
    """What times belong to: with any of it different they are others.

    Attributes:
        device: Name of its profile.
        machine: Instruction set.
        cpu_model: The processor's name.
        runtime: Name and version.
        variant: Format and precision.
        threads: Of the runtime.
    """

    device: Text
    machine: Text
    cpu_model: Text | None
    runtime: Text
    variant: Literal["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]
    threads: Annotated[int, Field(ge=1, le=1024)]

    def differences(self, other: Origin) -> tuple[str, ...]:
        """In words, what is not the same."""
        names = {"cpu_model": "processor"}
        return tuple(
            f"{names.get(name, name)}: {getattr(self, name)}, now {getattr(other, name)}"
            for name in type(self).model_fields
            if getattr(self, name) != getattr(other, name)
        )


class LatencyTable(Strict):
    """What layers take.

    Attributes:
        version: Of the format.
        origin: What the times belong to.
        created: When it was last added to, ISO 8601.
        step: The runtime's block of channels, found from the times.
        node_us: What an operator that computes next to nothing takes inside of a network.
        run_us: What each run costs besides its operators.
        kinds: By the text of the kind, its points.
        off: What widths off the steps cost.
        wholes: Whole networks.
        seconds: That the making took, so far.
        bytes_sent: That went to the device, so far.
    """

    version: Literal[1] = 1
    origin: Origin
    created: Text
    step: Literal[4, 8, 16] = 16
    node_us: Time = 0.0
    run_us: Time = 0.0
    kinds: dict[Text, tuple[Point, ...]] = Field(default_factory=dict, max_length=MAX_KINDS)
    off: tuple[Off, ...] = Field(default=(), max_length=4 * len(OPERATORS) * len(CLASSES))
    wholes: tuple[Whole, ...] = Field(default=(), max_length=MAX_WHOLES)
    seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0
    bytes_sent: Annotated[int, Field(ge=0, le=1 << 50)] = 0

    @model_validator(mode="after")
    def _kinds_are_kinds(self) -> Self:
        for text, points in self.kinds.items():
            try:
                kind = Kind.parse(text)
            except ConfigError as error:
                raise ValueError(error.message) from None
            if len(points) > MAX_POINTS:
                raise ValueError(f"{text}: {len(points)} points, more than {MAX_POINTS}")
            if any(len(point.widths) != kind.axes for point in points):
                raise ValueError(f"{text}: a point with another number of widths than {kind.axes}")
            if len({point.widths for point in points}) < len(points):
                raise ValueError(f"{text}: two points at the same widths")
        return self

    def points(self, kind: Kind) -> Mapping[tuple[int, ...], float]:
        """What was measured of a kind, in microseconds by widths."""
        return {point.widths: point.us for point in self.kinds.get(str(kind), ())}

    def factors(self, kind: Kind) -> tuple[Mapping[int, float], ...]:
        """Per axis, what widths off the steps cost; nothing where none were measured of its family."""
        own = [each for each in self.off if each.family == kind.family]
        return tuple({each.divisor: each.factor for each in own if each.axis == axis} for axis in range(kind.axes))

    def scale(self, digest: str | None = None) -> float:
        """Measured time of whole networks against the sum of their layers: of one, or the middle of all; 1 if none."""
        own = [each.measured_ms / each.predicted_ms for each in self.wholes if digest in (None, each.digest)]
        if not own and digest is not None:
            return self.scale()
        return sorted(own)[len(own) // 2] if own else 1.0

    def with_points(self, found: Iterable[tuple[Kind, tuple[int, ...], float]]) -> LatencyTable:
        """The table with more points; those of the same widths are replaced."""
        kinds = {text: {point.widths: point for point in points} for text, points in self.kinds.items()}
        for kind, widths, us in found:
            kinds.setdefault(str(kind), {})[widths] = Point(widths=widths, us=us)
        return self._with(kinds={text: tuple(own.values()) for text, own in kinds.items()})

    def with_whole(self, whole: Whole) -> LatencyTable:
        """The table with one more whole network, the newest of a digest."""
        others = [each for each in self.wholes if each.digest != whole.digest]
        return self._with(wholes=(*others, whole)[-MAX_WHOLES:])

    def _with(self, **values: object) -> LatencyTable:
        """Checked anew: what came from a device is in it."""
        plain = {name: getattr(self, name) for name in type(self).model_fields}
        return LatencyTable.model_validate({**plain, **values})


def tables_folder() -> Path:
    """Where tables are kept, a folder for each device."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else expanded("~") / ".local" / "share") / "edgespa" / "latencies"


def table_path(device: str, variant: str, threads: int) -> Path:
    """The file of a table.

    Args:
        device: Name of its profile.
        variant: One of `VARIANTS`.
        threads: Of the runtime.
    """
    return tables_folder() / device / f"{variant}-{threads}.json"


def load_table(path: Path) -> LatencyTable | None:
    """Read a table; None where there is none.

    Raises:
        ConfigError: It is damaged, or no table.
    """
    hint = f"remove it and measure again: rm '{path}'"
    try:
        with open_plain(path) as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint) from error
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        values = json.loads(content)
        if not isinstance(values, dict):
            raise ValueError("it is no table")
        values["kinds"] = {
            text: [{"widths": row[:-1], "us": row[-1]} for row in rows] for text, rows in values["kinds"].items()
        }
        return LatencyTable.parse(values, str(path))
    except ConfigError as error:
        raise ConfigError(error.message, hint) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is no latency table: {error}"[:300], hint) from error


def save_table(table: LatencyTable, path: Path) -> None:
    """Write a table, whole or not at all.

    Raises:
        DeviceError: It cannot be written.
    """
    values = table.model_dump(mode="json")
    kinds = values["kinds"].items()
    values["kinds"] = {text: [[*point["widths"], point["us"]] for point in points] for text, points in kinds}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(values, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise DeviceError(
            f"the latency table {path} cannot be written: {error.strerror or error}", "make its folder writable"
        ) from error


def saved_tables(device: str) -> tuple[LatencyTable, ...]:
    """The tables of a device; what is none is left out, and told."""
    found = []
    names = re.compile(rf"({'|'.join(VARIANTS)})-[1-9][0-9]{{0,3}}\.json")
    for path in sorted((tables_folder() / device).glob("*.json")):
        if names.fullmatch(path.name):
            try:
                table = load_table(path)
            except ConfigError as error:
                log.warning("%s is left out: %s", path, error.message)
                continue
            if table is not None:
                found.append(table)
    return tuple(found)


def remove_tables(device: str, variant: str | None = None, threads: int | None = None) -> tuple[Path, ...]:
    """Remove tables of a device.

    Args:
        device: Name of its profile.
        variant: Only those of this variant.
        threads: Only those of so many threads.

    Returns:
        The files that are gone.
    """
    gone = []
    folder = tables_folder() / device
    for path in sorted(folder.glob("*.json")):
        own, _, count = path.stem.rpartition("-")
        if own in VARIANTS and variant in (None, own) and threads in (None, int(count) if count.isdecimal() else -1):
            path.unlink(missing_ok=True)
            gone.append(path)
    return tuple(gone)


def largest_kinds(kinds: Sequence[Kind], weights: Mapping[Kind, float]) -> dict[str, Kind]:
    """Of each family that has blocks, the kind that weighs most."""
    found: dict[str, Kind] = {}
    for kind in sorted(kinds, key=lambda kind: -weights.get(kind, 0.0)):
        if kind.operator in ("conv", "depthwise", "linear"):
            found.setdefault(kind.family, kind)
    return {family: kind for family, kind in found.items() if math.isfinite(weights.get(kind, 0.0))}
