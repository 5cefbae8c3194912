"""Depth pruning of a tuned vision transformer: accuracy, bytes, latency, and what scoring costs.

    python benchmarks/depth/pretrain.py                       # once
    python benchmarks/depth/run.py accuracy|latency|cost|report [--data FOLDER]

Each row is measured once and appended to ``results/*.jsonl``, so an interrupted run goes on; ``report`` writes the
tables into README.md.
"""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

import torch
from common import HERE, Setting, fill
from vit import weights_path

PARTS = ("accuracy", "latency", "cost")


def write_report(results: Path) -> None:
    """Put each part's tables between its marks in the README."""
    there = [part for part in PARTS if (results / f"{part}.jsonl").exists()]
    fill(HERE / "README.md", {part: importlib.import_module(part).report(results) for part in there})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "report"])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EDGESPA_DATA", "../shared/data")))
    parser.add_argument("--output", type=Path, default=weights_path().parent, help="task files and bundles")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--images", type=int, default=2000, help="training images of a task")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--again", type=int, default=2, help="epochs after the cut")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    options = parser.parse_args()
    if options.part == "report":
        write_report(options.results)
        return
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    setting = Setting(
        options.data.resolve(), options.output.resolve(), options.images, options.epochs, options.again, options.test
    )
    importlib.import_module(options.part).measure(setting, options.results)


if __name__ == "__main__":
    main()
