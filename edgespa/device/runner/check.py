"""The recorded inputs through a file, and its outputs judged by the manifest's bounds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.arrays import Allowed, read_recorded
from edgespa.device.runner.bundle import RunnerError, altered, inside
from edgespa.device.runner.compare import SINGLE, compare, exceeded
from edgespa.device.runner.models import infer, open_model
from edgespa.device.runner.places import thinned
from edgespa.device.runner.runtimes import import_runtime
from edgespa.device.runner.weights import beyond, task_files, wrong_base
from edgespa.pixels.values import normalised


def noise(number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform noise of mean 0 and deviation 1, the same on every machine: SHAKE-256 of a counter, a byte an element."""
    made = noise_pixels(number, shape).astype(np.float32)
    made -= np.float32(127.5)  # in place, as below: it may be large
    made /= np.float32(73.9)
    return made


def noise_pixels(number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniformly random pixels, 0 to 255, of which `noise` is made."""
    content = hashlib.shake_256(b"edgespa noise %d" % number).digest(int(np.prod(shape)))
    return np.frombuffer(content, np.uint8).reshape(shape)


class Recorded:
    """What ``selfcheck.npz`` holds.

    Of each input there is one of: ``input_0``, the array itself; ``pixels_0``, of which it is made; ``noise_0`` and
    ``noise_pixels_0``, the sizes of noise that every machine makes anew.

    Attributes:
        inputs: In the program's layout, the samples first.
        outputs: What the program makes of them; of large ones every n-th position, see `thinned`.
        every: By the index of such an output.
        scales: What differences are judged by, see `scales_of`; None in bundles of older versions.
    """

    def __init__(self, arrays: dict[str, np.ndarray], preprocessing: dict[str, Any] | None) -> None:
        made = dict(arrays)
        for key, array in arrays.items():
            kind, _, number = key.rpartition("_")
            if kind in ("noise", "noise_pixels"):
                shape = tuple(int(size) for size in array)
                array = noise(int(number), shape) if kind == "noise" else noise_pixels(int(number), shape)
            if kind in ("pixels", "noise_pixels"):
                if preprocessing is None:
                    raise RunnerError(
                        "selfcheck.npz holds pixels, and the manifest does not say how they are normalised"
                    )
                array = normalised(array, preprocessing)
            if kind in ("noise", "pixels", "noise_pixels"):
                made[f"input_{number}"] = array
        self.inputs, self.outputs = (_in_a_row(made, side) for side in ("input", "output"))
        self.every = {
            int(key.partition("_")[2]): tuple(int(step) for step in array)
            for key, array in arrays.items()
            if key.startswith("every_")
        }
        self.scales = {key: array for key, array in arrays.items() if key.split("_")[0] in SCALES} or None


SCALES = ("scale", "allowed", "varies")
HALF_ERROR = 0.1
NOTED, FARTHER = 0.05, 2.0  # of a component's spread; times the error that was proved, on other samples beside these


def _in_a_row(arrays: dict[str, np.ndarray], side: str) -> list[np.ndarray]:
    count = sum(key.startswith(side + "_") for key in arrays)
    if not count or any(f"{side}_{i}" not in arrays for i in range(count)):
        raise RunnerError(f"selfcheck.npz has no {side}_0.. in a row; it has: {', '.join(arrays)}")
    return [arrays[f"{side}_{i}"] for i in range(count)]


def read_samples(folder: Path, manifest: dict[str, Any]) -> Recorded:
    """The recorded inputs, the program's outputs, and what differences are judged by."""
    name = recorded_in(manifest)
    try:
        arrays = read_recorded(inside(folder, name), Allowed(manifest))
    except RunnerError:
        raise
    except Exception as error:
        raise RunnerError(f"cannot read {name}: {error}") from error
    return Recorded(arrays, manifest.get("preprocessing"))


def recorded_in(manifest: dict[str, Any]) -> str:
    """The file with recorded inputs and outputs."""
    return str(manifest.get("selfcheck") or "selfcheck.npz")


def selfcheck(
    folder: Path, manifest: dict[str, Any], variant: dict[str, Any], threads: int, name: str | None = None
) -> dict[str, Any]:
    """Run the recorded inputs through a variant, in the named runtime, and judge its outputs by its bounds."""
    result: dict[str, Any] = {"name": variant["name"], "status": "not run", "runtime": None, "failures": []}
    records = recorded_in(manifest)
    if all(entry["path"] != records for entry in manifest["files"]):
        return {**result, "failures": [f"the bundle has no {records}"]}
    damaged = altered(folder, manifest, [*task_files(variant), records]) + wrong_base(folder, variant)
    damaged = damaged or beyond(folder, manifest, variant)
    if damaged:
        return {**result, "status": "failed", "failures": damaged}
    try:
        runtime, result["runtime"] = import_runtime(variant["format"], name or variant.get("picked"))
    except RunnerError as error:
        return {**result, "failures": [str(error)]}
    try:
        recorded = read_samples(folder, manifest)
        count = len(recorded.inputs[0])
        model = open_model(folder, variant, threads, runtime)
        result["arithmetic"] = model.arithmetic()
        outputs = infer(model, recorded.inputs, alone=count // 2)
        outputs = [thinned(each, recorded.every.get(i, ())) for i, each in enumerate(outputs)]
        metrics = compare(outputs, recorded.outputs, recorded.scales, manifest.get("sets"))
    except Exception as error:
        return {**result, "status": "failed", "failures": [str(error) or type(error).__name__]}
    bound = _bound(variant, result["arithmetic"])
    failures = exceeded(metrics, bound)
    status = "failed" if failures else "passed"
    figures = {**metrics, "count": count, "bound": bound, "farther": _farther(metrics, variant["parity"])}
    return {**result, **figures, "status": status, "failures": failures}


def _bound(variant: dict[str, Any], arithmetic: str) -> dict[str, Any]:
    """What a variant is held to: computed in less than float32, what a file in half precision is."""
    bound: dict[str, Any] = variant["parity"]["bound"]
    exact = variant["precision"] == "fp32" and arithmetic != "fp32"
    return {"component_error": HALF_ERROR} if exact else bound


def _farther(metrics: dict[str, Any], proved: dict[str, Any]) -> float | None:
    """How many times as far off the worst component is as where the file was proved; None where that is no matter.

    The bound of an int8 file is what a user allows, and most are far below it: within it a file may still be another.
    """
    now, then = metrics.get("component_error"), proved.get("component_error")
    if now is None or then is None or now <= max(NOTED, FARTHER * then):
        return None
    return float(now) / max(float(then), SINGLE)
