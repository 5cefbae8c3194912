"""From an image file to a model's pixels, the one way there is.

Training, calibration and evaluation go it, and the runner of a bundle: this is a part of ``run.py`` too
(`edgespa.device.assemble`), so it imports other parts alone, runs on Python 3.8, and needs Pillow only when called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # for annotations only: Python 3.8 cannot subscript them
from typing import Any

import numpy as np

from edgespa.pixels.placement import Placement, placed

ORIENTATION = 0x0112
"""The EXIF tag that says how a stored image is turned."""
WHITE = 255
GREY = 114
"""Beside a letterboxed picture, as detectors of the YOLO family have it."""
MAX_PIXELS = 1 << 27
"""134 million: more than cameras make. A file of some kilobytes may say that it has more."""
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF", "HEIF")
"""That are decoded by a library: for others, as PostScript, Pillow starts a program."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
"""As Pillow has them."""
SAMPLED = ("nearest", "bilinear", "bicubic")
"""Those that there are without antialiasing, too."""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")
# What 1 in a file of so many bits per value is in Pillow's 8 bits; a file of 16 keeps its upper ones.
_SCALES = {";2": 85, ";4": 17, ";16B": 1 / 256}


class TooManyBits(ValueError):
    """An image with more than 8 bits per channel, which nobody said how to scale."""


def refuse_deep(image: Any) -> None:
    """Refuse what is not decoded, and values that nobody said how to scale; only the header is looked at.

    Args:
        image: Of Pillow.

    Raises:
        TooManyBits: The image has more than 8 bits per channel.
        ValueError: It has more than `MAX_PIXELS`, or is none of `FORMATS`.
    """
    kind = getattr(image, "format", None)  # of one that was made here there is none
    if kind is not None and kind not in FORMATS:
        raise ValueError(f"a {kind} file, which is not taken: convert it to PNG")
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise ValueError(f"it has {image.size[0]:,} x {image.size[1]:,} pixels, more than {MAX_PIXELS:,}")
    if image.mode.startswith("I") or image.mode == "F":
        raise TooManyBits(f"an image of mode {image.mode}, with more than 8 bits per channel")


def upright_pixels(image: Any) -> np.ndarray:
    """A picture as it is looked at: decoded, 8 bits, turned as its EXIF orientation says.

    Args:
        image: Of Pillow. An orientation that is broken, or none of the eight, is as none.

    Returns:
        uint8 [H, W, C]: C is 1 for grey, 4 with transparency, else 3. Palettes and other colour spaces become RGB.

    Raises:
        TooManyBits: The image has more than 8 bits per channel.
        ValueError: It has more than `MAX_PIXELS`, or is none of `FORMATS`; it is not decoded then.
    """
    refuse_deep(image)
    transparent = _transparent_colour(image)
    image.load()  # before the orientation is asked for: TIFF files are turned here, and forget it
    turn = orientation(image)
    if transparent is not None and image.info.get("transparency") != transparent:
        image = image.copy()
        image.info["transparency"] = transparent
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in _TRANSPARENT or transparent is not None:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    pixels = np.asarray(image)
    return turned(pixels[:, :, None] if pixels.ndim == 2 else pixels, turn)


def model_pixels(pixels: np.ndarray, how: Mapping[str, Any]) -> np.ndarray:
    """Give a picture the model's channels and size.

    Transparent parts show the background, unless the model takes four channels. Then ``Image.convert`` to L, RGB or
    RGBA if the number of channels differs, ``Image.resize`` if the size does, and the middle of it (`placed`).

    Args:
        pixels: uint8 [H, W, C] with C of 1, 3 or 4 (RGBA).
        how: Fields of `edgespa.config.Preprocess`; ``channels`` is 1, 3 or 4.

    Returns:
        uint8 [channels, height, width].

    Raises:
        ValueError: With its proportions kept it has more than `MAX_PIXELS`, or ``how`` says what is not known here.
    """
    from PIL import Image

    channels = how["channels"]
    place = placed(pixels.shape[:2], how)
    if place.resized[0] * place.resized[1] > MAX_PIXELS:
        raise ValueError(
            f"{pixels.shape[1]:,} x {pixels.shape[0]:,} pixels become {place.resized[1]:,} x {place.resized[0]:,} with "
            f"their proportions kept, more than {MAX_PIXELS:,}"
        )
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    wanted = _MODES[channels]
    if picture.mode == "RGBA" and wanted != "RGBA":
        behind = Image.new("RGBA", picture.size, (how.get("background", WHITE),) * 3 + (255,))
        picture = Image.alpha_composite(behind, picture).convert("RGB")
    # Grey to RGB only repeats values, which may as well be done after resizing, at a third of the cost.
    widen = picture.mode == "L" and wanted == "RGB"
    if picture.mode != wanted and not widen:
        picture = picture.convert(wanted)
    if place.resized != place.source:
        picture = _resized(picture, place.resized, how.get("interpolation", "bilinear"), how.get("antialias", True))
    fitted = np.asarray(picture)
    fitted = np.broadcast_to(fitted, (channels, *fitted.shape)) if fitted.ndim == 2 else fitted.transpose(2, 0, 1)
    if how.get("channel_order", "rgb") == "bgr":
        fitted = fitted[[2, 1, 0, 3][:channels]]
    return _cut(fitted, place, how.get("padding") or (GREY,))


