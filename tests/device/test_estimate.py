from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgespa.bundle import read_manifest
from edgespa.device.board import Device, load_device, shipped_devices
from edgespa.device.measure.estimate import (
    NETWORKS,
    activation_bytes_of,
    estimate_bundle,
    estimate_latency_ms,
    rates_of,
)

MODELS = {"mobilenet-v2": "mobilenet_v2", "efficientnet-b0": "efficientnet_b0", "resnet-50": "resnet50"}


def board(rows: list[dict[str, Any]], **values: Any) -> Device:
    return Device.parse({"name": "b", "title": "b", "references_source": "test", "references": rows, **values}, "test")


def exact(network: str, rate: float, bandwidth: float) -> float:
    """Ms of a board that is exactly what the model says."""
    each = NETWORKS[network]
    return 1000 * (each.macs / rate + 4 * (each.parameters + 2 * each.activations) / bandwidth)


def test_a_board_that_is_what_the_model_says_is_found_out() -> None:
    rows = [
        {"network": name, "threads": threads, "latency_ms": exact(name, 10e9, 1e9) / threads**0.5}
        for name in NETWORKS
        for threads in (1, 4)
    ]
    rows.append(
        {"network": "resnet-50", "threads": 1, "precision": "int8", "latency_ms": exact("resnet-50", 10e9, 1e9) / 2}
    )
    device = board(rows, cores=4)
    rates = rates_of(device)
    assert rates is not None
    assert (rates.macs_per_s, rates.bytes_per_s) == pytest.approx((10e9, 1e9))
    assert (rates.thread_exponent, rates.int8_ratio) == pytest.approx((0.5, 0.5))
    # 1e9 MACs / 10e9 + (4e6 + 2 * 8e6) bytes / 1e9 = 0.1 + 0.02 s
    assert estimate_latency_ms(device, 1e9, 4e6, 8e6) == pytest.approx(120)
    assert estimate_latency_ms(device, 1e9, 4e6, 8e6, threads=4) == pytest.approx(60)
    assert estimate_latency_ms(device, 1e9, 4e6, 8e6, threads=64) == pytest.approx(60)  # it has four cores
    assert estimate_latency_ms(device, 1e9, 1e6, 8e6, "int8") == pytest.approx(60)


def test_figures_that_only_bytes_explain() -> None:
    rows = [{"network": name, "threads": 1, "latency_ms": exact(name, math.inf, 1e9)} for name in NETWORKS]
    rates = rates_of(board(rows))
    assert rates is not None
    assert rates.bytes_per_s == pytest.approx(1e9)
    assert rates.macs_per_s > 1e14


@pytest.mark.parametrize("name", [device.name for device in shipped_devices() if device.references])
def test_published_figures_are_met_within_a_half(name: str) -> None:
    device = load_device(name)
    for row in device.references:
        if row.threads:
            each, width = NETWORKS[row.network], 1 if row.precision == "int8" else 4
            values = (device, each.macs, width * each.parameters, 4 * each.activations, row.precision, row.threads)
            found = estimate_latency_ms(*values)
            assert found is not None
            assert 1 / 1.55 < found / row.latency_ms < 1.25, (row, found)


def test_more_work_takes_longer_and_more_threads_less() -> None:
    for device in shipped_devices():
        if rates_of(device) is None:
            assert device.is_local
            continue
        grid = [estimate_latency_ms(device, macs, 1e6, 1e6) for macs in (1e6, 1e8, 1e9)]
        assert grid == sorted(grid)  # type: ignore[type-var]
        one, four = (estimate_latency_ms(device, 1e9, 1e7, 1e7, "fp32", n) for n in (1, 4))
        assert one is not None
        assert four is not None
        assert four < one
        unknown = estimate_latency_ms(device, 1e9, 1e7, None)
        assert unknown is not None
        assert unknown > 0


def test_a_board_without_figures_is_scaled_from_the_others() -> None:
    rates = rates_of(load_device("jetson-xavier-nx"))
    assert rates is not None
    assert not rates.fitted
    slowest, fastest = rates_of(load_device("pi-zero-2w")), rates_of(load_device("jetson-agx-orin"))
    assert slowest is not None
    assert fastest is not None
    assert slowest.macs_per_s < rates.macs_per_s < fastest.macs_per_s


def test_nothing_is_guessed_where_nothing_is_known(bundle: Path) -> None:
    assert rates_of(load_device("local")) is None
    assert estimate_latency_ms(load_device("local"), 1e9, 1e6, 1e6) is None
    assert estimate_bundle(load_device("local"), bundle, read_manifest(bundle), (1,)) == ()


def test_of_a_bundle(full_bundle: Path) -> None:
    manifest = read_manifest(full_bundle)
    assert activation_bytes_of(full_bundle, manifest) == 3 * 4  # three logits
    found = estimate_bundle(load_device("pi-4b"), full_bundle, manifest, (1, 2, 1))
    assert [(each.variant, each.threads) for each in found] == [
        (name, count) for name in ("onnx-fp32", "tflite-fp32") for count in (1, 2)
    ]
    size = manifest.variants[0].size_bytes
    assert found[0].latency_ms == estimate_latency_ms(load_device("pi-4b"), 576, size, 12)


def test_the_fit_is_that_of_least_squares() -> None:
    scipy = pytest.importorskip("scipy.optimize")
    for device in shipped_devices():
        rates = rates_of(device)
        if rates is None or not rates.fitted:
            continue
        rows = [row for row in device.references if row.precision == "fp32" and row.threads]
        base = min(row.threads or 1 for row in rows)
        rows = [row for row in rows if row.threads == base]
        times = np.array([row.latency_ms / 1000 * base**rates.thread_exponent for row in rows])
        nets = [NETWORKS[row.network] for row in rows]
        work = np.array([[each.macs / 1e9, 4e-9 * (each.parameters + 2 * each.activations)] for each in nets])
        expected, _ = scipy.nnls(work / times[:, None], np.ones(len(rows)))
        assert (1e9 / rates.macs_per_s, 1e9 / rates.bytes_per_s) == pytest.approx(tuple(expected), rel=1e-6), (
            device.name
        )
