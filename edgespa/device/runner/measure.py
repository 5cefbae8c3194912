"""Latency and memory of one file, in this process."""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable  # for annotations only: Python 3.8 cannot subscript them
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.bundle.limits import shapes_problem
from edgespa.device.runner.bundle import RunnerError, sha256
from edgespa.device.runner.engines import engines_of
from edgespa.device.runner.layers import operator_times
from edgespa.device.runner.models import open_model, running
from edgespa.device.runner.runtimes import import_runtime

MIN_WARMUP = 10
# MLPerf's early-stopping rule: fewer runs say nothing about so high a percentile.
MIN_RUNS_P95, MIN_RUNS_P99 = 130, 662
MAX_PIECES = 60


def peak_kib() -> int | None:
    """Peak memory of this process so far in KiB: VmHWM on Linux, ru_maxrss elsewhere, None where neither is."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def summarise(times_ms: list[float]) -> dict[str, float | None]:
    """Statistics of latencies: the median, and higher percentiles by nearest rank where there are runs enough."""
    ordered = sorted(times_ms)

    def rank(fraction: float) -> float:
        return ordered[math.ceil(fraction * len(ordered)) - 1]

    return {
        "mean_ms": statistics.mean(ordered),
        "min_ms": ordered[0],
        "p50_ms": statistics.median(ordered),
        "p90_ms": rank(0.9),
        "p95_ms": rank(0.95) if len(ordered) >= MIN_RUNS_P95 else None,
        "p99_ms": rank(0.99) if len(ordered) >= MIN_RUNS_P99 else None,
    }


def pieces(times_ms: list[float]) -> list[float]:
    """Medians of at most 60 equal pieces of a run, one behind the other: whether it had settled is seen by them."""
    count = min(len(times_ms), MAX_PIECES)
    edges = [round(i * len(times_ms) / count) for i in range(count + 1)]
    return [statistics.median(times_ms[a:b]) for a, b in zip(edges, edges[1:])]


def major_faults() -> int | None:
    """Pages that this process had to wait for from the disk so far; None where the system does not count them."""
    try:
        import resource
    except ImportError:
        return None
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_majflt)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its milliseconds."""
    start = time.perf_counter_ns()
    value = function()
    return value, (time.perf_counter_ns() - start) / 1e6


def _measure(
    model: Any, feed: Any, options: argparse.Namespace, runs: int, in_time: Callable[[], None]
) -> dict[str, Any]:
    """What inferences take in this process, one behind the other, by its clock: as `TrtexecModel.measure` tells it."""
    _, first_run_ms = timed(lambda: model.run(feed))
    in_time()
    for _ in range(options.warmup):
        model.run(feed)
    end = math.inf if options.seconds is None else time.perf_counter_ns() + options.seconds * 1e9
    times: list[float] = []
    faults = major_faults()
    while len(times) < runs and (time.perf_counter_ns() < end or len(times) < MIN_WARMUP):
        times.append(timed(lambda: model.run(feed))[1])
    peak, after = peak_kib(), major_faults()
    more = None if faults is None or after is None else after - faults
    return {"first_run_ms": first_run_ms, "times_ms": times, "peak_kib": peak, "major_faults": more}


def bench(
    folder: Path,
    variant: dict[str, Any],
    program_inputs: list[dict[str, Any]],
    options: argparse.Namespace,
    in_time: Callable[[], None],
) -> dict[str, Any]:
    """Measure one variant in this process: load, first run, warm-up, latency of batch 1, peak memory.

    A run is one inference with its input in place and its output read; pre- and postprocessing are not in it. Inputs
    are seeded noise: to load recorded ones would count as the model's memory. ``in_time`` is called once it has run: a
    file that ends may be measured for as long as was asked for. A runtime that has times of its own tells those.
    """
    name = options.runtime or variant.get("picked")
    (runtime, runtime_name), import_ms = timed(lambda: import_runtime(variant["format"], name))
    peak_import = peak_kib()
    path = folder / variant["file"]
    before = engines_of(path, variant, runtime.__name__)
    model, load_ms = timed(lambda: open_model(folder, variant, options.threads, runtime))
    build_ms = None
    if engines_of(path, variant, runtime.__name__) != before:  # once on a machine: what follows is every start
        build_ms = load_ms
        model, load_ms = timed(lambda: open_model(folder, variant, options.threads, runtime))
    peak_load = peak_kib()
    random, arrays = np.random.default_rng(0), []
    batches = [spec["shape"][0] if isinstance(spec["shape"][0], int) else 1 for spec in variant["inputs"]]
    shapes = [[batch, *spec["shape"][1:]] for batch, spec in zip(batches, program_inputs)]
    large = shapes_problem("inputs", shapes)
    if large:
        raise RunnerError(f"{variant['name']}: {large}")
    for shape, spec in zip(shapes, program_inputs):
        noise = spec["dtype"].startswith("float")
        arrays.append(random.standard_normal(shape, dtype="float32") if noise else np.zeros(shape, spec["dtype"]))
    with running(variant):
        feed, runs = model.feed(arrays), options.runs or (200 if options.seconds is None else sys.maxsize)
        if hasattr(model, "measure"):  # it measures by itself, in a process of its own
            in_time()
            found = model.measure(feed, options.warmup, runs, options.seconds)
            peak_import = peak_load = None
        else:
            found = _measure(model, feed, options, runs, in_time)
    times, compute = found["times_ms"], found.get("compute_ms")
    return {
        "variant": variant["name"],
        "file": variant["file"],
        "size_bytes": sum((folder / name).stat().st_size for name in [variant["file"], *(variant.get("parts") or [])]),
        "sha256": sha256(path),
        "runtime": runtime_name,
        "provider": model.provider(),
        "arithmetic": model.arithmetic(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": options.threads,
        "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cores": options.cores,
        "batch": len(arrays[0]),
        "import_ms": import_ms,
        "build_ms": build_ms,
        "load_ms": load_ms,
        "first_run_ms": found["first_run_ms"],
        "warmup_runs": options.warmup,
        "runs": len(times),
        **summarise(times),
        "compute_ms": statistics.median(compute) if compute else None,
        "peak_import_kib": peak_import,
        "peak_load_kib": peak_load,
        "peak_run_kib": found["peak_kib"],
        "major_faults": found.get("major_faults"),
        "pieces_ms": pieces(times),
        **({"operators": operator_times(path, variant, runtime, options.threads)} if options.by_layer else {}),
    }
