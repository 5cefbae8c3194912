"""What an inference should take on a board, from published latencies of well-known networks: no measurement.

**The model.** A roofline without overlap: time is what the multiplications take plus what moving the bytes takes,

    T(1 thread) = MACs / R + bytes / W        bytes = weights + 2 x activations (each is written once and read once)

with two effective rates per board, R and W, fitted to the board's published float32 latencies by least squares of
*relative* errors with R, W > 0 (two unknowns, three networks: MobileNetV2 and EfficientNet-B0, whose depthwise
convolutions multiply little per byte, and ResNet-50, which multiplies much). W is an effective rate: it holds what
depthwise convolutions lose too, and lies far below the memory's bandwidth. The usual roofline takes the larger of the
two terms; their sum fits the published figures as well (benchmarks/device) and moves with both.

**Threads.** T(n) = T(1) * n^-p, p from the board's own pairs of figures, else the median over all boards. **int8.** The
ratio of the board's ResNet-50 figures. **fp16** counts as float32 with smaller weights.

**What it cannot know.** The figures are ncnn's, which uses Winograd's convolutions, and half precision where the
processor has it (Pi 5, Orin): ONNX Runtime and LiteRT in float32 are slower there, up to two times. Nets that live in
the cache are faster than W says. A board without published figures gets rates scaled from its peaks by the medians over
all other boards, which is rougher still; without peaks, as for this machine, there is no estimate.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from edgespa.bundle import Manifest
from edgespa.device.board import Device, Reference, shipped_devices
from edgespa.device.measure.results import Estimate

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A well-known network at 224 x 224, batch 1.

    Attributes:
        macs: Multiply-accumulates of its convolutions and linear layers.
        parameters: Elements of its weights.
        activations: Elements of what its convolutions and linear layers give.
    """

    macs: float
    parameters: float
    activations: float


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "mobilenet-v2": Network(300.8e6, 3.505e6, 6.68e6),
        "efficientnet-b0": Network(385.8e6, 5.289e6, 6.75e6),
        "resnet-50": Network(4.089e9, 25.557e6, 11.11e6),
    }
)
"""Counted over torchvision's models."""


@dataclass(frozen=True)
class Rates:
    """How fast a board is.

    Attributes:
        macs_per_s: R, of one thread.
        bytes_per_s: W, of one thread.
        thread_exponent: p in T(n) = T(1) * n^-p.
        int8_ratio: Time of int8 over that of float32.
        fitted: From the board's own figures; else scaled from other boards.
    """

    macs_per_s: float
    bytes_per_s: float
    thread_exponent: float
    int8_ratio: float
    fitted: bool


def estimate_latency_ms(
    device: Device,
    macs: float,
    weight_bytes: float,
    activation_bytes: float | None,
    precision: str = "fp32",
    threads: int = 1,
) -> float | None:
    """What an inference of batch 1 should take on a board's CPU, in ms.

    Args:
        device: Its profile.
        macs: Multiply-accumulates.
        weight_bytes: Of the file.
        activation_bytes: Of what convolutions and linear layers give, as float32; None where it is not known: then the
            median of the well-known networks' activations per sqrt(MACs x weights) stands in.
        precision: ``fp32``, ``fp16``, ``int8``, or ``int8-weights`` (computed in float32).
        threads: As many as cores at most count.

    Returns:
        None where the profile says too little.
    """
    rates = rates_of(device)
    if rates is None:
        return None
    int8 = precision == "int8"
    if activation_bytes is None:
        activation_bytes = 4 * _usual_activations(macs, weight_bytes / (1 if precision.startswith("int8") else 4))
    # The ratio of int8 holds all that int8 saves: bytes are counted as in float32 before it.
    moved = weight_bytes * (4 if int8 else 1) + 2 * activation_bytes
    one = macs / rates.macs_per_s + moved / rates.bytes_per_s
    used = max(1, min(threads, device.cores or threads))
    return 1000 * one * float(used**-rates.thread_exponent) * (rates.int8_ratio if int8 else 1.0)


def estimate_bundle(device: Device, bundle: Path, manifest: Manifest, threads: Sequence[int]) -> tuple[Estimate, ...]:
    """Estimates for the variants of a bundle; empty where there are none for the device.

    Args:
        device: Its profile.
        bundle: The bundle's folder.
        manifest: Its manifest, which has the MACs.
        threads: Numbers of threads.
    """
    if rates_of(device) is None:
        return ()
    activations = activation_bytes_of(bundle, manifest)
    found = []
    for variant in manifest.variants:
        for count in dict.fromkeys(threads):
            macs = manifest.compaction.macs
            value = estimate_latency_ms(device, macs, variant.size_bytes, activations, variant.precision, count)
            if value is not None:
                found.append(Estimate(variant=variant.name, threads=count, latency_ms=value))
    return tuple(found)


