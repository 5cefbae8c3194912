"""The zoo: what can be removed from every network of it, what not and why, and whether removing it is exact.

    make zoo                                             torchvision, timm and torch-pruning, into .zoo
    PYTHONPATH=.zoo python benchmarks/zoo/run.py [--library NAME ...] [--name TEXT] [--seeds N] [--output FOLDER]
    python benchmarks/zoo/run.py --table                 the tables of README.md from the rows that are there

One row per network in ``FOLDER/rows.jsonl``; a network with a row is not measured again, so that an interrupted run
goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

LIBRARIES = ("torchvision", "segmentation", "timm", "transformers")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", action="append", help="torchvision, segmentation, timm, transformers; default all")
    parser.add_argument("--name", default="", help="only networks with this in their name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--table", action="store_true", help="print the tables and stop")
    options = parser.parse_args()
    rows_file = options.output / "rows.jsonl"
    if not options.table:
        run(options, rows_file)
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    reasons([row for row in rows if "failure" not in row])
    for library in LIBRARIES:
        some = [row for row in rows if row["name"].startswith(f"{library}:")]
        if some:
            table(sorted(some, key=lambda row: row["name"].lower()), library)


def run(options: argparse.Namespace, rows_file: Path) -> None:
    import measure
    import networks

    options.output.mkdir(parents=True, exist_ok=True)
    done = {json.loads(line)["name"] for line in rows_file.read_text().splitlines()} if rows_file.exists() else set()
    for library in options.library or LIBRARIES:
        for name in networks.names(library):
            if options.name not in name or name in done:
                continue
            measured = measure.apart(lambda name=name: measure.measure(networks.network(name), options.seeds))
            with rows_file.open("a") as file:
                file.write(json.dumps({"name": name, **measured}) + "\n")
            print(name, measured.get("failure") or f"{measured['error']:.1e}", file=sys.stderr, flush=True)


def reasons(rows: list[dict[str, Any]]) -> None:
    """What fixes slots, over all networks; a slot may have channels, which count as such, or positions."""
    slots: Counter[str] = Counter()
    channels: Counter[str] = Counter()
    networks: Counter[str] = Counter()
    for row in rows:
        slots.update(row["reasons"])
        channels.update(row["fixed_channels"])
        networks.update(row["reasons"].keys())
    print("\n## What fixes slots\n\n| reason | slots | channels | networks |\n| --- | --- | --- | --- |")
    for reason, count in slots.most_common():
        print(f"| {reason} | {count:,} | {channels[reason]:,} | {networks[reason]} |")


def table(rows: list[dict[str, Any]], library: str) -> None:
    good = [row for row in rows if "failure" not in row]
    exact = sum(row["error"] <= 1e-5 for row in good)
    print(f"\n## {library}: {exact} of {len(rows)} exact (largest error {max(row['error'] for row in good):.1e})\n")
    seconds = {key: f"{median(row[f'{key}_s'] for row in good):.2f}" for key in ("trace", "label", "compact")}
    longest = max(row["label_s"] for row in good)
    print(
        f"Median seconds: {', '.join(f'{k} {v}' for k, v in seconds.items())}; the longest labelling {longest:.2f}.\n"
    )
    print("| network | channels that can go | parameters | MACs | units | label s | error | what keeps the others |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        name = row["name"].partition(":")[2]
        if "failure" in row:
            print(f"| {name} | - | - | - | - | - | {row['failure']} | |")
            continue
        why = "; ".join(f"{reason} ({count:,})" for reason, count in row["fixed_channels"].items())
        share = row["removable_channels"] / max(row["channels"], 1)
        note = "" if row["error"] == row["error_float32"] else f" (float64; float32 {row['error_float32']:.0e})"
        print(
            f"| {name} | {share:.1%} | {row['parameter_share']:.1%} | {row['mac_share']:.1%} | {row['units']:,} "
            f"| {row['label_s']:.2f} | {row['error']:.0e}{note} | {why} |"
        )


if __name__ == "__main__":
    main()
