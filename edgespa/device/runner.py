"""Runs the models of this bundle: checks them, measures them, classifies an image.

edgespa copies this file into every bundle as ``run.py``. It stands alone: Python 3.8 or newer, numpy, and one of
onnxruntime, ai_edge_litert or tflite_runtime; Pillow only for ``--input``. It reads manifest.json beside itself.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable  # for annotations only: Python 3.8 cannot subscript it
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
RUNTIMES = {
    "onnx": (("onnxruntime", "onnxruntime"),),
    "tflite": (("ai_edge_litert", "ai_edge_litert.interpreter"), ("tflite_runtime", "tflite_runtime.interpreter")),
}
MIN_WARMUP = 10
# MLPerf's early-stopping rule: fewer runs say nothing about so high a percentile.
MIN_RUNS_P95, MIN_RUNS_P99 = 130, 662
CHUNK = 8  # samples at a time where the batch is free: small boards have little memory


class RunnerError(Exception):
    """Something that the user can put right."""


# ---------------------------------------------------------------- the bundle


def read_bundle(folder: Path) -> dict[str, Any]:
    """The manifest as plain values."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunnerError(f"cannot read {folder / 'manifest.json'}: {error}") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != 1:
        raise RunnerError(f"manifest.json has schema version {version}; this run.py reads version 1")
    if not isinstance(manifest.get("variants"), list) or not manifest["variants"]:
        raise RunnerError("manifest.json lists no variants")
    return dict(manifest)


