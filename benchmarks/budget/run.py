"""Asked and obtained latency: five budgets for two networks on this machine.

    python benchmarks/budget/run.py [--network NAME] [--data FOLDER]    measure, one row after the other
    python benchmarks/budget/run.py --table                             what was measured, as in README.md

Budgets are shares of what the whole network takes, rounded to two digits. `edgespa prune --budget latency_ms=X`
searches; what came out is exported and measured anew, in other processes. Rows that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHARES = (0.85, 0.7, 0.55, 0.4, 0.25)
NETWORKS = {"resnet56": (1, 3, 32, 32), "mobilenet_v2": (1, 3, 224, 224)}
RESULTS = Path(__file__).parent / "results" / "budget.jsonl"


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def whole_ms(spec: str, shape: tuple[int, ...]) -> float:
    from edgespa.device import load_device
    from edgespa.device.link.reach import connect
    from edgespa.latency.stopwatch import LatencyBudget, Stopwatch
    from edgespa.tasks.base import Base

    base = Base.open(spec, shape)
    device = load_device("local")
    with connect(device) as connection:
        cost = base.whole_cost
        return Stopwatch(LatencyBudget(1.0, device), connection).latency_ms(base.program, cost.macs, cost.size_bytes)


def measure(network: str, spec: str, shape: tuple[int, ...], share: float, asked: float) -> dict[str, Any]:
    from edgespa.api.tasks import prune_to_file
    from edgespa.device import load_device
    from edgespa.latency.stopwatch import LatencyBudget
    from edgespa.pruning import PruneConfig

    started, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        task = prune_to_file(
            spec,
            Path(folder) / "cut.spa",
            PruneConfig(density=1.0),
            input_shape=shape,
            latency=LatencyBudget(asked, load_device("local")),
        )
    account: Any = task.header.provenance["latency"]
    figures = task.header.figures
    return {
        "network": network,
        "share": share,
        "asked_ms": asked,
        "obtained_ms": account["obtained_ms"],
        "expected_ms": account["expected_ms"],
        "whole_ms": account["whole_ms"],
        "density": account["density"],
        "macs": figures.macs,
        "base_macs": figures.base_macs,
        "candidates": len(account["trials"]),
        "seconds": time.monotonic() - started,
        "load": load,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
    }


def table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| network | asked ms | obtained ms | off | channels | MACs | candidates | seconds | load |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found:
        off, macs = row["obtained_ms"] / row["asked_ms"] - 1, row["macs"] / row["base_macs"]
        times = f"{row['asked_ms']:g} | {row['obtained_ms']:.3g} | {off:+.1%}"
        cost = f"{row['candidates']} | {row['seconds']:.0f} | {row['load']:.1f}"
        lines.append(f"| {row['network']} | {times} | {row['density']:.1%} | {macs:.1%} | {cost} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS), action="append")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EDGESPA_DATA", "../shared/data")))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table(rows()))
        return
    RESULTS.parent.mkdir(exist_ok=True)
    for network in options.network or NETWORKS:
        shape, spec = NETWORKS[network], f"{options.data / 'models.py'}:{network}"
        known = {row["share"] for row in rows() if row["network"] == network}
        if known >= set(SHARES):
            continue
        whole = whole_ms(spec, shape)
        for share in SHARES:
            if share in known:
                continue
            row = measure(network, spec, shape, share, float(f"{share * whole:.2g}"))
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
