"""One row: adapt and export, and then, on a quiet machine, profile, with the commands of edgespa."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from settings import NETWORKS, Setting

Row = dict[str, Any]
BUSY = 1.5  # load from which on latencies mean little: something else worked, too


def read_rows(path: Path) -> list[Row]:
    """Rows of a results file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def find(rows: Iterable[Row], setting: Setting) -> Row | None:
    """The row of a setting, if it is measured."""
    return next((row for row in rows if all(row.get(name) == value for name, value in setting.key.items())), None)


def edgespa(*arguments: str) -> Any:
    """Run a command with --json; its result."""
    command = [sys.executable, "-m", "edgespa", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"failed: edgespa {' '.join(arguments)}")
    return json.loads(done.stdout)


def measure_all(settings: Iterable[Setting], data: Path, work: Path, results: Path) -> None:
    """Measure what has no row yet; several processes may work on one list.

    Args:
        settings: In order.
        data: The folder of networks and images.
        work: Task files, logs and bundles; an interrupted training goes on from there.
        results: The rows, appended one by one.
    """
    work.mkdir(parents=True, exist_ok=True)
    for setting in settings:
        with (work / f"{setting.label}.lock").open("w") as lock:
            if not _locked(lock) or find(read_rows(results), setting) is not None:
                continue
            row = {**setting.key, **measure(setting, data, work), **machine()}
            results.parent.mkdir(parents=True, exist_ok=True)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def _locked(lock: IO[str]) -> bool:
    """Take a lock that ends with the process, unless another one has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def measure(setting: Setting, data: Path, work: Path) -> Row:
    """The figures of one setting."""
    network = NETWORKS[setting.network]
    task, log, bundle = (work / f"{setting.label}{end}" for end in (".spa", ".log.jsonl", ".bundle"))
    if not task.exists():
        goes_on = ("--resume",) if task.with_name(f"{task.name}.resume").exists() else ()
        edgespa("adapt", *setting.arguments(data, work), "--log", str(log), *goes_on, "--output", str(task))
    edgespa(
        "export", str(task), "--format", "onnx", "--eval-data", f"{data}/{network.data}:test",
        "--output", str(bundle), "--overwrite",
    )  # fmt: skip
    manifest = json.loads((bundle / "manifest.json").read_text())
    cost, variant = manifest["compaction"], manifest["variants"][0]
    epochs = [event for event in read_rows(log) if event["event"] == "epoch"]
    return {
        "accuracy": variant["accuracy"]["value"],
        "program_accuracy": manifest["reference_accuracy"]["value"],
        "validation": max(event["validation"] for event in epochs if _final(event, epochs)),
        "channel_density": cost["channel_density"],
        "parameters": cost["parameters"],
        "macs": cost["macs"],
        "base_macs": cost["base_macs"],
        **_of_header(task),
        "task_bytes": cost["task_size_bytes"],
        "onnx_bytes": variant["size_bytes"],
        "parity": variant["parity"]["relative_error"],
        "train_seconds": sum(event["seconds"] for event in epochs),
        "train_cpu_seconds": sum(event["cpu_seconds"] for event in epochs),
    }


def _final(event: Row, epochs: list[Row]) -> bool:
    return bool(event["density"] == epochs[-1]["density"])


def _of_header(path: Path) -> Row:
    from edgespa.tasks.task import Task

    header = Task.load(path).header
    return {"stored_parameters": header.figures.stored_parameters, "lr": header.provenance["lr"]}


def _unpruned(setting: Setting, data: Path, work: Path) -> Path:
    """The bundle of the network as it came."""
    bundle = work / f"{setting.network}.bundle"
    with (work / f"{setting.network}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not bundle.exists():
            edgespa("export", *NETWORKS[setting.network].model(data), "--format", "onnx", "--output", str(bundle))
    return bundle


def _latency(bundle: Path, unpruned: Path) -> Row:
    """p50 of one inference, one thread, and its ratio to the unpruned network's, measured in turn."""
    settings = ("--threads", "1", "--rounds", "5", "--seconds", "1", "--no-save")
    profile = edgespa("profile", str(bundle), "--against", str(unpruned), *settings)
    own = next(each for each in profile["results"] if each["bundle"] == bundle.name)
    ratio = profile["ratios"][0]
    return {
        "p50_ms": own["p50_ms"],
        "latency_ratio": ratio["ratio"],
        "latency_ratio_range": [ratio["low"], ratio["high"]],
        "load": os.getloadavg()[0],
    }


def measure_latencies(data: Path, work: Path, results: Path, latencies: Path, *, quiet: bool = True) -> None:
    """Measure the latency of every row that has none yet, apart from trainings, which would lengthen it.

    Args:
        data: The folder of networks.
        work: The bundles.
        results: The rows.
        latencies: Gets one for each of them.
        quiet: Stop where other work keeps the machine busy.
    """
    for row in read_rows(results):
        setting = Setting.of(row)
        bundle = work / f"{setting.label}.bundle"
        if find(read_rows(latencies), setting) is None and bundle.exists():
            latency = {**setting.key, **_latency(bundle, _unpruned(setting, data, work))}
            if quiet and latency["load"] > BUSY:
                raise SystemExit(f"the machine is busy (load {latency['load']:.1f}): measure latencies when it is not")
            with latencies.open("a") as file:
                file.write(json.dumps(latency) + "\n")
            print(json.dumps(latency), flush=True)


def machine() -> Row:
    """Where a row was made."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "torch": version("torch"),
        "peak_kib": peak,
    }