def _resized(picture: Any, size: tuple[int, int], interpolation: str, antialias: bool) -> Any:
    """A picture of Pillow at another height and width."""
    from PIL import Image

    height, width = size
    if interpolation not in (INTERPOLATIONS if antialias else SAMPLED):
        raise ValueError(f"interpolation '{interpolation}'{'' if antialias else ' without antialiasing'} is not known")
    if antialias or interpolation == "nearest":
        kinds = getattr(Image, "Resampling", Image)
        return picture.resize((width, height), getattr(kinds, interpolation.upper()))
    # As Pillow does it: a colour counts as much as it is seen.
    own = picture.convert("RGBa") if picture.mode == "RGBA" else picture
    made = Image.frombytes(own.mode, (width, height), _sampled(np.asarray(own), size, interpolation).tobytes())
    return made.convert(picture.mode)


def _sampled(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Interpolated between the nearest two or four rows and columns, however many lie between two results.

    As ``interpolate(..., antialias=False)`` of PyTorch and ``resize`` of OpenCV do it, which Pillow does not.
    """
    made = pixels.astype(np.float32)
    for axis, (whole, there) in enumerate(zip(pixels.shape, size)):
        at = (np.arange(there) + 0.5) * (whole / there) - 0.5
        first = np.floor(at)
        weights = _weights(at - first, interpolation).astype(np.float32)
        total: Any = 0.0
        for number, weight in enumerate(weights):
            index = np.clip(first.astype(np.int64) + number - (len(weights) // 2 - 1), 0, whole - 1)
            total = total + np.take(made, index, axis) * weight.reshape(-1, *[1] * (made.ndim - 1 - axis))
        made = total
    result: np.ndarray = np.clip(np.rint(made), 0, 255).astype(np.uint8)
    return result


def _weights(part: np.ndarray, interpolation: str) -> np.ndarray:
    """What the rows around a place count, [2 or 4, places]; cubic with the -0.75 that PyTorch and OpenCV have."""
    if interpolation == "bilinear":
        return np.stack([1 - part, part])
    sharp = -0.75
    near = [((sharp + 2) * x - (sharp + 3)) * x * x + 1 for x in (part, 1 - part)]
    far = [((sharp * x - 5 * sharp) * x + 8 * sharp) * x - 4 * sharp for x in (1 + part, 2 - part)]
    return np.stack([far[0], *near, far[1]])


def _cut(pixels: np.ndarray, place: Placement, padding: Sequence[int]) -> np.ndarray:
    """[C, H, W] of the resized picture -> of the input."""
    seen, become = place.window()
    shown = pixels[(slice(None), *seen)]
    if shown.shape[1:] == place.size:
        return shown
    made = np.empty((len(pixels), *place.size), np.uint8)
    made[:] = np.array(padding, np.uint8).reshape(-1, 1, 1)
    made[(slice(None), *become)] = shown
    return made


def _transparent_colour(image: Any) -> Any:
    """What Pillow calls the transparency of an image that has no alpha, in 8 bits; None where there is none.

    Of grey and RGB files it has the one value that is transparent, in the bits of the file.
    """
    found = image.info.get("transparency")
    if found is None or image.mode not in ("1", "L", "RGB"):
        return found
    tiles = getattr(image, "tile", None)
    raw = str(tiles[0][3]) if tiles else ""
    scale = next((by for end, by in _SCALES.items() if raw.endswith(end)), 1)
    return tuple(int(value * scale) for value in found) if isinstance(found, tuple) else int(found * scale)


def upright_size(image: Any) -> tuple[int, int]:
    """Height and width of an opened image as it is seen, without decoding it."""
    return turned_size(stored_size(image), orientation(image))


def stored_size(image: Any) -> tuple[int, int]:
    """Height and width of an opened image as it is stored, without decoding it.

    Of TIFF files some versions of Pillow say what is stored, and some what is seen.
    """
    tags = getattr(image, "tag_v2", None) or {}
    return tags.get(257, image.size[1]), tags.get(256, image.size[0])


def turned_size(stored: tuple[int, int], turn: int) -> tuple[int, int]:
    """Height and width of a picture as it is seen.

    Args:
        stored: As it is stored.
        turn: From `orientation`.
    """
    return (stored[1], stored[0]) if turn > 4 else stored


def orientation(image: Any) -> int:
    """How an opened image is turned, 1 to 8 as EXIF has it; 1, as it is, where that is not said or is damaged."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
        return int(found) if found in range(1, 9) else 1
    except Exception:  # whatever a damaged tag brings about: the image is whole without
        return 1


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """[H, W, C] with row 0 on top and column 0 on the left."""
    if turn >= 5:  # stored with rows for columns
        pixels = pixels.transpose(1, 0, 2)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
