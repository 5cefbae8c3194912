"""From pixels, 0 to 255, to the numbers that a network takes, and back.

It stands alone, as `edgespa.pixels.picture` does, for it is a part of ``run.py`` too: numpy and Python 3.8.
"""

from __future__ import annotations

from collections.abc import Mapping  # for annotations only: Python 3.8 cannot subscript it
from typing import Any

import numpy as np

SCALINGS = {"0-1": (255.0, 0.0), "-1-1": (127.5, 1.0), "0-255": (1.0, 0.0)}
"""What a pixel is divided by, and what is taken off then, before mean and std."""


def normalised(pixels: np.ndarray, how: Mapping[str, Any]) -> np.ndarray:
    """The input that a program takes.

    Args:
        pixels: [..., C, H, W], 0 to 255.
        how: ``mean``, ``std`` and ``scale`` of `edgespa.config.Preprocess`.

    Returns:
        float32 of the same shape. Each step is rounded to float32, in this order, wherever it is done.
    """
    by, less = SCALINGS[how.get("scale", "0-1")]
    made = pixels.astype(np.float32)
    made /= np.float32(by)  # in place, as below: it may be large
    made -= np.float32(less)
    made -= _per_channel(how["mean"])
    made /= _per_channel(how["std"])
    return made


def to_pixels(array: np.ndarray, how: Mapping[str, Any]) -> np.ndarray:
    """From a normalised input [..., C, H, W] back to the pixels it was made of, 0 to 255 (see `normalised`)."""
    by, less = SCALINGS[how.get("scale", "0-1")]
    unscaled = (array * _per_channel(how["std"]) + _per_channel(how["mean"]) + np.float32(less)) * np.float32(by)
    pixels: np.ndarray = np.clip(np.rint(unscaled), 0, 255).astype(np.uint8)
    return pixels


def _per_channel(values: Any) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1, 1)
