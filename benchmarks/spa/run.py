"""Adapters against fine-pruning on real images: the main table, criteria, and what a row costs.

    python benchmarks/spa/run.py measure [--only TEXT] [--quick] [--list]    goes on where it was interrupted
    python benchmarks/spa/run.py latency                                     of rows that have none, on a quiet machine
    python benchmarks/spa/run.py report                                      writes the tables into README.md

Several processes may measure at once: a row that one of them is at is left out by the others.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from measure import find, measure_all, measure_latencies, read_rows
from settings import every, quick
from tables import LATENCIES, write_report

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "latency", "report"])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EDGESPA_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, default=HERE / "out", help="task files, logs and bundles")
    parser.add_argument("--results", type=Path, help="the file of rows")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--quick", action="store_true", help="a slice of ten minutes")
    parser.add_argument("--list", action="store_true", help="name the rows, with what is measured")
    options = parser.parse_args()
    results = options.results or HERE / ("out/quick.jsonl" if options.quick else "results/results.jsonl")
    if options.what == "report":
        write_report(results)
        return
    latencies = results.with_name(LATENCIES)
    if options.what == "latency":
        measure_latencies(options.data, options.work, results, latencies)
        return
    settings = list(
        dict.fromkeys(each for each in (quick() if options.quick else every()) if options.only in each.label)
    )
    if options.list:
        rows = read_rows(results)
        for each in settings:
            print("done   " if find(rows, each) else "missing", each.label)
        return
    measure_all(settings, options.data, options.work, results)
    if options.quick:
        measure_latencies(options.data, options.work, results, latencies, quiet=False)
        write_report(results, readme=None)


if __name__ == "__main__":
    main()
