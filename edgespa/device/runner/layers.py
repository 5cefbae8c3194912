"""Times of layers: of many small files, each of one layer; and of the operators of one file."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.bundle.limits import shapes_problem
from edgespa.device.runner.bundle import RunnerError, inside
from edgespa.device.runner.in_onnxruntime import open_session
from edgespa.device.runner.in_openvino import OpenVinoModel
from edgespa.device.runner.in_trtexec import TrtexecModel
from edgespa.device.runner.runtimes import import_runtime

INDEX = "layers.json"
MAX_INDEX_BYTES, MAX_LAYERS = 1 << 20, 2000
WARM, LEAST_ROUNDS, MOST_ROUNDS = 3, 12, 60
AT_ONCE, AT_ONCE_BYTES = 48, 48 << 20
MOST_OPERATORS, MOST_NAME = 300, 80
# What stands between a runtime's own layout or arithmetic and that of a file with one layer: in a network it is not
# there.
_EDGES = ("ReorderInput", "ReorderOutput", "QuantizeLinear", "DequantizeLinear", "Transpose")
_FREE = ("Unsqueeze", "Squeeze")  # of what has a rank of its own in a file of one layer
_BESIDE = "beside_"  # what makes the other half of a sum, or reads the sum
_TYPES = {
    "float": "float32",
    "float16": "float16",
    "int8": "int8",
    "uint8": "uint8",
    "int64": "int64",
    "int32": "int32",
}


def low_quartile(values: list[float]) -> float:
    """The time that a quarter of the runs stays below: what else runs on the machine can only add to a time."""
    return sorted(values)[(len(values) - 1) // 4]


class _OnnxLayer:
    """A file in ONNX Runtime: its operators by the runtime's own profile, or all of it by the clock."""

    def __init__(self, runtime: Any, path: Path, threads: int, prefix: str | None) -> None:
        def profiled(options: Any) -> None:
            if prefix is not None:
                options.enable_profiling = True
                options.profile_file_prefix = prefix

        self.session = open_session(runtime, str(path), threads, ["CPUExecutionProvider"], profiled)
        self.told = prefix is not None
        sizes = [
            (each.name, [size if isinstance(size, int) else 1 for size in each.shape], each.type)
            for each in self.session.get_inputs()
        ]
        _require_small(path, [shape for _, shape, _ in sizes])
        self.source = [_noise(shape, _TYPES.get(kind[7:-1], "float32")) for _, shape, kind in sizes]
        self.feed = {name: array.copy() for (name, _, _), array in zip(sizes, self.source)}

    def run(self) -> float:
        """One run in microseconds; what goes in was written just before, as by the layer in front of it."""
        for own, source in zip(self.feed.values(), self.source):
            own[...] = source
        start = time.perf_counter_ns()
        self.session.run(None, self.feed)
        return (time.perf_counter_ns() - start) / 1e3

    def rows(self, runs: int) -> list[dict[str, Any]]:
        """The operators as they ran, with the microseconds of each run; none where it was not asked to tell them."""
        if not self.told:
            return []
        path = self.session.end_profiling()
        try:
            with open(path, encoding="utf-8") as stream:
                events = json.load(stream)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)
        found: dict[str, dict[str, Any]] = {}
        for event in events:
            name = str(event.get("name", ""))
            if event.get("cat") == "Node" and name.endswith("_kernel_time"):
                row = found.setdefault(name[: -len("_kernel_time")], {"op": event["args"]["op_name"], "us": []})
                row["us"].append(float(event["dur"]) + 0.5)  # cut to whole microseconds there
        return [
            {"name": name, "op": str(row["op"]), "us": row["us"][-runs:]}
            for name, row in found.items()
            if len(row["us"]) >= runs
        ]


