"""A device's latency table and a network: made for it, or found if it is there and still holds."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from edgespa.device.board import Device
from edgespa.device.link.transport import Connection
from edgespa.errors import ConfigError
from edgespa.graph.groups import Kept
from edgespa.graph.head_widths import VARIABLE
from edgespa.latency.making import Progress, make_table
from edgespa.latency.predict import LayerTime, Predictor, missing
from edgespa.latency.table import LatencyTable, Whole, load_table, save_table, table_path
from edgespa.latency.wholes import measured_ms
from edgespa.pruning.shapes import Shape, cut_down
from edgespa.tasks.base import Base

log = logging.getLogger(__name__)

_ODD = 0.5, 2.0
"""A sum of layers against the whole: beyond it they do not belong together."""


@dataclasses.dataclass(frozen=True, eq=False)
class Foretold:
    """A network beside the table that foretells it.

    Attributes:
        base: The network.
        table: Of the device.
        predictor: Of any selection of the network's units; its scale is that of this network, where it was measured.
        corrected: Whether it was.
    """

    base: Base
    table: LatencyTable
    predictor: Predictor
    corrected: bool

    @classmethod
    def of(cls, base: Base, table: LatencyTable) -> Foretold:
        """From a table that has all that is needed.

        Args:
            base: The network.
            table: The table.
        """
        corrected = any(each.digest == base.digest for each in table.wholes)
        return cls(base, table, Predictor(base.layers, base.groups, table, table.scale(base.digest)), corrected)

    def latency_ms(self, kept: Kept | None = None, heads: Mapping[str, int] | None = None) -> float:
        """Of one inference; see `Predictor.latency_ms`."""
        return self.predictor.latency_ms(kept, heads)

    def shape_ms(self, shape: Shape) -> float:
        """Of one inference of what is left of the network.

        Args:
            shape: It.
        """
        return sum(each.latency_ms for each in self.shape_layers(shape)) + self.predictor.fixed_ms

    def shape_layers(self, shape: Shape) -> tuple[LayerTime, ...]:
        """What each layer takes of what is left of the network.

        Args:
            shape: It.
        """
        smaller, kept = cut_down(self.base, dataclasses.replace(shape, heads={}))  # what is known are whole heads
        predictor = Predictor(smaller.layers, smaller.groups, self.table, self.predictor.scale)
        return predictor.layer_ms(kept, {VARIABLE + name: size for name, size in shape.heads.items()})


def make_latencies(
    base: Base,
    connection: Connection,
    variant: str,
    threads: int = 1,
    *,
    again: bool = False,
    whole: bool = True,
    progress: Progress | None = None,
) -> Foretold:
    """Measure what is missing in a device's table for a network, and the network itself, for the scale.

    Args:
        base: The network.
        connection: To the device.
        variant: Of what file.
        threads: Of the runtime.
        again: Measure all anew.
        whole: Measure the network itself too, unless that was done.
        progress: Told ``(done, total, text)``.

    Raises:
        DeviceError: The device cannot measure.
        ConfigError: There is no such variant; or a table that is there is damaged.
    """
    if connection.device.emulated:
        log.warning("%s is emulated: its times mean nothing, and so do those of its layers", connection.device.name)
    table = make_table(connection, base.layers, variant, threads, again=again, progress=progress)
    if whole and not any(each.digest == base.digest for each in table.wholes):
        if progress is not None:
            progress(0, None, f"{variant}: the whole network")
        try:
            took = measured_ms(base.program, connection, variant, threads)
        except ConfigError as error:
            log.warning("the sum of the layers is not corrected by the whole network: %s", error.message)
        else:
            plain = Predictor(base.layers, base.groups, table, 1.0).latency_ms()
            table = table.with_whole(Whole(digest=base.digest, predicted_ms=max(plain, 1e-6), measured_ms=took))
            _tell_odd(plain, took)
            save_table(table, table_path(connection.device.name, variant, threads))
    return Foretold.of(base, table)


def _tell_odd(sum_ms: float, whole_ms: float) -> None:
    """Say so where layers and whole do not belong together."""
    if not _ODD[0] < sum_ms / whole_ms < _ODD[1]:
        log.warning(
            "the layers sum up to %.3g ms, the whole network takes %.3g: something disturbed one of the two, or much "
            "of the time is in none of the layers; measure again where nothing else runs: --again",
            sum_ms,
            whole_ms,
        )


def known_latencies(base: Base, device: Device, variant: str, threads: int = 1) -> Foretold | None:
    """What a device's table says of a network, without asking the device; None where it cannot.

    Whether the runtime there is still the one that was measured, is looked at on this machine alone; where it is
    another one, that is told and the table not used.

    Args:
        base: The network.
        device: Its profile.
        variant: Of what file.
        threads: Of the runtime.
    """
    try:
        table = load_table(table_path(device.name, variant, threads))
    except ConfigError as error:
        log.warning("%s", error.message)
        return None
    if table is None or missing(base.layers, table) or (device.is_local and not still_here(table)):
        return None
    return Foretold.of(base, table)


def still_here(table: LatencyTable) -> bool:
    """Whether the runtime of a table of this machine is the one that is installed; another one is told.

    Args:
        table: Of this machine.
    """
    from importlib import metadata

    package, _, version = table.origin.runtime.partition(" ")
    try:
        now = metadata.version(package.replace("_", "-"))
    except metadata.PackageNotFoundError:
        now = "absent"
    if now != version:
        log.warning(
            "the latency table of this machine is of %s %s, here is %s: it is not used; measure again (with --variant "
            "%s): edgespa devices latencies local MODEL",
            package, version, now, table.origin.variant,
        )  # fmt: skip
    return now == version
