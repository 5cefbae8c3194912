"""Latency and throughput of the network at every depth, as ONNX and as TFLite, batch 1, in one run.

All files are loaded at once and take turns, so that what else the machine does meets all of them. 50 warm-ups and 100
timed runs of each, as in the paper, in rounds of 10. What is given is CPU time of the one thread that runs, which other
work on the machine does not stretch as it does the time on the clock; that is in the rows too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import Row, Rows, Setting, base, table

from edgespa.bundle import Base as BaseEntry
from edgespa.bundle import Compaction
from edgespa.exporting.bundle import export
from edgespa.exporting.config import ExportConfig, Origin

DEPTHS = (1, 2, 4, 6, 8, 10, 12)
WARM_UP, ROUNDS, RUNS = 50, 10, 10
Run = Callable[[], Any]


def measure(setting: Setting, results: Path) -> None:
    """One row per format and depth."""
    rows = Rows(results / "latency.jsonl")
    if rows.rows:
        return
    whole = base()
    folders = {}
    for depth in DEPTHS:
        gone = [block.name for block in whole.blocks[depth:]]
        smaller = whole.without_blocks(gone)
        folders[depth] = setting.output / f"depth-{depth}"
        if not folders[depth].exists():
            cost, all_of_it = smaller.cost.cost(), whole.whole_cost
            compaction = Compaction(
                parameters=cost.parameters,
                macs=cost.macs,
                base_parameters=all_of_it.parameters,
                base_macs=all_of_it.macs,
                channel_density=1.0,
                base_size_bytes=all_of_it.size_bytes,
            )
            origin = Origin(f"depth {depth}", BaseEntry(spec=whole.spec, digest=whole.digest), compaction)
            export(smaller.program, origin, ExportConfig(precisions=("fp32",)), folders[depth])
    for name, load in (("onnx", _onnx), ("tflite", _tflite)):
        times = _interleaved({depth: load(folder) for depth, folder in folders.items()})
        for depth, own in times.items():
            pairs = zip(own, times[DEPTHS[-1]], strict=True)
            ratios = [mine.cpu / whole_one.cpu for mine, whole_one in pairs]
            cpu = statistics.median(each.cpu for each in own)
            found = {
                "cpu_ms": cpu * 1e3,
                "wall_ms": statistics.median(each.wall for each in own) * 1e3,
                "images_per_second": 1 / cpu,
                "ratio": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
                "cpu_seconds": sum(each.cpu for each in own) * RUNS,
            }
            rows.get({"format": name, "depth": depth}, lambda found=found: found)


class Times(NamedTuple):
    """Medians of a round, in seconds: CPU time of the process, and time on the clock."""

    cpu: float
    wall: float


def _interleaved(runs: dict[int, Run]) -> dict[int, list[Times]]:
    """Medians of each round; the depths take turns within a round."""
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    times: dict[int, list[Times]] = {depth: [] for depth in runs}
    for _ in range(ROUNDS):
        own: dict[int, list[tuple[float, float]]] = {depth: [] for depth in runs}
        for _ in range(RUNS):
            for depth, run in runs.items():
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                own[depth].append((time.process_time() - cpu, time.perf_counter() - wall))
        for depth, values in own.items():
            times[depth].append(Times(*(statistics.median(column) for column in zip(*values, strict=True))))
    return times


def _onnx(folder: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = next(folder.glob("*.onnx"))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    shape = [1 if not isinstance(size, int) else size for size in given.shape]
    feed = {given.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    return lambda: session.run(None, feed)


def _tflite(folder: Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(next(folder.glob("*.tflite"))), num_threads=1)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]
    interpreter.set_tensor(
        given["index"], np.random.default_rng(0).standard_normal(given["shape"]).astype(given["dtype"])
    )
    return interpreter.invoke


def report(results: Path) -> str:
    """The table."""
    rows: list[Row] = Rows(results / "latency.jsonl").rows
    depths = sorted({row["depth"] for row in rows})
    body = []
    for depth in depths:
        cells = [str(depth)]
        for name in ("onnx", "tflite"):
            row = next((r for r in rows if (r["format"], r["depth"]) == (name, depth)), None)
            if row is None:
                cells += ["-"] * 3
                continue
            ratio = row["ratio"]
            cells += [f"{row['cpu_ms']:.2f}", f"{row['images_per_second']:.0f}"]
            cells.append(f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})")
        body.append(cells)
    head = ["blocks", "ONNX ms", "images/s", "of 12 blocks", "TFLite ms", "images/s", "of 12 blocks"]
    return table(head, body)
