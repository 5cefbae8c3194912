"""How well files of a bundle do on a data set, as a device computes them: what is shown, and printed as JSON."""

from __future__ import annotations

from collections.abc import Mapping

from edgespa.config import Strict
from edgespa.findings.evaluation import Column


class QualityRow(Strict):
    """One file in one runtime of a device.

    Attributes:
        variant: Name of the file.
        runtime: Of the device, with its version where it is the usual one.
        arithmetic: In which numbers it was computed there, as the runtime says.
        values: What was measured there, by the names of ``measures``; None where it could not be run.
        error: Why not.
        runtime_here: What ran the same file here.
        here: What was measured here; None where it could not be run.
        why_not_here: Why not.
    """

    variant: str
    runtime: str
    arithmetic: str | None
    values: Mapping[str, float] | None
    error: str | None
    runtime_here: str | None
    here: Mapping[str, float] | None
    why_not_here: str | None


class DeviceQuality(Strict):
    """How well a bundle does on a data set on a device, and here.

    Attributes:
        device: Its name.
        emulated: Whether it is an emulated one; its figures are right, its seconds mean nothing.
        data: Name of the data set.
        count: Of how many samples.
        measures: What was measured, the one that decides first.
        rows: One for each file and runtime.
        bytes_sent: Of samples; none of what was there already.
        taken_over: Batches that an interrupted run had measured already.
        seconds: It took.
    """

    device: str
    emulated: bool
    data: str
    count: int
    measures: tuple[Column, ...]
    rows: tuple[QualityRow, ...]
    bytes_sent: int
    taken_over: int
    seconds: float
