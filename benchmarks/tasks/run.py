"""Tasks other than classes, from training to the compacted exported file.

    EDGESPA_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/tasks/run.py [--only NAME ...] [--epochs N]
    python benchmarks/tasks/run.py --table        the tables of README.md from results/rows.jsonl

Each row is one training on the training split and one export; the measure is that of each exported file on the test
split, which nothing was chosen by. Time is the CPU time of one inference with one thread, median of 31. What is there
is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(ROOT)]

from rows import Row, Rows, fill, table  # noqa: E402

DATA = Path(os.environ.get("EDGESPA_DATA", ROOT.parent / "shared" / "data"))
OUT, RESULTS = HERE / "out", HERE / "results" / "rows.jsonl"
VARIANTS = ("onnx-fp32", "tflite-fp32", "onnx-int8", "tflite-int8")
RUNS = 31
Setting = tuple[str, tuple[str, ...], float]
# What is trained, and how much of the MACs is left.
SETTINGS: dict[str, Setting] = {
    f"{name} {density:g}": (name, words, density)
    for density in (1.0, 0.5, 0.25)
    for name, words in {
        "full": ("--adapter", "full"),
        "SPLoRA r8": ("--adapter", "splora", "--rank", "8"),
        "SPLoRA r32": ("--adapter", "splora", "--rank", "32"),
    }.items()
}
CAMVID = f"{DATA}/camvid_240x180.zip"
COMMON = ("--mean", "0.5", "--std", "0.5")


def edgespa(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgespa", *words, "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def milliseconds(bundle: Path, variant: dict[str, Any]) -> float:
    """CPU time of one inference."""
    import numpy as np

    from edgespa.device import runner

    model = runner.open_model(bundle, variant, 1, runner.import_runtime(variant["format"])[0])
    side = variant["inputs"][0]["shape"][2:]
    feed = model.feed([np.random.default_rng(0).standard_normal((1, 3, *side), dtype="float32")])
    times = []
    for _ in range(RUNS + 3):
        began = time.process_time_ns()
        model.run(feed)
        times.append((time.process_time_ns() - began) / 1e6)
    return statistics.median(times[3:])


def segmented(setting: str, epochs: int) -> Row:
    """One row of CamVid."""
    _, words, density = SETTINGS[setting]
    name = setting.replace(" ", "-")
    task, bundle = OUT / f"{name}.spa", OUT / name
    began = time.perf_counter()
    if not task.exists():
        edgespa(
            "adapt", f"{HERE / 'nets.py'}:lraspp", "--input-shape", "1,3,96,128", "--data", f"{CAMVID}:train",
            "--eval-data", f"{CAMVID}:test", *COMMON, *words, "--budget", "macs", "--density", str(density),
            "--epochs", str(epochs), "--batch-size", "16", "--augment", "flip,crop,colour", "--output", str(task),
        )  # fmt: skip
    seconds = time.perf_counter() - began
    if not bundle.exists():
        edgespa(
            "export", str(task), "--precision", "fp32", "--precision", "int8", "--calibration", f"{CAMVID}:train",
            "--eval-data", f"{CAMVID}:test", "--trust", "--output", str(bundle),
        )  # fmt: skip
    manifest = json.loads((bundle / "manifest.json").read_text())
    files = {
        each["name"]: {
            "miou": each["accuracy"]["value"],
            "bytes": each["size_bytes"],
            "milliseconds": milliseconds(bundle, each),
        }
        for each in manifest["variants"]
    }
    costs = manifest["compaction"]
    return {
        "epochs": epochs,
        "training_seconds": seconds,
        "program": manifest["reference_accuracy"]["value"],
        "macs": costs["macs"] / costs["base_macs"],
        "task_bytes": costs["task_size_bytes"],
        "files": files,
    }


def lines(rows: list[Row]) -> list[list[str]]:
    def cell(files: dict[str, Any], variant: str) -> str:
        found = files.get(variant)
        return (
            "-" if found is None else f"{found['miou']:.1%}, {found['bytes'] / 1024:,.0f}, {found['milliseconds']:.2f}"
        )

    return [
        [
            row["setting"],
            f"{row['macs']:.0%}",
            f"{row['task_bytes'] / 1024:,.0f}",
            f"{row['program']:.1%}",
            *(cell(row["files"], variant) for variant in VARIANTS),
            f"{row['training_seconds']:,.0f}",
        ]
        for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(SETTINGS), metavar="NAME")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    rows = Rows(RESULTS)
    for setting in () if options.table else options.only or SETTINGS:
        key = {"task": "segmentation", "setting": setting}
        rows.get(key, lambda setting=setting: segmented(setting, options.epochs))
    head = ["trained, MACs asked", "MACs", "task file KiB", "program mIoU"]
    head += [f"{variant}: mIoU, KiB, ms" for variant in VARIANTS]
    fill(HERE / "README.md", {"segmentation": table([*head, "training s"], lines(rows.rows))})


if __name__ == "__main__":
    main()