def activation_bytes_of(bundle: Path, manifest: Manifest) -> int | None:
    """Float32 bytes of what the convolutions and linear layers of a bundle's ONNX file give, batch 1.

    Returns:
        None without such a file, or without the ``onnx`` extra.
    """
    file = next((each.file for each in manifest.variants if each.format == "onnx" and each.precision == "fp32"), None)
    if file is None:
        return None
    try:
        import onnx
        from onnx import shape_inference
    except ImportError:
        return None
    try:
        model = shape_inference.infer_shapes(onnx.load(str(bundle / file), load_external_data=False))
    except Exception as error:
        _log.info("%s: no shapes for the estimate: %s", file, error)
        return None
    wanted = {
        name
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
        for name in node.output
    }
    total = 0
    for value in (*model.graph.value_info, *model.graph.output):
        if value.name in wanted:
            # A free dimension is the batch: 1.
            sizes = [each.dim_value if each.HasField("dim_value") else 1 for each in value.type.tensor_type.shape.dim]
            total += 4 * math.prod(sizes)
            wanted.discard(value.name)
    return None if wanted else total


@cache
def rates_of(device: Device) -> Rates | None:
    """The rates of a board; None where its profile says too little."""
    rows = [row for row in device.references if row.precision == "fp32" and row.threads and row.network in NETWORKS]
    base = min((row.threads or 1 for row in rows), default=0)
    exponent = _exponent(device)
    one = [row for row in rows if row.threads == base]
    if len(one) >= 2:
        exponent = _typical().thread_exponent if exponent is None else exponent
        macs_s, bytes_s = _fit([(NETWORKS[row.network], _on_one(row, exponent)) for row in one])
        return Rates(macs_s, bytes_s, exponent, _int8_ratio(device) or _typical().int8_ratio, True)
    if not (device.clock_mhz and device.macs_per_cycle and device.bandwidth_gb_s):
        return None
    usual = _typical()
    return Rates(
        usual.macs_per_s * device.clock_mhz * 1e6 * device.macs_per_cycle,
        usual.bytes_per_s * device.bandwidth_gb_s * 1e9,
        usual.thread_exponent,
        usual.int8_ratio,
        False,
    )


@cache
def _typical() -> Rates:
    """Medians over the boards that come with edgespa; the rates as fractions of their boards' peaks."""
    macs, moved, exponents, ratios = [], [], [], []
    for device in shipped_devices():
        exponent = _exponent(device)
        ratio = _int8_ratio(device)
        ratios += [] if ratio is None else [ratio]
        if exponent is None:
            continue
        exponents.append(exponent)
        rates = rates_of(device)
        if rates and rates.fitted and device.clock_mhz and device.macs_per_cycle and device.bandwidth_gb_s:
            macs.append(rates.macs_per_s / (device.clock_mhz * 1e6 * device.macs_per_cycle))
            moved.append(rates.bytes_per_s / (device.bandwidth_gb_s * 1e9))
    middle = statistics.median
    return Rates(middle(macs), middle(moved), middle(exponents), middle(ratios), False)


def _exponent(device: Device) -> float | None:
    """p, from the networks that were measured with two numbers of threads."""
    found = []
    for network in NETWORKS:
        rows = sorted(
            (row.threads, row.latency_ms)
            for row in device.references
            if row.network == network and row.threads and row.precision == "fp32"
        )
        if len(rows) > 1:
            (few, slow), (many, fast) = rows[0], rows[-1]
            found.append(math.log(slow / fast) / math.log(many / few))
    return statistics.median(found) if found else None


def _int8_ratio(device: Device) -> float | None:
    times = {(row.network, row.threads, row.precision): row.latency_ms for row in device.references if row.threads}
    found = [
        time / times[network, threads, "fp32"]
        for (network, threads, precision), time in times.items()
        if precision == "int8" and (network, threads, "fp32") in times
    ]
    return statistics.median(found) if found else None


def _on_one(row: Reference, exponent: float) -> float:
    """A published latency in seconds, brought to one thread."""
    return row.latency_ms / 1000 * float((row.threads or 1) ** exponent)


def _fit(rows: Sequence[tuple[Network, float]]) -> tuple[float, float]:
    """R and W that minimise sum ((MACs / R + bytes / W) / T - 1)^2; both positive.

    The 2 x 2 normal equations in 1/R and 1/W; where one would not be positive, the other explains all.
    """
    scaled = [(n.macs / t, 4 * (n.parameters + 2 * n.activations) / t) for n, t in rows]
    aa, ab, bb = (sum(x * y for x, y in pairs) for pairs in _products(scaled))
    a, b = (sum(row[i] for row in scaled) for i in (0, 1))
    determinant = aa * bb - ab * ab
    x, y = ((a * bb - b * ab) / determinant, (b * aa - a * ab) / determinant) if determinant > 0 else (0.0, 0.0)
    if x <= 0 or y <= 0:
        x, y = (a / aa, 0.0) if y <= 0 else (0.0, b / bb)
    return (1 / x if x else math.inf), (1 / y if y else math.inf)


def _products(rows: Sequence[tuple[float, float]]) -> tuple[list[tuple[float, float]], ...]:
    return [(a, a) for a, _ in rows], [(a, b) for a, b in rows], [(b, b) for _, b in rows]


def _usual_activations(macs: float, parameters: float) -> float:
    """Elements of activations of a network of this size: the median factor of the well-known ones."""
    factor = statistics.median(n.activations / math.sqrt(n.macs * n.parameters) for n in NETWORKS.values())
    return factor * math.sqrt(max(macs, 1.0) * max(parameters, 1.0))
