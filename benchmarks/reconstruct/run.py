"""Data-efficient pruning against its comparisons: accuracy, time and memory.

    python benchmarks/reconstruct/run.py lenet|resnet56|mobilenet|few|cost|report [--data FOLDER]

Each row is measured once and appended to ``results/*.jsonl``, so an interrupted run goes on; ``report`` writes the
tables into README.md and the charts beside the rows.
"""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

from common import HERE, fill

PARTS = ("lenet", "resnet56", "mobilenet", "few", "cost")


def write_report(results: Path) -> None:
    """Put each part's tables between its marks in the README."""
    there = [part for part in PARTS if any(results.glob(f"{part}*.jsonl"))]
    fill(HERE / "README.md", {part: importlib.import_module(part).report(results) for part in there})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "report"])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EDGESPA_DATA", "../shared/data")))
    parser.add_argument("--output", type=Path, default=HERE / "out", help="trained networks")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if options.part != "report":
        importlib.import_module(options.part).measure(options.data, options.output, options.results)
    else:
        write_report(options.results)


if __name__ == "__main__":
    main()
