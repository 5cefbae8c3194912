"""The recorded inputs through a file, and its outputs judged by the manifest's bounds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError, altered
from edgespa.device.runner.models import infer, open_model
from edgespa.device.runner.runtimes import import_runtime
from edgespa.device.runner.weights import task_files, wrong_base


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


def noise(number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform noise of mean 0 and deviation 1, the same on every machine: SHAKE-256 of a counter, a byte an element."""
    size = int(np.prod(shape))
    content = hashlib.shake_256(b"edgespa noise %d" % number).digest(size)
    values = np.frombuffer(content, np.uint8).astype(np.float32) - np.float32(127.5)
    return (values / np.float32(73.9)).reshape(shape)


def read_samples(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The recorded inputs and the program's outputs of selfcheck.npz.

    In place of ``input_0`` there may be ``noise_0``, the sizes of what `noise` gives.
    """
    try:
        with np.load(folder / "selfcheck.npz", allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:
        raise RunnerError(f"cannot read selfcheck.npz: {error}") from error
    for key in [key for key in arrays if key.startswith("noise_")]:
        number = key[len("noise_") :]
        arrays[f"input_{number}"] = noise(int(number), tuple(int(size) for size in arrays.pop(key)))
    sides = []
    for side in ("input", "output"):
        count = sum(key.startswith(side + "_") for key in arrays)
        if not count or any(f"{side}_{i}" not in arrays for i in range(count)):
            raise RunnerError(f"selfcheck.npz has no {side}_0.. in a row; it has: {', '.join(arrays)}")
        sides.append([arrays[f"{side}_{i}"] for i in range(count)])
    return sides[0], sides[1]


def selfcheck(folder: Path, manifest: dict[str, Any], variant: dict[str, Any], threads: int) -> dict[str, Any]:
    """Run the recorded inputs through a variant and judge its outputs by the manifest's bounds."""
    result: dict[str, Any] = {"name": variant["name"], "status": "not run", "runtime": None, "failures": []}
    if all(entry["path"] != "selfcheck.npz" for entry in manifest["files"]):
        return {**result, "failures": ["the bundle has no selfcheck.npz"]}
    damaged = altered(folder, manifest, [*task_files(variant), "selfcheck.npz"]) + wrong_base(folder, variant)
    if damaged:
        return {**result, "status": "failed", "failures": damaged}
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
