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

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("27 first convolutions, asymmetric", {"model": "resnet56", "method": "asym-in-change", "first": True}),
    ("27 first convolutions, every density", {"model": "resnet56", "method": "layer-in-change", "first": True}),
    ("all groups, asymmetric", {"model": "resnet56", "method": "asym-in-change", "first": False}),
    *(
        (f"27 first convolutions, {count} images", {"model": "resnet56", "method": "asym-in-change", "images": count})
        for count in (128, 256, 1024)
    ),
    (
        "first convolutions of 16 channels only",
        {"model": "resnet56", "method": "asym-in-change", "only": "layer1.*.bn1"},
    ),
    (
        "first convolutions of 32 channels only",
        {"model": "resnet56", "method": "asym-in-change", "only": "layer2.*.bn1"},
    ),
    (
        "first convolutions of 64 channels only",
        {"model": "resnet56", "method": "asym-in-change", "only": "layer3.*.bn1"},
    ),
    ("MobileNetV2 at 224, all groups", {"model": "mobilenet_v2", "method": "asym-in-change", "first": False}),
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
    only = (case["only"],) if "only" in case else resnet56.FIRST if case.get("first", True) else ()
    setting = Setting.of(
        f"{case['data']}/models.py:{case['model']}", resnet56.PREPROCESS if small else mobilenet.PREPROCESS,
        f"{images}:train", f"{images}:test", case.get("images", 512), 0, only, 10,
    )  # fmt: skip
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began, used = time.perf_counter(), time.process_time()
    pruning = setting.pruning(method=case["method"])
    densities = [k / 20 for k in range(1, 20)] if case["method"] == "layer-in-change" else [0.5]
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
