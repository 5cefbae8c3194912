"""What does `edgespa profile` cost beyond the measurement itself? See README.md beside this file.

Measures one bundle in three ways, in turns: its own ``run.py --bench`` by hand (what any profile must spend), `edgespa
profile` on this machine, and `edgespa profile` over SSH to an sshd on loopback (the bundle is in the device's cache).
Rows are appended to rows.jsonl; a way's overhead is its time less that of run.py in the same round, in wall time and in
CPU time of all processes, those behind sshd among them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SSHD = HERE.parents[1] / "tests" / "device" / "sshd.py"


@contextlib.contextmanager
def loopback(folder: Path) -> Iterator[tuple[Any, Path]]:
    """An sshd on this machine, the one that the tests use, and a device profile that leads to it."""
    spec = importlib.util.spec_from_file_location("edgespa_bench_sshd", SSHD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    with module.running_sshd() as server:
        yield server, server.profile(folder / "loop.toml", home=folder / "device")


def cpu_seconds(server: Any) -> float:
    """CPU time of all processes that have ended: this one's children, and the server's, once its sessions are over."""
    while server.sessions():
        time.sleep(0.05)
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    behind = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return own.ru_utime + own.ru_stime + behind


def timed(command: list[str], server: Any) -> tuple[float, float, str]:
    """Wall and CPU seconds of a command, and what it says."""
    before, started = cpu_seconds(server), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall = time.perf_counter() - started
    return wall, cpu_seconds(server) - before, done.stdout


def measure(bundle: Path, variant: str, runs: int, rounds: int, output: Path) -> None:
    run = [sys.executable, "-P", str(bundle / "run.py"), "--bench", "--variant", variant, "--runs", str(runs), "--json"]
    edgespa = [sys.executable, "-m", "edgespa", "profile", str(bundle), "--variant", variant, "--runs", str(runs)]
    with tempfile.TemporaryDirectory() as name, loopback(Path(name)) as (server, device):
        ways = {
            "run.py": run,
            "local": [*edgespa, "--no-save", "--json"],
            "ssh": [*edgespa, "--no-save", "--json", "--device", str(device)],
        }
        first, _, text = timed(ways["ssh"], server)  # sends the agent and the bundle
        row: dict[str, Any] = {"round": -1, "first_ssh_s": first, "bytes_sent": json.loads(text)["bytes_sent"]}
        append(output, row)
        for number in range(rounds):
            row = {"round": number, "load": os.getloadavg()[0]}
            for way in ways if number % 2 == 0 else reversed(ways):
                row[f"{way}_s"], row[f"{way}_cpu_s"], text = timed(ways[way], server)
                answer = json.loads(text)
                row[f"{way}_p50_ms"] = answer["p50_ms"] if way == "run.py" else answer["results"][0]["p50_ms"]
            append(output, row)


def append(output: Path, row: dict[str, Any]) -> None:
    with output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def report(output: Path) -> None:
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    first = [row for row in lines if row["round"] < 0]
    rows = [row for row in lines if row["round"] >= 0]
    print(f"rounds: {len(rows)}, load {min(r['load'] for r in rows):.1f} to {max(r['load'] for r in rows):.1f}")
    print("| way | wall s | CPU s | wall beyond run.py, s | CPU beyond run.py, s | p50 of the network, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for way in ("run.py", "local", "ssh"):
        cells = [f"{statistics.median(row[f'{way}_{unit}'] for row in rows):.2f}" for unit in ("s", "cpu_s")]
        for unit in ("s", "cpu_s"):
            over = [row[f"{way}_{unit}"] - row[f"run.py_{unit}"] for row in rows]
            spread = f"{statistics.median(over):.2f} ({min(over):.2f} to {max(over):.2f})"
            cells.append("-" if way == "run.py" else spread)
        p50 = statistics.median(row[f"{way}_p50_ms"] for row in rows)
        print(f"| {way} | {' | '.join(cells)} | {p50:.2f} |")
    for row in first:
        print(f"first time over SSH: {row['first_ssh_s']:.2f} s, {row['bytes_sent']:,} bytes sent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", help="a bundle's folder; without it, only the report")
    parser.add_argument("--variant", default="onnx-fp32")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=HERE / "rows.jsonl")
    options = parser.parse_args()
    if options.bundle is not None:
        measure(options.bundle.resolve(), options.variant, options.runs, options.rounds, options.output)
    report(options.output)


if __name__ == "__main__":
    main()
