"""The main job on real pretrained networks: size, accuracy, parity and latency of everything that is shipped.

    python benchmarks/main_job/run.py [--data FOLDER] [--output FOLDER] [--epochs N]

ResNet-56 (JPEG-CIFAR) is adapted to Fashion-MNIST (10,000 training images, the official 10,000 for test) at several
channel densities; MobileNetV2 (ImageNet) is exported as it is and cut by magnitude. What is there already is not made
again, so an interrupted run goes on. Latencies of a pruned model are measured in the same run as those of the unpruned
one, in turn. Writes ``results.json`` beside the outputs and prints the tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MEAN, STD = "0.485,0.456,0.406", "0.229,0.224,0.225"
DENSITIES = (1.0, 0.4, 0.2)


def edgespa(*arguments: str) -> tuple[dict[str, Any], float, float]:
    """Run a command with --json; its result, wall seconds and peak memory in MiB."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "edgespa", *arguments, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: edgespa {' '.join(arguments)}")
    return json.loads(output), time.perf_counter() - began, usage.ru_maxrss / 1024


def resnet(data: Path, output: Path, epochs: int, rounds: int) -> list[dict[str, Any]]:
    """Adapt, export and profile ResNet-56 at every density."""
    normalise = ("--mean", MEAN, "--std", STD)
    fashion = f"{data}/fashion"
    for density in DENSITIES:
        name = f"resnet56-{density:g}"
        task, bundle = output / f"{name}.spa", output / name
        if not task.exists():
            goes_on = ("--resume",) if task.with_name(f"{task.name}.resume").exists() else ()
            _, seconds, memory = edgespa(
                "adapt", f"{data}/models.py:resnet56", "--input-shape", "1,3,32,32", "--data", f"{fashion}:train",
                "--limit", "10000", *normalise, "--adapter", "splora", "--rank", "8", "--density", str(density),
                "--criterion", "taylor", "--epochs", str(epochs), *goes_on, "--output", str(task),
            )  # fmt: skip
            (output / f"{name}.adapt.json").write_text(json.dumps({"seconds": seconds, "memory_mib": memory}))
        if not bundle.exists():
            edgespa(
                "export", str(task), "--precision", "fp32", "--precision", "int8", "--calibration",
                f"{fashion}:train", "--eval-data", f"{fashion}:test", "--output", str(bundle),
            )  # fmt: skip
    rows = []
    for density in DENSITIES:
        name = f"resnet56-{density:g}"
        adapted = json.loads((output / f"{name}.adapt.json").read_text())
        rows += compared(output / name, output / "resnet56-1", rounds, {"train_seconds": adapted["seconds"]})
    return rows


def mobilenet(data: Path, output: Path, rounds: int) -> list[dict[str, Any]]:
    """Export MobileNetV2 as it is and cut to 75% of its channels; calibration on resized JPEG-CIFAR images."""
    model = (f"{data}/models.py:mobilenet_v2", "--input-shape", "1,3,224,224")
    cut = output / "mobilenet_v2-0.75.spa"
    if not cut.exists():
        edgespa("prune", *model, "--method", "l1", "--density", "0.75", "--output", str(cut))
    common = (
        "--precision", "fp32", "--precision", "int8",
        "--calibration", f"{data}/cifar10_jpeg.zip:train", "--limit", "128", "--mean", "0.5", "--std", "0.5",
    )  # fmt: skip
    costs = {}
    for name, arguments in (("mobilenet_v2", model), ("mobilenet_v2-0.75", (str(cut),))):
        record = output / f"{name}.export.json"
        if not (output / name).exists():
            _, seconds, memory = edgespa("export", *arguments, *common, "--output", str(output / name))
            record.write_text(json.dumps({"export_seconds": seconds, "export_memory_mib": memory}))
        costs[name] = json.loads(record.read_text())
    rows = []
    for name, cost in costs.items():
        rows += compared(output / name, output / "mobilenet_v2", rounds, cost)
    return rows


def compared(bundle: Path, unpruned: Path, rounds: int, extra: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per variant: figures of the manifest, and latency beside the unpruned bundle's in the same run."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    against = () if bundle == unpruned else ("--against", str(unpruned))
    profile, _, _ = edgespa(
        "profile", str(bundle), *against, "--threads", "1", "--rounds", str(rounds), "--seconds", "3", "--no-save"
    )
    latency = {r["variant"]: r for r in profile["results"] if r["bundle"] == bundle.name}
    ratios = {r["variant"]: r for r in profile["ratios"]}
    cost = manifest["compaction"]
    mac_ratio = cost["macs"] / cost["base_macs"]
    rows = []
    for variant in manifest["variants"]:
        ratio = ratios.get(variant["name"], {"ratio": 1.0, "low": 1.0, "high": 1.0})
        rows.append(
            {
                "model": bundle.name,
                "variant": variant["name"],
                "accuracy": (variant["accuracy"] or {}).get("value"),
                "program_accuracy": (manifest["reference_accuracy"] or {}).get("value"),
                "size_bytes": variant["size_bytes"],
                "task_size_bytes": cost["task_size_bytes"],
                "base_size_bytes": cost["base_size_bytes"],
                "parameters": cost["parameters"],
                "macs": cost["macs"],
                "mac_ratio": mac_ratio,
                "relative_error": variant["parity"]["relative_error"],
                "component_error": variant["parity"]["component_error"],
                "correlation": variant["parity"]["correlation"],
                "agreement": (variant["agreement"] or {}).get("value"),
                "float_layers": len(variant["float_layers"]),
                "p50_ms": latency[variant["name"]]["p50_ms"],
                "p90_ms": latency[variant["name"]]["p90_ms"],
                "latency_ratio": ratio["ratio"],
                "latency_ratio_range": [ratio["low"], ratio["high"]],
                "realised": ratio["ratio"] / mac_ratio,
                **extra,
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = [
        "| model | variant | accuracy | file KiB | task KiB | params | MACs | worst component: error, correlation "
        "| same top class | p50 ms | p90 ms | latency ratio | MAC ratio | realised |",
        "| --- " * 14 + "|",
    ]
    for row in rows:
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.2%}"
        task = "-" if row["task_size_bytes"] is None else f"{row['task_size_bytes'] / 1024:.0f}"
        same = "-" if row["agreement"] is None else f"{row['agreement']:.2%}"
        low, high = row["latency_ratio_range"]
        lines.append(
            f"| {row['model']} | {row['variant']} | {accuracy} | {row['size_bytes'] / 1024:.0f} | {task} "
            f"| {row['parameters']:,} | {row['macs'] / 1e6:.1f}M "
            f"| {row['component_error']:.1e}, {row['correlation']:.5f} | {same} | {row['p50_ms']:.3f} "
            f"| {row['p90_ms']:.3f} | {row['latency_ratio']:.2f} ({low:.2f}-{high:.2f}) "
            f"| {row['mac_ratio']:.2f} | {row['realised']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run everything that is not there yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EDGESPA_DATA", "../shared/data")))
    parser.add_argument("--output", type=Path, default=HERE / "out")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["resnet", "mobilenet"])
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = [] if options.only == "mobilenet" else resnet(options.data, options.output, options.epochs, options.rounds)
    rows += [] if options.only == "resnet" else mobilenet(options.data, options.output, options.rounds)
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    (options.output / "results.json").write_text(json.dumps({"versions": versions, "rows": rows}, indent=1))
    print(markdown(rows))


if __name__ == "__main__":
    main()