def import_runtime(kind: str) -> tuple[Any, str]:
    """The runtime of a format ("onnx" or "tflite") and its name with version.

    Imported for real: a package that is there may still not load, for example with another numpy.
    """
    reasons = []
    for package, module in RUNTIMES[kind]:
        try:
            runtime = importlib.import_module(module)
        except Exception as error:
            reasons.append(f"{package}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            continue
        version = getattr(importlib.import_module(package), "__version__", None)
        if version is None:
            from importlib import metadata

            try:
                version = metadata.version(package.replace("_", "-"))
            except metadata.PackageNotFoundError:
                version = "of unknown version"
        return runtime, f"{package} {version}"
    raise RunnerError(f"no runtime for {kind} files ({'; '.join(reasons)})")


def list_variants(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Every variant: its name, file and whether its runtime can be imported here."""
    found: dict[str, tuple[str | None, str | None]] = {}
    rows = []
    for variant in manifest["variants"]:
        kind = variant["format"]
        if kind not in found:
            try:
                found[kind] = (import_runtime(kind)[1], None)
            except RunnerError as error:
                found[kind] = (None, str(error))
        runtime, reason = found[kind]
        row = {key: variant[key] for key in ("name", "file", "format", "precision", "size_bytes")}
        rows.append({**row, "runtime": runtime, "reason": reason})
    return rows


def choose(manifest: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The variant of that name, or the first whose runtime is installed."""
    if name is None:
        name = next((row["name"] for row in list_variants(manifest) if row["runtime"]), None)
        if name is None:
            raise RunnerError("no runtime is installed: pip install onnxruntime, or pip install ai-edge-litert")
    for variant in manifest["variants"]:
        if variant["name"] == name:
            return dict(variant)
    names = ", ".join(variant["name"] for variant in manifest["variants"])
    raise RunnerError(f"there is no variant '{name}'; there are: {names}")


# ---------------------------------------------------------------- the models


def to_file_layout(array: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    """From the program's layout (NCHW) to that of the file."""
    if spec.get("layout") == "NHWC":
        array = np.transpose(array, (0, 2, 3, 1))
    return np.ascontiguousarray(array)


def to_program_layout(array: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    """From the layout of the file to the program's (NCHW)."""
    if spec.get("layout") == "NHWC":
        array = np.transpose(array, (0, 3, 1, 2))
    return np.ascontiguousarray(array)


class OnnxModel:
    """A model file in ONNX Runtime, on the CPU."""

    def __init__(self, runtime: Any, path: Path, variant: dict[str, Any], threads: int) -> None:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs, self.outputs = variant["inputs"], variant["outputs"]
        self.names = [spec["name"] for spec in self.outputs]

    def provider(self) -> str:
        """What computes: the first provider of the session."""
        return str(self.session.get_providers()[0])

    def feed(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The session's feed for arrays in the program's layout."""
        feed = {}
        for i, spec in enumerate(self.inputs):
            array = arrays[i]
            if spec["dtype"] in ("int8", "uint8") and array.dtype.kind == "f":
                raise RunnerError(f"input {spec['name']} is quantised, but an ONNX file does not say by what scale")
            feed[spec["name"]] = to_file_layout(array, spec).astype(spec["dtype"], copy=False)
        return feed

    def run(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """One inference; outputs as the file gives them."""
        return list(self.session.run(self.names, feed))

    def results(self, raw: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs in the program's layout."""
        return [to_program_layout(array, self.outputs[i]) for i, array in enumerate(raw)]


class TfliteModel:
    """A model file in LiteRT (TensorFlow Lite); its batch size is fixed."""

    def __init__(self, runtime: Any, path: Path, variant: dict[str, Any], threads: int) -> None:
        self.interpreter = runtime.Interpreter(model_path=str(path), num_threads=threads)
        self.interpreter.allocate_tensors()
        self.inputs, self.outputs = variant["inputs"], variant["outputs"]
        self.input_details = self._find("input", self.inputs)
        self.output_details = self._find("output", self.outputs)

    def _find(self, kind: str, specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The runtime's tensors in the manifest's order, by tensor name, signature name, or as the only one."""
        details = getattr(self.interpreter, f"get_{kind}_details")()
        names = [spec["name"] for spec in specs]
        tables = [{detail["name"]: detail for detail in details}]
        for key in self.interpreter.get_signature_list():
            tables.append(getattr(self.interpreter.get_signature_runner(key), f"get_{kind}_details")())
        for table in tables:
            if all(name in table for name in names):
                return [table[name] for name in names]
        if len(details) == len(names) == 1:
            return list(details)
        raise RunnerError(f"the file's {kind}s are {', '.join(sorted(tables[0]))}; the manifest says {names}")

    def provider(self) -> str:
        """What computes: XNNPACK where LiteRT handed the graph to it."""
        operators: list[dict[str, Any]] = getattr(self.interpreter, "_get_ops_details", list)()
        return "CPU (XNNPACK)" if any(each.get("op_name") == "DELEGATE" for each in operators) else "CPU"

    def feed(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Tensors for arrays in the program's layout, quantised where the file's inputs are."""
        feed = []
        for i, detail in enumerate(self.input_details):
            array = to_file_layout(arrays[i], self.inputs[i])
            scale, zero = detail["quantization"]
            if scale and array.dtype.kind == "f":
                limits = np.iinfo(detail["dtype"])
                array = np.clip(np.round(array / np.float32(scale)) + zero, limits.min, limits.max)
            feed.append(array.astype(detail["dtype"], copy=False))
        return feed

    def run(self, feed: list[np.ndarray]) -> list[np.ndarray]:
        """One inference; outputs as the file gives them."""
        for i, detail in enumerate(self.input_details):
            self.interpreter.set_tensor(detail["index"], feed[i])
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(detail["index"]) for detail in self.output_details]

    def results(self, raw: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs in the program's layout, dequantised where the file's outputs are quantised."""
        arrays = []
        for i, detail in enumerate(self.output_details):
            scale, zero = detail["quantization"]
            array = (raw[i].astype(np.float32) - zero) * np.float32(scale) if scale else raw[i]
            arrays.append(to_program_layout(array, self.outputs[i]))
        return arrays


def open_model(folder: Path, variant: dict[str, Any], threads: int, runtime: Any) -> Any:
    """Load a variant's file in its runtime."""
    model = OnnxModel if variant["format"] == "onnx" else TfliteModel
    try:
        return model(runtime, folder / variant["file"], variant, threads)
    except RunnerError:
        raise
    except Exception as error:
        raise RunnerError(f"{variant['name']}: cannot load {variant['file']}: {error}") from error


def infer(model: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs for any number of samples, in pieces of the file's batch size.

    Args:
        model: An opened model.
        arrays: One per input, in the program's layout; all with the same first size, the samples.
    """
    batch = model.inputs[0]["shape"][0]
    size = batch if isinstance(batch, int) else CHUNK
    count = len(arrays[0])
    pieces = []
    for start in range(0, count, size):
        part = [array[start : start + size] for array in arrays]
        missing = size - len(part[0]) if isinstance(batch, int) else 0
        if missing:  # a fixed batch must be full: repeat the last sample, drop its results
            part = [np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for array in part]
        results = model.results(model.run(model.feed(part)))
        pieces.append([result[: len(result) - missing] for result in results])
    return [np.concatenate([piece[i] for piece in pieces]) for i in range(len(pieces[0]))]


# ---------------------------------------------------------------- self-check


def compare(outputs: list[np.ndarray], references: list[np.ndarray]) -> dict[str, Any]:
    """How far outputs a are from references b; the worst over all outputs.

    ``max_abs_error`` = max|a - b|; ``relative_error`` = max|a - b| / max|b| (max|a - b| where b is all zero);
    ``cosine`` of the flattened outputs (1 where both are all zero, 0 where one is); ``top1_agreement`` = fraction of
    samples with the same argmax in the first output, None unless that is [N, K] with K > 1. In float64. ``finite``
    tells whether all outputs are; where not, the figures are None.
    """
    keys = ("max_abs_error", "relative_error", "cosine", "top1_agreement")
    if not all(np.isfinite(a).all() for a in outputs):
        return {**dict.fromkeys(keys), "finite": False}
    worst = {"max_abs_error": 0.0, "relative_error": 0.0, "cosine": 1.0}
    for i, reference in enumerate(references):
        if outputs[i].shape != reference.shape:
            raise RunnerError(f"output {i} has shape {outputs[i].shape}, expected {reference.shape}")
        a, b = outputs[i].astype(np.float64).ravel(), reference.astype(np.float64).ravel()
        error = float(np.abs(a - b).max(initial=0.0))
        top = float(np.abs(b).max(initial=0.0))
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        cosine = float(a @ b) / norms if norms else float(not a.any() and not b.any())
        worst["max_abs_error"] = max(worst["max_abs_error"], error)
        worst["relative_error"] = max(worst["relative_error"], error / top if top else error)
        worst["cosine"] = min(worst["cosine"], cosine, 1.0)
    first, agreement = references[0], None
    if first.ndim == 2 and first.shape[1] > 1 and len(first):
        agreement = float((outputs[0].argmax(1) == first.argmax(1)).mean())
    return {**worst, "top1_agreement": agreement, "finite": True}


def exceeded(metrics: dict[str, Any], bound: dict[str, float]) -> list[str]:
    """One phrase per bound that the metrics do not keep."""
    if not metrics["finite"]:
        return ["the outputs are not finite"]
    failures = []
    for metric, limit in bound.items():
        value = metrics.get(metric)
        if value is None:
            failures.append(f"{metric} is bounded but cannot be measured")
        elif metric in ("max_abs_error", "relative_error") and value > limit:
            failures.append(f"{metric} {value:.3g} is above {limit:.3g}")
        elif metric in ("cosine", "top1_agreement") and value < limit:
            failures.append(f"{metric} {value:.6g} is below {limit:.6g}")
    return failures


def read_samples(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The recorded inputs and the program's outputs of selfcheck.npz."""
    try:
        with np.load(folder / "selfcheck.npz", allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:
        raise RunnerError(f"cannot read selfcheck.npz: {error}") from error
    sides = []
    for side in ("input", "output"):
        count = sum(key.startswith(side + "_") for key in arrays)
        if not count or any(f"{side}_{i}" not in arrays for i in range(count)):
            raise RunnerError(f"selfcheck.npz has no {side}_0.. in a row; it has: {', '.join(arrays)}")
        sides.append([arrays[f"{side}_{i}"] for i in range(count)])
    return sides[0], sides[1]


def selfcheck(folder: Path, variant: dict[str, Any], threads: int) -> dict[str, Any]:
    """Run the recorded inputs through a variant and judge its outputs by the manifest's bounds."""
    result: dict[str, Any] = {"name": variant["name"], "status": "not run", "runtime": None, "failures": []}
    if not (folder / "selfcheck.npz").exists():
        return {**result, "failures": ["the bundle has no selfcheck.npz"]}
    try:
        runtime, result["runtime"] = import_runtime(variant["format"])
    except RunnerError as error:
        return {**result, "failures": [str(error)]}
    try:
        inputs, references = read_samples(folder)
        metrics = compare(infer(open_model(folder, variant, threads, runtime), inputs), references)
    except Exception as error:
        return {**result, "status": "failed", "failures": [str(error) or type(error).__name__]}
    bound = variant["parity"]["bound"]
    failures = exceeded(metrics, bound)
    status = "failed" if failures else "passed"
    return {**result, **metrics, "count": len(inputs[0]), "bound": bound, "status": status, "failures": failures}


# ---------------------------------------------------------------- benchmark


def peak_kib() -> int | None:
    """Peak memory of this process so far in KiB: VmHWM on Linux, ru_maxrss elsewhere, None where neither is."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def summarise(times_ms: list[float]) -> dict[str, float | None]:
    """Statistics of latencies: the median, and higher percentiles by nearest rank where there are runs enough."""
    ordered = sorted(times_ms)

    def rank(fraction: float) -> float:
        return ordered[math.ceil(fraction * len(ordered)) - 1]

    return {
        "mean_ms": statistics.mean(ordered),
        "min_ms": ordered[0],
        "p50_ms": statistics.median(ordered),
        "p90_ms": rank(0.9),
        "p95_ms": rank(0.95) if len(ordered) >= MIN_RUNS_P95 else None,
        "p99_ms": rank(0.99) if len(ordered) >= MIN_RUNS_P99 else None,
    }


def bench(
    folder: Path, variant: dict[str, Any], program_inputs: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """Measure one variant in this process: load, first run, warm-up, latency of batch 1, peak memory.

    A run is one inference with its input in place and its output read; pre- and postprocessing are not in it. Inputs
    are seeded noise: to load recorded ones would count as the model's memory.
    """

    def timed(function: Callable[[], Any]) -> tuple[Any, float]:
        start = time.perf_counter_ns()
        value = function()
        return value, (time.perf_counter_ns() - start) / 1e6

    (runtime, runtime_name), import_ms = timed(lambda: import_runtime(variant["format"]))
    peak_import = peak_kib()
    model, load_ms = timed(lambda: open_model(folder, variant, options.threads, runtime))
    peak_load = peak_kib()
    random, arrays = np.random.default_rng(0), []
    for i, spec in enumerate(program_inputs):
        batch = variant["inputs"][i]["shape"][0]
        shape = [batch if isinstance(batch, int) else 1, *spec["shape"][1:]]
        noise = spec["dtype"].startswith("float")
        arrays.append(random.standard_normal(shape, dtype="float32") if noise else np.zeros(shape, spec["dtype"]))
    feed = model.feed(arrays)
    _, first_run_ms = timed(lambda: model.run(feed))
    for _ in range(options.warmup):
        model.run(feed)
    runs = options.runs or (200 if options.seconds is None else sys.maxsize)
    end = math.inf if options.seconds is None else time.perf_counter_ns() + options.seconds * 1e9
    times: list[float] = []
    while len(times) < runs and (time.perf_counter_ns() < end or len(times) < MIN_WARMUP):
        times.append(timed(lambda: model.run(feed))[1])
    peak_run = peak_kib()
    path = folder / variant["file"]
    return {
        "variant": variant["name"],
        "file": variant["file"],
        "size_bytes": path.stat().st_size,
        "sha256": sha256(path),
        "runtime": runtime_name,
        "provider": model.provider(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": options.threads,
        "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "batch": len(arrays[0]),
        "import_ms": import_ms,
        "load_ms": load_ms,
        "first_run_ms": first_run_ms,
        "warmup_runs": options.warmup,
        "runs": len(times),
        **summarise(times),
        "peak_import_kib": peak_import,
        "peak_load_kib": peak_load,
        "peak_run_kib": peak_run,
    }


# ---------------------------------------------------------------- one image


def preprocess(path: Path, how: dict[str, Any]) -> np.ndarray:
    """An image file as a float32 array [1, C, H, W]: channels, size, scale to [0, 1], normalise.

    Step by step what the training and calibration data went through (`edgespa.data.fit_image`): any other order
    gives other pixels.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise RunnerError("--input needs Pillow: pip install pillow") from error
    wanted = {1: "L", 3: "RGB", 4: "RGBA"}.get(how["channels"])
    if wanted is None:
        raise RunnerError(f"an image has no {how['channels']} channels")
    try:
        with Image.open(path) as opened:
            mode = opened.mode
            if mode.startswith("I") or mode == "F":
                raise RunnerError(f"{path} has more than 8 bits per channel: convert it to 8 bits first")
            if mode not in ("L", "RGB", "RGBA"):
                transparent = mode in ("LA", "La", "PA", "RGBa") or "transparency" in opened.info
                mode = "L" if mode == "1" else "RGBA" if transparent else "RGB"
            image = opened.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RunnerError(f"cannot read the image {path}: {error}") from error
    image = image.convert(wanted).resize((how["width"], how["height"]), getattr(Image, "Resampling", Image).BILINEAR)
    pixels = np.asarray(image, dtype=np.float32).reshape(how["height"], how["width"], how["channels"]) / np.float32(255)
    pixels = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)


def classify(
    folder: Path, manifest: dict[str, Any], variant: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """The likeliest classes of an image, by softmax of the first output."""
    if manifest.get("preprocessing") is None:
        raise RunnerError("this model's input is not an image: the manifest has no preprocessing")
    image = preprocess(options.input, manifest["preprocessing"])
    model = open_model(folder, variant, options.threads, import_runtime(variant["format"])[0])
    logits = infer(model, [image])[0].astype(np.float64)[0].ravel()
    odds = np.exp(logits - logits.max())
    labels: list[str] = []
    if (folder / "labels.txt").exists():
        labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    top = []
    for index in np.argsort(-odds, kind="stable")[: options.top]:
        label = labels[index] if index < len(labels) else str(index)
        top.append({"index": int(index), "label": label, "probability": float(odds[index] / odds.sum())})
    return {"variant": variant["name"], "image": str(options.input), "top": top}


# ---------------------------------------------------------------- command line


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _seconds(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise ValueError
    return float(text)


def _warmup(text: str) -> int:
    if int(text) < MIN_WARMUP:
        raise argparse.ArgumentTypeError(f"at least {MIN_WARMUP}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(prog="run.py", description="Run the models of this bundle.")
    what = command.add_mutually_exclusive_group()
    what.add_argument("--selfcheck", action="store_true", help="compare with the recorded outputs; exit 1 if too far")
    what.add_argument("--bench", action="store_true", help="measure latency and memory, batch 1")
    what.add_argument("--input", type=Path, metavar="IMAGE", help="classify an image")
    command.add_argument("--variant", metavar="NAME", help="default: the first that can run; 'all' with --selfcheck")
    command.add_argument("--threads", type=_positive, default=1, metavar="N", help="default 1")
    command.add_argument("--runs", type=_positive, metavar="N", help="at most N runs; default 200 without --seconds")
    command.add_argument("--seconds", type=_seconds, metavar="S", help="stop after S seconds (and at least 10 runs)")
    command.add_argument("--warmup", type=_warmup, default=MIN_WARMUP, metavar="N", help="default and least 10")
    command.add_argument("--top", type=_positive, default=5, metavar="K", help="classes to show; default 5")
    command.add_argument("--json", action="store_true", help="one line of JSON")
    return command


def describe(result: Any) -> str:
    """A result for people: a line per entry, nested ones indented."""
    if isinstance(result, list):
        return "\n".join("  " + "  ".join(_cell(key, value) for key, value in row.items()) for row in result)
    lines = []
    for key, value in result.items():
        nested = isinstance(value, list) and value and isinstance(value[0], dict)
        lines.append(f"{key}:\n{describe(value)}" if nested else _cell(key, value))
    return "\n".join(lines)


def _cell(key: str, value: Any) -> str:
    return f"{key}: {value:.6g}" if isinstance(value, float) else f"{key}: {value}"


def execute(folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Do what the options ask; the result and the exit status."""
    manifest = read_bundle(folder)
    if options.selfcheck:
        every = options.variant == "all"
        variants = manifest["variants"] if every else [choose(manifest, options.variant)]
        checks = [selfcheck(folder, variant, options.threads) for variant in variants]
        good = any(check["status"] == "passed" for check in checks)
        return {"selfcheck": checks}, int(not good or any(check["status"] == "failed" for check in checks))
    if not options.bench and options.input is None:
        return {"variants": list_variants(manifest)}, 0
    variant = choose(manifest, options.variant)
    if options.bench:
        return bench(folder, variant, manifest["inputs"], options), 0
    return classify(folder, manifest, variant, options), 0


def main(arguments: list[str] | None = None, folder: Path = FOLDER) -> int:
    """Entry point; the exit status is 0, 1 (could not, or a bound is exceeded) or 2 (usage)."""
    command = parser()
    options = command.parse_args(arguments)
    try:
        result, status = execute(folder, options)
    except RunnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(result, allow_nan=False))
        return status
    if "variants" in result:
        command.print_usage()
    print(describe(result))
    return status


if __name__ == "__main__":
    sys.exit(main())
