"""The latency table: seconds and megabytes of making it, and what it foretells beside what is measured.

    EDGESPA_DATA=../shared/data OMP_NUM_THREADS=1 .venv/bin/python benchmarks/latency_shapes/table.py [NETWORK ...]

Networks are cut uniformly, in the default steps; the files of one network and variant are measured in one process, in
turn, by the processor time of their one thread, and of each the fastest run counts: so other work on the machine says
little. Prediction is scaled by the unpruned network of the same turns.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edgespa.bundle import Base as Entry
from edgespa.bundle import Compaction, read_manifest
from edgespa.device.board import load_device
from edgespa.device.link.reach import connect
from edgespa.device.runner import import_runtime, open_model
from edgespa.exporting.bundle import export
from edgespa.exporting.config import ExportConfig, Origin
from edgespa.graph.groups import Groups, Kept
from edgespa.graph.program import Program
from edgespa.graph.surgery import compact
from edgespa.latency.making import make_table
from edgespa.latency.predict import Predictor
from edgespa.latency.wholes import noise
from edgespa.models.given import Given
from edgespa.selection.select import ROUND_TO, align_units
from edgespa.tasks.base import Base

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from rows import Row, Rows, fill, table  # noqa: E402

DATA = Path(os.environ.get("EDGESPA_DATA", HERE.parents[2] / "shared" / "data"))
NETWORKS = ("resnet56", "mobilenet_v2", "vit")
VARIANTS = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")
SHARES = (1.0, 0.8, 0.6, 0.4)
ROUNDS, RUNS = 25, 5


def opened(name: str) -> Base:
    """A network of the benchmark."""
    if name == "vit":
        from transformers import ViTConfig, ViTForImageClassification

        torch.manual_seed(0)
        config = ViTConfig(hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=768)
        return Base.open(Given(ViTForImageClassification(config).eval()), (1, 3, 224, 224))
    size = 32 if name == "resnet56" else 224
    return Base.open(f"{DATA / 'models.py'}:{name}", (1, 3, size, size))


def uniform(groups: Groups, share: float) -> Kept:
    """About so much of every group, on steps."""
    kept = groups.all_kept()
    for name, group in groups.groups.items():
        step = align_units(group, ROUND_TO)
        count = min(len(group), max(step, int(np.ceil(share * len(group) / step)) * step))
        kept[name] = np.arange(len(group)) < count
    return kept


def fastest_ms(base: Base, variant: str, programs: list[Program]) -> list[float]:
    """The fastest run of each program's file, in turn."""
    name, _, precision = variant.partition("-")
    images = noise(base.program) if precision == "int8" else None
    config = ExportConfig(
        formats=(name,), precisions=(precision,), int8_tolerance=1.0, int8_slowdown=1e9, int8_calibration="minmax",
        int8_rounding="nearest",
        calibration_images=8,
    )  # fmt: skip
    nothing = Compaction(parameters=0, macs=0, base_parameters=0, base_macs=0)
    origin = Origin("candidate", Entry(spec="", digest=""), nothing)
    with tempfile.TemporaryDirectory() as place:
        models = []
        for number, program in enumerate(programs):
            folder = Path(place) / str(number)
            export(program, origin, config, folder, calibration=images)
            plain = read_manifest(folder).variants[0].model_dump(mode="json")
            runtime, _ = import_runtime(name)
            models.append(open_model(folder, plain, 1, runtime))
        shape = [1, *(int(size) for size in base.program.inputs[0].shape[1:])]
        feeds = [model.feed([np.random.default_rng(0).standard_normal(shape, dtype="float32")]) for model in models]
        best = [float("inf")] * len(models)
        for _ in range(ROUNDS):
            for index, (model, feed) in enumerate(zip(models, feeds, strict=True)):
                for _ in range(RUNS):  # the first finds the caches full of the network before it
                    began = time.thread_time()
                    model.run(feed)
                    best[index] = min(best[index], 1e3 * (time.thread_time() - began))
    return best


def measured(name: str, variant: str) -> Row:
    """One row: the making of the table, predictions and measurements."""
    base = opened(name)
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_DATA_HOME"] = place
        began, used = time.perf_counter(), time.process_time()
        with connect(load_device("local")) as connection:
            found = make_table(connection, base.layers, variant)
        took, cpu = time.perf_counter() - began, time.process_time() - used
    plain = Predictor(base.layers, base.groups, found, 1.0)
    selections = [uniform(base.groups, share) for share in SHARES]
    programs = [compact(base.program, base.groups, kept) for kept in selections]
    times = fastest_ms(base, variant, programs)
    raw = [plain.latency_ms(kept) for kept in selections]
    scale = times[0] / raw[0]
    return {
        "files": sum(map(len, found.kinds.values())),
        "kinds": len(found.kinds),
        "table_seconds": round(took, 1),
        "table_cpu_seconds": round(cpu, 1),
        "step": found.step,
        "scale": round(scale, 4),
        "macs": [round(base.cost.cost(kept).macs / base.cost.cost().macs, 4) for kept in selections],
        "measured_ms": [round(value, 4) for value in times],
        "predicted_ms": [round(scale * value, 4) for value in raw],
        "load": round(os.getloadavg()[0], 1),
        "runtime": found.origin.runtime,
        "cpu": found.origin.cpu_model,
    }


def main() -> None:
    """Measure what is missing, and fill the README."""
    rows = Rows(HERE / "results" / "table.jsonl")
    asked = [each for each in sys.argv[1:] if each not in VARIANTS] or NETWORKS
    for variant in [each for each in sys.argv[1:] if each in VARIANTS] or VARIANTS:
        for name in asked:
            rows.get({"network": name, "variant": variant}, partial(measured, name, variant))
    body = []
    for row in rows.rows:
        errors = [f"{p / m - 1:+.0%}" for p, m in zip(row["predicted_ms"][1:], row["measured_ms"][1:], strict=True)]
        shares = [f"{share:.0%}" for share in row["macs"][1:]]
        pairs = [f"{share}: {m:.2f}, {e}" for share, m, e in zip(shares, row["measured_ms"][1:], errors, strict=True)]
        took = f"{row['table_seconds']:.0f} ({row['table_cpu_seconds']:.0f})"
        whole = [f"{row['measured_ms'][0]:.2f}", f"{1 / row['scale']:.2f}"]
        variant = row["variant"] + (" (wall clock)" if row.get("clock") == "wall" else "")
        body.append([row["network"], variant, str(row["files"]), took, *whole, *pairs, f"{row['load']:g}"])
    head = ["network", "variant", "files", "s (CPU)", "unpruned ms", "sum / ms", *["MACs: ms, error"] * 3, "load"]
    fill(HERE / "README.md", {"table": table(head, body)})


if __name__ == "__main__":
    main()