class _TfliteLayer:
    """A file in LiteRT, by the clock: the interpreter of Python does not tell what its operators take."""

    def __init__(self, runtime: Any, path: Path, threads: int) -> None:
        self.interpreter = runtime.Interpreter(model_path=str(path), num_threads=threads)
        self.interpreter.allocate_tensors()
        details = self.interpreter.get_input_details()
        _require_small(path, [[int(size) for size in each["shape"]] for each in details])
        self.feed = [(each["index"], _noise(list(each["shape"]), np.dtype(each["dtype"]).name)) for each in details]

    def run(self) -> float:
        """One run in microseconds, without what puts its input in place."""
        for index, array in self.feed:
            self.interpreter.set_tensor(index, array)
        start = time.perf_counter_ns()
        self.interpreter.invoke()
        return (time.perf_counter_ns() - start) / 1e3

    def rows(self, runs: int) -> list[dict[str, Any]]:
        """Nothing is known of its operators."""
        return []


def _noise(shape: list[int], kind: str) -> np.ndarray:
    count = int(np.prod(shape))
    numbers = np.resize(np.random.default_rng(0).standard_normal(4096, dtype="float32"), count).reshape(shape)
    return (numbers if kind.startswith("float") else numbers * 30).astype(kind)


def _require_small(path: Path, shapes: list[list[int]]) -> None:
    large = shapes_problem("inputs", shapes)
    if large:
        raise RunnerError(f"{path.name}: {large}")


def read_index(folder: Path) -> dict[str, Any]:
    """What is to be measured: ``{"format": ..., "files": [[name, how], ...], "whole": [...]}``, see `_inner`."""
    path = inside(folder, INDEX)
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise RunnerError(f"{INDEX} is too large")
    index = json.loads(path.read_text(encoding="utf-8"))
    files = [*index["files"], *index["whole"]]
    if index["format"] not in ("onnx", "tflite") or len(files) > MAX_LAYERS or any(len(each) != 2 for each in files):
        raise RunnerError(f"{INDEX} is not as edgespa writes it")
    return dict(index)


def bench_layers(folder: Path, threads: int, seconds: float | None) -> dict[str, Any]:
    """Measure the files of a folder in this process, some dozens in turn, round for round.

    In turn, because a file that runs by itself again and again finds its weights in the nearest cache, and a network
    does not; and because a machine drifts. What counts is the lower quartile of a file's runs.

    Args:
        folder: With `INDEX`.
        threads: Of the runtime.
        seconds: For some dozens, besides `LEAST_ROUNDS` rounds; None for as long as `MOST_ROUNDS` take.
    """
    index = read_index(folder)
    runtime, name = import_runtime(index["format"])
    rows = []
    for files in _in_turn(folder, index["files"]):
        rows += [
            {"file": name, **own} for (name, _), own in zip(files, _measured(folder, files, runtime, threads, seconds))
        ]
    # The clock of a whole file, and what its operators say: between the two lies what it costs to start them.
    clocks = _measured(folder, index["whole"], runtime, threads, seconds, told=False)
    told = _measured(folder, index["whole"], runtime, threads, seconds)
    whole = [
        {"file": each[0], "clock_us": clock["us"], "us": own["us"], "nodes": own["nodes"]}
        for each, clock, own in zip(index["whole"], clocks, told)
    ]
    how = {"runtime": name, "python": platform.python_version(), "machine": platform.machine(), "threads": threads}
    return {"layers": rows, "whole": whole, **how}


def _in_turn(folder: Path, files: list[list[str]]) -> list[list[list[str]]]:
    """Files that are open at a time: so many that none finds its weights in a near cache, and memory holds them."""
    groups: list[list[list[str]]] = [[]]
    total = 0
    for each in files:
        size = inside(folder, each[0]).stat().st_size
        if groups[-1] and (len(groups[-1]) == AT_ONCE or total + size > AT_ONCE_BYTES):
            groups.append([])
            total = 0
        groups[-1].append(each)
        total += size
    return groups


