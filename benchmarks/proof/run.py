"""What files that an older edgespa called proved say of themselves component by component, and what is written now.

    git worktree add benchmarks/proof/out/before 9377e99
    EDGESPA_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/proof/run.py [--only NAME ...]
    python benchmarks/proof/run.py --table        the tables of README.md from results/rows.jsonl

Each network is exported in float32 and int8 by both, with the same images, without a cache. The old bundle is verified
by the edgespa of this checkout. Time is the CPU time of one inference with one thread, both files in turns, 31 of them:
the median of the ratios. One row per file; what is there is not made again.
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
CIFAR, PHOTOGRAPHS = f"{DATA}/cifar10_jpeg.zip:test", f"{DATA}/photographs.py:calibrate"
IMAGENET = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
NETWORKS: dict[str, tuple[str, int, str, tuple[str, ...]]] = {
    "ResNet-56": (f"{DATA}/models.py:resnet56", 32, CIFAR, IMAGENET),
    "MobileNetV2": (f"{DATA}/models.py:mobilenet_v2", 224, PHOTOGRAPHS, ("--mean", "0.5", "--std", "0.5")),
    "EfficientNet-B0": (f"{HERE.parent}/export/nets.py:efficientnet_b0", 224, CIFAR, ("--mean", "0.5", "--std", "0.5")),
    # One way of finding ranges instead of three, in both: the older export takes hours with all.
    "ConvNeXt-Tiny": (
        f"{HERE.parent}/export/nets.py:convnext_tiny",
        224,
        CIFAR,
        ("--mean", "0.5", "--std", "0.5", "--int8-calibration", "minmax", "--calibration-images", "32"),
    ),
    "boxes and scores, joined": (f"{HERE}/nets.py:boxes_joined", 64, PHOTOGRAPHS, ()),
    "boxes and scores, apart": (f"{HERE}/nets.py:boxes_apart", 64, PHOTOGRAPHS, ()),
    "the ten best, by topk": (f"{HERE}/nets.py:best_ten", 64, PHOTOGRAPHS, ()),
    "one number about 1013": (f"{HERE}/nets.py:gauge", 64, PHOTOGRAPHS, ()),
    "three numbers of unlike size": (f"{HERE}/nets.py:unlike_numbers", 64, PHOTOGRAPHS, ()),
    "key points as numbers": (f"{HERE}/nets.py:key_points", 64, PHOTOGRAPHS, ()),
    "key points as heat maps": (f"{HERE}/nets.py:heat_maps", 64, PHOTOGRAPHS, ()),
    "depth": (f"{HERE}/nets.py:depth", 64, PHOTOGRAPHS, ()),
    "segmentation": (f"{HERE}/nets.py:segmentation", 64, PHOTOGRAPHS, ()),
}
VARIANTS = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")
TURNS = 31


def exported(name: str, code: Path, output: Path) -> None:
    """The bundle of a network, by the edgespa in a folder."""
    spec, side, images, normalised = NETWORKS[name]
    command = [
        sys.executable,
        "-P",
        "-m",
        "edgespa",
        "export",
        spec,
        "--input-shape",
        f"1,3,{side},{side}",
        *normalised,
    ]
    command += ["--calibration", images, "--precision", "fp32", "--precision", "int8", "--overwrite"]
    command += ["--output", str(output), *(("--int8-slowdown", "1000") if code != ROOT else ())]
    paths = os.pathsep.join(map(str, [code, HERE.parent / "zoo", ROOT / ".zoo"]))
    environment = {**os.environ, "PYTHONPATH": paths, "EDGESPA_CACHE": "off"}
    # Its own processes find edgespa in the current folder first.
    subprocess.run(command, check=False, env=environment, cwd=code, stdout=subprocess.DEVNULL)


def checked(bundle: Path) -> dict[str, Any]:
    """What verify says of each variant."""
    command = [sys.executable, "-m", "edgespa", "verify", str(bundle), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    return {each["name"]: each for each in json.loads(done.stdout)["variants"]} if done.stdout else {}


def listed(bundle: Path) -> dict[str, Any]:
    path = bundle / "manifest.json"
    return {each["name"]: each for each in json.loads(path.read_text())["variants"]} if path.exists() else {}


def time_ratio(ours: Path, our: dict[str, Any], theirs: Path, their: dict[str, Any]) -> float:
    """Time of one file against that of another."""
    import numpy as np

    from edgespa.device import runner

    runtime, _ = runner.import_runtime(our["format"])
    models = [runner.open_model(*pair, 1, runtime) for pair in ((ours, our), (theirs, their))]
    shape = our["inputs"][0]["shape"]
    side = shape[2]
    feeds = [
        model.feed([np.random.default_rng(0).standard_normal((1, 3, side, side), dtype="float32")]) for model in models
    ]
    ratios = []
    for turn in range(TURNS + 3):
        times = [0.0, 0.0]
        for index in (0, 1) if turn % 2 else (1, 0):
            models[index].run(feeds[index])
            began = time.process_time_ns()
            models[index].run(feeds[index])
            times[index] = time.process_time_ns() - began
        ratios.append(times[0] / max(times[1], 1))
    return statistics.median(ratios[3:])


def measured(name: str) -> list[Row]:
    """The rows of one network."""
    folder = OUT / name.replace(" ", "-").replace(",", "")
    before, now = folder / "before", folder / "now"
    folder.mkdir(parents=True, exist_ok=True)
    for code, output in ((OUT / "before", before), (ROOT, now)):
        exported(name, code, output)
    was, are, found = listed(before), listed(now), checked(before)
    rows = []
    for variant in VARIANTS:
        old, new, check = was.get(variant), are.get(variant), found.get(variant, {})
        row: Row = {"network": name, "variant": variant}
        if old:
            row["said"] = {key: old["parity"][key] for key in ("cosine", "relative_error", "count")}
            figures = ("status", "component_error", "correlation", "constant", "components")
            row["before"] = {key: check.get(key) for key in figures}
        if new:
            row["now"] = {key: new["parity"][key] for key in ("component_error", "correlation", "components", "count")}
            row["now"]["float_layers"] = len(new["float_layers"])
        if old and new:
            row["bytes"] = new["size_bytes"] / old["size_bytes"]
            row["time"] = time_ratio(now, new, before, old)
        rows.append(row)
    return rows


def lines(rows: list[Row]) -> list[list[str]]:
    def figures(each: dict[str, Any] | None) -> str:
        if each is None:
            return "no file"
        if each["component_error"] is None:
            return "-"
        dead = f", **{each['constant']} of {each['components']} constant**" if each.get("constant") else ""
        correlation = "-" if each["correlation"] is None else f"{each['correlation']:.4f}"
        return f"{each['component_error']:.1e}, {correlation}{dead}"

    return [
        [
            row["network"],
            row["variant"],
            f"{row['said']['cosine']:.6f}" if "said" in row else "-",
            figures(row.get("before")),
            figures(row.get("now")),
            f"{row['bytes']:.3f}" if "bytes" in row else "-",
            f"{row['time']:.2f}" if "time" in row else "-",
        ]
        for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(NETWORKS), metavar="NAME")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    rows = Rows(RESULTS)
    for name in () if options.table else options.only or NETWORKS:
        if rows.find({"network": name}) is None:
            for row in measured(name):
                rows.get({"network": row["network"], "variant": row["variant"]}, lambda row=row: row)
    head = [
        "network",
        "file",
        "it said: cosine",
        "it is: error, correlation",
        "now: error, correlation",
        "bytes",
        "time",
    ]
    fill(HERE / "README.md", {"rows": table(head, lines(rows.rows))})


if __name__ == "__main__":
    main()
