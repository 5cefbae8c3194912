"""Arrays of the program as a file takes and gives them."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError
from edgespa.pixels.values import to_pixels


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


def as_the_file_takes(arrays: list[np.ndarray], variant: dict[str, Any]) -> list[np.ndarray]:
    """The program's inputs in each input's own layout; pixels where the file normalises by itself."""
    how = variant.get("preprocess")
    if how is not None and arrays[0].dtype.kind == "f":
        arrays = [to_pixels(arrays[0], how), *arrays[1:]]
    return [to_file_layout(array, spec) for array, spec in zip(arrays, variant["inputs"])]


def feed_by_name(arrays: list[np.ndarray], variant: dict[str, Any]) -> dict[str, np.ndarray]:
    """Arrays in the program's layout as an ONNX file takes them, by the names of its inputs."""
    feed = {}
    for spec, array in zip(variant["inputs"], as_the_file_takes(arrays, variant)):
        if spec["dtype"] in ("int8", "uint8") and array.dtype.kind == "f":
            raise RunnerError(f"input {spec['name']} is quantised, but an ONNX file does not say by what scale")
        feed[spec["name"]] = array.astype(spec["dtype"], copy=False)
    return feed