def _measured(
    folder: Path, files: list[list[str]], runtime: Any, threads: int, seconds: float | None, told: bool = True
) -> list[dict[str, Any]]:
    """Microseconds of each file, and how many operators they are of, where the runtime tells them."""
    with tempfile.TemporaryDirectory(prefix="edgespa-") as place:
        layers: list[Any] = []
        for i, (name, _) in enumerate(files):
            path = inside(folder, name)
            if path.suffix == ".onnx":
                layers.append(_OnnxLayer(runtime, path, threads, os.path.join(place, str(i)) if told else None))
            else:
                layers.append(_TfliteLayer(runtime, path, threads))
        times: list[list[float]] = [[] for _ in layers]
        end = None if seconds is None else time.perf_counter() + seconds
        rounds = 0
        while rounds < WARM + MOST_ROUNDS:
            if rounds >= WARM + LEAST_ROUNDS and end is not None and time.perf_counter() > end:
                break
            for layer, own in zip(layers, times):
                own.append(layer.run())
            rounds += 1
        found = []
        for (_, how), layer, own in zip(files, layers, times):
            rows = layer.rows(rounds - WARM)
            inner = _inner(rows, how)
            values = [sum(each) for each in zip(*(row["us"] for row in inner))] if rows else own[WARM:]
            found.append({"us": low_quartile(values) if values else 0.0, "nodes": len(inner) if rows else None})
        return found


def _inner(rows: list[dict[str, Any]], how: str) -> list[dict[str, Any]]:
    """The operators of a layer, without those that only a file with nothing but one layer has.

    ``all``: every one. ``inside``: without conversions of layout and arithmetic at both ends, and without what is
    marked. ``behind``: without those in front, up to what is marked: it reads the layer.
    """
    if how == "all":
        return [row for row in rows if row["op"] not in _FREE]
    marked = [i for i, row in enumerate(rows) if row["name"].startswith(_BESIDE)]
    if how == "behind":
        rows = rows[: marked[0]] if marked else rows
    else:
        rows = [row for row in rows if not row["name"].startswith(_BESIDE)]
        while rows and rows[-1]["op"] in _EDGES:
            rows = rows[:-1]
    while rows and rows[0]["op"] in _EDGES:
        rows = rows[1:]
    return rows


def operator_times(path: Path, variant: dict[str, Any], runtime: Any, threads: int) -> list[dict[str, Any]] | None:
    """What each operator of a file takes, in the order in which they run; None where the runtime does not tell.

    Of more than `MOST_OPERATORS` those that take least are one row.

    Args:
        path: The file.
        variant: Of the manifest.
        runtime: Its module.
        threads: Of the runtime.
    """
    if (
        variant["format"] != "onnx"
        or variant.get("weights")
        or not str(variant.get("provider") or "CPU").startswith("CPU")
    ):
        return None
    if runtime.__name__ == "openvino":
        rows = _openvino_rows(runtime, path, variant, threads)
    elif runtime.__name__ == "trtexec":
        told = TrtexecModel(runtime, path, variant, threads).layers()
        rows = [{"name": name, "op": "TensorRT", "us": [1e3 * each]} for name, each in told]
    else:
        with tempfile.TemporaryDirectory(prefix="edgespa-") as place:
            layer = _OnnxLayer(runtime, path, threads, os.path.join(place, "file"))
            for _ in range(WARM + MOST_ROUNDS):
                layer.run()
            rows = layer.rows(MOST_ROUNDS)
    found = [{"name": row["name"][:MOST_NAME], "op": row["op"], "us": low_quartile(row["us"])} for row in rows]
    least = sorted(row["us"] for row in found)[-MOST_OPERATORS] if len(found) > MOST_OPERATORS else 0.0
    rest = [row for row in found if row["us"] < least]
    found = [row for row in found if row["us"] >= least]
    if rest:
        found.append({"name": f"{len(rest)} others", "op": "others", "us": sum(row["us"] for row in rest)})
    return found


def _openvino_rows(runtime: Any, path: Path, variant: dict[str, Any], threads: int) -> list[dict[str, Any]]:
    """The operators that OpenVINO ran, by its own counters."""
    model = OpenVinoModel(runtime, path, variant, threads, told=True)
    feed = {}
    for spec in variant["inputs"]:
        shape = [size if isinstance(size, int) else 1 for size in spec["shape"]]
        _require_small(path, [shape])
        feed[spec["name"]] = _noise(shape, spec["dtype"])
    found: dict[str, dict[str, Any]] = {}
    for at in range(WARM + MOST_ROUNDS):
        model.run(feed)
        for each in model.request.profiling_info:
            if at >= WARM and each.status == each.Status.EXECUTED:
                row = found.setdefault(each.node_name, {"name": each.node_name, "op": each.node_type, "us": []})
                row["us"].append(each.real_time.total_seconds() * 1e6)
    return list(found.values())
