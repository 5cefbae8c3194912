"""One input, an image or arrays, and what a file says of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.models import infer, open_model, running
from edgespa.device.runner.runtimes import import_runtime
from edgespa.pixels.picture import TooManyBits, model_pixels, upright_pixels
from edgespa.pixels.values import normalised

LISTS = ("classes", "multi-label", "regression")
"""What is learned where the first output of a sample is a list."""


def preprocess(path: Path, how: dict[str, Any]) -> np.ndarray:
    """An image file as a float32 array [1, C, H, W]: upright, channels, size, scale, normalise.

    The pixels come by the very code that training and calibration data went through.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise RunnerError("--input IMAGE needs Pillow (pip install pillow); without it, give a .npy file") from error
    if how["channels"] not in (1, 3, 4):
        raise RunnerError(f"an image has no {how['channels']} channels: give a .npy file")
    try:
        with Image.open(path) as opened:
            fitted = model_pixels(upright_pixels(opened), how)
    except TooManyBits as error:
        raise RunnerError(f"{path} is {error}: convert it to 8 bits first") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RunnerError(f"cannot read the image {path}: {error}") from error
    return normalised(fitted[None], how)


def read_arrays(path: Path, specs: list[dict[str, Any]]) -> list[np.ndarray]:
    """Inputs as the program takes them: the one of a .npy file, or ``input_0``... of an .npz file.

    A sample without the dimension of the batch gets it.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = [loaded]
        else:
            with loaded:
                arrays = [loaded[f"input_{i}"] for i in range(len(specs))]
    except Exception as error:
        raise RunnerError(f"cannot read {path}: {error}") from error
    if len(arrays) != len(specs):
        raise RunnerError(f"the program has {len(specs)} inputs: give an .npz file with input_0, input_1, ...")
    fitted = []
    for spec, array in zip(specs, arrays):
        shape = spec["shape"]
        array = array[None] if array.ndim == len(shape) - 1 else array
        fits = array.ndim == len(shape) and all(
            size == want for size, want in zip(array.shape[1:], shape[1:]) if isinstance(want, int)
        )
        floats = spec["dtype"].startswith("float")
        if not fits or not len(array) or array.dtype.kind not in ("f" if floats else "iu"):
            wanted = f"{spec['dtype']} of {' x '.join(str(size) for size in shape)}, normalised as in training"
            raise RunnerError(f"{path} holds {array.dtype} of {array.shape}; input {spec['name']} is {wanted}")
        fitted.append(array.astype(spec["dtype"], copy=False))
    firsts = [spec["shape"][0] for spec in specs]
    if len(set(firsts)) == 1 and len({len(array) for array in fitted}) > 1:
        raise RunnerError(f"{path}: the inputs have different numbers of samples")
    return fitted


def read_labels(folder: Path) -> list[str]:
    """The names of the outputs, as far as they are known."""
    path = folder / "labels.txt"
    try:
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, ValueError) as error:
        raise RunnerError(f"cannot read {path}: {error}") from error


def interpret(scores: np.ndarray, learns: str, labels: list[str], count: int) -> dict[str, Any]:
    """What one sample's first output [K] says.

    Args:
        scores: The numbers.
        learns: ``classes``: softmax, unless they are probabilities already; ``multi-label``: the logistic function of
            each; ``regression``: the numbers themselves.
        labels: Their names.
        count: The likeliest so many; all of a regression.
    """
    values = _finite(scores)
    if learns == "regression":
        return {"values": [{**_named(i, labels), "value": float(value)} for i, value in enumerate(values)]}
    if learns == "multi-label":
        odds = np.exp(-np.logaddexp(0.0, -values))
    elif (values >= 0).all() and abs(values.sum() - 1) < 1e-3:  # the model ends in a softmax of its own
        odds = values
    else:
        odds = np.exp(values - values.max())
        odds /= odds.sum()
    top = [int(index) for index in np.argsort(-odds, kind="stable")[:count]]
    rows = [{**_named(index, labels), "probability": float(odds[index])} for index in top]
    if learns == "multi-label":
        rows = [{**row, "present": row["probability"] >= 0.5} for row in rows]
    return {"top": rows}


def areas(scores: np.ndarray, labels: list[str], count: int) -> dict[str, Any]:
    """How much of one sample each class covers.

    Args:
        scores: Of each class in each place, [classes, height, width]; the largest one is the place's class.
        labels: Their names.
        count: The largest so many of the classes that are there.
    """
    found = np.bincount(_finite(scores).argmax(0).reshape(-1), minlength=len(scores))
    largest = [int(index) for index in np.argsort(-found, kind="stable")[:count] if found[index]]
    return {"areas": [{**_named(index, labels), "share": float(found[index] / found.sum())} for index in largest]}


def _named(index: int, labels: list[str]) -> dict[str, Any]:
    return {"index": index, "label": labels[index] if index < len(labels) else str(index)}


def _finite(scores: np.ndarray) -> np.ndarray:
    if not np.isfinite(scores).all():
        raise RunnerError("the outputs are not finite")
    return scores.astype(np.float64)


def summarise_output(spec: dict[str, Any], array: np.ndarray) -> dict[str, Any]:
    """An output that is no list of scores, in figures."""
    row = {"output": spec["name"], "shape": " x ".join(str(size) for size in array.shape)}
    if array.size and array.dtype.kind in "iuf":
        row.update({key: float(getattr(array, key)()) for key in ("min", "max", "mean")})
    return row


def predict(
    folder: Path, manifest: dict[str, Any], variant: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """What a variant makes of an image, or of arrays."""
    path = options.input
    if path.suffix.lower() in (".npy", ".npz"):
        arrays = read_arrays(path, manifest["inputs"])
    elif manifest.get("preprocessing") is None:
        raise RunnerError("the manifest does not say how an image becomes this model's input: give a .npy or .npz file")
    else:
        arrays = [preprocess(path, manifest["preprocessing"])]
    model = open_model(folder, variant, options.threads, import_runtime(variant["format"])[0])
    with running(variant):
        outputs = infer(model, arrays)
    result: dict[str, Any] = {"variant": variant["name"], "input": str(path)}
    first = outputs[0]
    labels, learns = read_labels(folder), manifest.get("learns", "classes")
    if first.ndim == 4 and first.shape[2:] == (1, 1):  # a head of 1 x 1 convolutions
        first = first[:, :, 0, 0]
    if first.ndim == 4 and learns == "segmentation":
        samples = [areas(scores, labels, options.top) for scores in first]
    elif first.ndim == 2 and learns in LISTS:
        samples = [interpret(scores, learns, labels, options.top) for scores in first]
    else:
        return {**result, "outputs": [summarise_output(*pair) for pair in zip(variant["outputs"], outputs)]}
    rest = [summarise_output(*pair) for pair in zip(variant["outputs"][1:], outputs[1:])]
    others = {"other_outputs": rest} if rest else {}
    if len(samples) == 1:
        return {**result, **samples[0], **others}
    key = next(iter(samples[0]))
    rows = [{"sample": i, **row} for i, sample in enumerate(samples) for row in sample[key]]
    return {**result, key: rows, **others}
