"""How far are estimates from the published latencies that they are fitted to, and from those that they are not?

Prints, over the boards that come with edgespa, the ratio estimate / published: of all figures, of those of a network
that is left out of the fit in turn, and without knowing the activations. No measurement: seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import numpy as np

from edgespa.device.board import Device, Reference, shipped_devices
from edgespa.device.measure.estimate import NETWORKS, estimate_latency_ms


def ratio(device: Device, row: Reference, *, activations: bool) -> float:
    each = NETWORKS[row.network]
    width = 1 if row.precision == "int8" else 4
    moved = 4 * each.activations if activations else None
    found = estimate_latency_ms(device, each.macs, width * each.parameters, moved, row.precision, row.threads or 1)
    assert found is not None
    return found / row.latency_ms


def base(device: Device) -> int:
    return min(row.threads for row in device.references if row.threads)


def overlapped(device: Device) -> list[float]:
    """Ratios of the usual roofline, max(MACs / R, bytes / W), fitted likewise over a fine grid of R and W."""
    rows = [row for row in device.references if row.threads == base(device) and row.precision == "fp32"]
    macs = np.array([NETWORKS[row.network].macs for row in rows])
    moved = np.array([4 * (NETWORKS[row.network].parameters + 2 * NETWORKS[row.network].activations) for row in rows])
    times = np.array([row.latency_ms / 1000 for row in rows])
    rates, bandwidths = np.geomspace(1e8, 1e13, 1500)[:, None, None], np.geomspace(1e7, 1e12, 1500)[None, :, None]
    found = np.maximum(macs / rates, moved / bandwidths) / times
    best = np.unravel_index(((found - 1) ** 2).sum(-1).argmin(), found.shape[:2])
    return [float(value) for value in found[best]]


def without(device: Device, network: str) -> Device:
    rows = tuple(row for row in device.references if row.network != network or row.precision == "int8")
    return device.model_copy(update={"references": rows})


def line(name: str, values: Iterable[float]) -> None:
    found = sorted(values)
    print(f"| {name} | {len(found)} | {statistics.median(found):.2f} | {found[0]:.2f} | {found[-1]:.2f} |")


def main() -> None:
    boards = [device for device in shipped_devices() if device.references]
    cpu = [(device, row) for device in boards for row in device.references if row.threads]
    print("| figures | number | median | lowest | highest |")
    print("| --- | --- | --- | --- | --- |")
    line("fitted", (ratio(device, row, activations=True) for device, row in cpu if row.precision == "fp32"))
    line("int8", (ratio(device, row, activations=True) for device, row in cpu if row.precision == "int8"))
    line("fitted, activations unknown", (ratio(device, row, activations=False) for device, row in cpu))
    one = [(device, row) for device, row in cpu if row.precision == "fp32" and row.threads == base(device)]
    line("fewest threads: the sum", (ratio(device, row, activations=True) for device, row in one))
    line("fewest threads: the larger of the two", (value for device in boards for value in overlapped(device)))
    for network in NETWORKS:
        rows = [(device, row) for device, row in cpu if row.network == network and row.precision == "fp32"]
        line(
            f"{network}, left out of the fit",
            (ratio(without(device, network), row, activations=True) for device, row in rows),
        )


if __name__ == "__main__":
    main()
