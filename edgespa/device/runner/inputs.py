"""What a model is given: image files, pictures, pixels, or arrays as its program takes them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError
from edgespa.pixels.picture import TooManyBits, model_pixels, upright_pixels
from edgespa.pixels.values import normalised

ARRAY_FILES = (".npy", ".npz")


def preprocess(path: Path, how: dict[str, Any]) -> np.ndarray:
    """An image file as a float32 array [1, C, H, W]: upright, channels, size, scale, normalise.

    The pixels come by the very code that training and calibration data went through.
    """
    return picture_input(open_picture(path), how)


def open_picture(path: Path) -> np.ndarray:
    """The pixels of an image file as it is looked at: uint8 [H, W, C]."""
    try:
        from PIL import Image
    except ImportError as error:
        raise RunnerError("--input IMAGE needs Pillow (pip install pillow); without it, give a .npy file") from error
    try:
        with Image.open(path) as opened:
            return upright_pixels(opened)
    except TooManyBits as error:
        raise RunnerError(f"{path} is {error}: convert it to 8 bits first") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RunnerError(f"cannot read the image {path}: {error}") from error


def pixels_of(image: Any) -> np.ndarray:
    """The same of what a program has: a path, a picture of Pillow, or uint8 [H, W, C] (or [H, W]) in RGB."""
    if isinstance(image, (str, os.PathLike)):
        return open_picture(Path(image))
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        try:
            return upright_pixels(image)
        except TooManyBits as error:
            raise RunnerError(f"it is {error}: convert it to 8 bits first") from error
        except (OSError, ValueError, SyntaxError) as error:
            raise RunnerError(f"cannot read the image: {error}") from error
    if not isinstance(image, np.ndarray):
        raise RunnerError(f"a {type(image).__name__} is no image: give a path, an image of Pillow, or a uint8 array")
    pixels = image[:, :, None] if image.ndim == 2 else image
    if image.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        raise RunnerError(
            f"an array of {image.dtype} {list(image.shape)} is no image: give uint8 [height, width, 3], in RGB; "
            "what the program itself takes goes in a list, one array for each input"
        )
    return pixels


def picture_input(pixels: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    """Pixels of a picture, uint8 [H, W, C], as the program's input [1, C, H, W]."""
    if how["channels"] not in (1, 3, 4):
        raise RunnerError(f"an image has no {how['channels']} channels: give a .npy file")
    try:
        return normalised(model_pixels(pixels, how)[None], how)
    except ImportError as error:
        raise RunnerError("an image of another size needs Pillow (pip install pillow)") from error
    except ValueError as error:
        raise RunnerError(f"the image cannot become the model's input: {error}") from error


def read_arrays(path: Path, specs: list[dict[str, Any]]) -> list[np.ndarray]:
    """Inputs as the program takes them: the one of a .npy file, or those of an .npz file, see `_named_alike`."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = [loaded]
        else:
            with loaded:
                arrays = [loaded[name] for name in _named_alike(loaded.files, specs, path)]
    except RunnerError:
        raise
    except Exception as error:
        raise RunnerError(f"cannot read {path}: {error}") from error
    if len(arrays) != len(specs):
        raise RunnerError(f"the program has {len(specs)} inputs: give an .npz file with input_0, input_1, ...")
    return fitted_arrays(arrays, specs, str(path))


def _named_alike(names: list[str], specs: list[dict[str, Any]], path: Path) -> list[str]:
    """Of each input the array's name: ``input_0``..., or as the input is called, or the only one there is."""
    numbered = [f"input_{number}" for number in range(len(specs))]
    called = [spec["name"] for spec in specs]
    for wanted in (numbered, called):
        if set(wanted) <= set(names):
            return wanted
    if len(specs) == len(names) == 1:
        return names
    held = ", ".join(name[:40] for name in names[:8]) or "nothing"
    raise RunnerError(f"{path} holds {held}: its arrays are to be called {', '.join(numbered)}, or {', '.join(called)}")


def fitted_arrays(arrays: list[np.ndarray], specs: list[dict[str, Any]], where: str) -> list[np.ndarray]:
    """Arrays as the program takes them, one for each input; a sample without the dimension of the batch gets it."""
    if len(arrays) != len(specs):
        raise RunnerError(f"{where}: the program has {len(specs)} inputs, and these are {len(arrays)} arrays")
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
            raise RunnerError(f"{where} holds {array.dtype} of {array.shape}; input {spec['name']} is {wanted}")
        fitted.append(array.astype(spec["dtype"], copy=False))
    firsts = [spec["shape"][0] for spec in specs]
    if len(set(firsts)) == 1 and len({len(array) for array in fitted}) > 1:
        raise RunnerError(f"{where}: the inputs have different numbers of samples")
    return fitted
