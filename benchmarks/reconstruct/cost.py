"""Seconds and memory, each in a process of its own; and how they grow with images, channels and layers."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import Rows, table

FIRST = {"model": "resnet56", "method": "asym-in-change"}
SWEEP = tuple(k / 20 for k in range(1, 20))
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("27 first convolutions, asymmetric", FIRST),
    ("27 first convolutions, asymmetric, three densities", {**FIRST, "densities": (0.25, 0.5, 0.75)}),
    ("27 first convolutions, layer by layer", {**FIRST, "method": "layer-in-change", "densities": SWEEP}),
    ("all groups, asymmetric", {**FIRST, "only": ()}),
    ("MobileNetV2 at 224, all groups, asymmetric", {"model": "mobilenet_v2", "method": "asym-in-change", "only": ()}),
    *((f"27 first convolutions, asymmetric, {count} images", {**FIRST, "images": count}) for count in (128, 256, 1024)),
    *(
        (
            f"{3 * n} first convolutions of {width} channels, asymmetric",
            {**FIRST, "only": (f"layer{k}.[0-{3 * n - 1}].bn1",)},
        )
        for k, width, n in ((3, 64, 1), (3, 64, 2), (3, 64, 3), (2, 32, 3), (1, 16, 3))
    ),
)


def measure(data: Path, output: Path, results: Path) -> None:
    rows = Rows(results / "cost.jsonl")
    for name, case in CASES:
        command = [sys.executable, __file__, json.dumps({"data": str(data), **case})]
        rows.get(
            {"case": name}, lambda c=command: json.loads(subprocess.run(c, check=True, stdout=subprocess.PIPE).stdout)
        )


def child(case: dict[str, Any]) -> dict[str, Any]:
    """Prune once; memory is the high-water mark, above that of the loaded network and images."""
    import mobilenet
    import resnet56
    from setting import Setting

    small = case["model"] == "resnet56"
    images = f"{case['data']}/cifar10_jpeg.zip"
    only = tuple(case.get("only", resnet56.FIRST))
    setting = Setting.of(
        f"{case['data']}/models.py:{case['model']}", resnet56.PREPROCESS if small else mobilenet.PREPROCESS,
        f"{images}:train", f"{images}:test", case.get("images", 512), 0, only, 10,
    )  # fmt: skip
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began, used = time.perf_counter(), time.process_time()
    pruning = setting.pruning(method=case["method"])
    densities = case.get("densities", (0.5,))
    for density in densities:
        pruning.task(setting.density(density), Path.cwd())
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - used,
        "baseline_mib": baseline,
        "above_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - baseline,
        "densities": len(densities),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "load": os.getloadavg()[0],
    }


def report(results: Path) -> str:
    body = [
        [
            row["case"], str(row["densities"]), f"{row['seconds']:.0f}", f"{row['cpu_seconds']:.0f}",
            f"{row['above_mib']:.0f}", f"{row['load']:.1f}",
        ]
        for row in Rows(results / "cost.jsonl").rows
    ]  # fmt: skip
    head = [
        "what",
        "densities",
        "seconds",
        "CPU seconds",
        "MiB above the loaded network and images",
        "load of the machine",
    ]
    return table(head, body)


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.argv[1]))))
