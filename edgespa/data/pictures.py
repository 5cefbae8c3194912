"""Pictures that are wanted for pictures: sharp for blurred ones, large for small ones, depths for photographs."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgespa.config import Preprocess
from edgespa.data.answers import Answers
from edgespa.data.bounded import BAD_FILE, MAX_IMAGE_FILE, why_no_image
from edgespa.errors import DataError
from edgespa.pixels.picture import (
    MAX_PIXELS,
    orientation,
    refuse_deep,
    turned,
    upright_pixels,
    upright_size,
)
from edgespa.pixels.placement import Placement

_FROM = frozenset({
    "input", "inputs", "low", "lq", "lr", "noisy", "noise", "blur", "blurry", "blurred", "hazy", "rain", "rainy",
    "degraded", "source", "image", "images", "rgb", "photo", "photos", "raw", "dark",
})  # fmt: skip
_TO = frozenset({
    "target", "targets", "high", "hq", "hr", "gt", "truth", "clean", "sharp", "clear", "groundtruth", "bright",
    "output", "outputs", "denoised", "expert", "depth", "depths", "disparity", "height",
})  # fmt: skip
_UNITS = frozenset({"depth", "depths", "disparity", "height"})
"""Names of folders of numbers that may be stored as grey pictures, 0 where nobody knows."""
_PAIRED, _SAMPLES, _FLAT, _SIDE = 0.9, 6, 32, 24
_ALIKE, _MORE = 0.5, 0.2  # correlations
_DEEP = 65535.0
_MOST_FACTOR = 16
NUMBERS = ".npy"
_FIX = (
    "write [H, W] or [H, W, C] of numbers with numpy.save, 0 to 1 as far as they are brightness; nan where nobody knows"
)


class PictureAnswers(Answers):
    """The wanted pictures, read when they are asked for.

    Args:
        read: Gives one, float32 [H, W, C], nan where nobody knows.
        sizes: Height and width of the pictures that they are wanted for, int64 [N, 2].
        factor: So many times as high and wide are the wanted ones.
        channels: Of them.
        digest: Of all of them, as far as that is known without decoding them.
    """

    kind = "image"
    form = "images"

    def __init__(
        self,
        read: Callable[[int], NDArray[np.float32]],
        sizes: NDArray[np.int64],
        factor: int,
        channels: int,
        digest: str,
    ) -> None:
        self._read, self.sizes, self.factor, self.channels, self._digest = read, sizes, factor, channels, digest

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], tuple[int, int]]:
        height, width = self.sizes[index]
        return self._read(index), (int(height), int(width))

    @property
    def digest(self) -> str:
        """Of their names and sizes."""
        return self._digest


def fit_picture(
    picture: NDArray[np.float32], size: tuple[int, int], preprocess: Preprocess, factor: int
) -> NDArray[Any]:
    """A wanted picture where `edgespa.data.prepare.fit_image` puts its own, with so many times as many pixels.

    Resized as that is, antialiased, but that numbers are not rounded; of pictures with places that nobody knows the
    nearest is taken.

    Args:
        picture: float32 [H, W, C].
        size: Height and width of the picture that it is wanted for.
        preprocess: What is wanted of that.
        factor: How many times as many pixels in each direction.

    Returns:
        float32 [C, factor height, factor width], nan where the input shows no picture.
    """
    place = preprocess.placement(*size)
    wide = Placement(*(tuple(factor * side for side in sides) for sides in place))  # type: ignore[arg-type]
    if wide.resized == wide.source or np.isnan(picture).any():
        placed = wide.mask(picture, np.float32(-np.inf)).transpose(2, 0, 1)
        return np.where(np.isinf(placed), np.float32(np.nan), placed)
    kind = Image.Resampling[preprocess.interpolation.upper()]
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(wide.resized[::-1], kind))
        for plane in picture.transpose(2, 0, 1)
    ]
    made = np.full((len(planes), *wide.size), np.nan, np.float32)
    seen, become = wide.window()
    made[(slice(None), *become)] = np.stack(planes)[(slice(None), *seen)]
    return made


def names_say(given: str, wanted: str) -> bool:
    """Whether two folders are called as pictures and what is wanted for them are."""
    return bool(_words(given) & _FROM) and bool(_words(wanted) & _TO) and given != wanted


def of_units(name: str) -> bool:
    """Whether a folder is called as one of depths or the like."""
    return bool(_words(name) & _UNITS)


def _words(name: str) -> frozenset[str]:
    return frozenset([*re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()), name.lower()])


def find_pictures(
    folders: Mapping[str, Sequence[str]], read: Callable[[str], bytes], sure: bool
) -> tuple[str, str, list[tuple[str, str]]] | None:
    """Two folders of which one holds what is wanted for the pictures of the other; None where none does.

    Args:
        folders: Name -> paths of their images and arrays.
        read: Gives a file.
        sure: The objective asks for them: names are enough. Else what is wanted has to look like no mask.

    Returns:
        The names of the folders, and the pairs of files in order.
    """
    for given, wanted in itertools.permutations(folders, 2):
        if not names_say(given, wanted):
            continue
        by_stem = {_stem(file): file for file in folders[given]}
        pairs = sorted((by_stem[_stem(file)], file) for file in folders[wanted] if _stem(file) in by_stem)
        fewest = min(len(folders[given]), len(folders[wanted]))
        if len(pairs) >= max(2, _PAIRED * fewest) and (sure or _belong(pairs, read, of_units(wanted))):
            return given, wanted, pairs
    return None


def _belong(pairs: Sequence[tuple[str, str]], read: Callable[[str], bytes], units: bool) -> bool:
    """Whether pictures look as what is wanted for each other, and not as classes whose files are called alike.

    What is wanted shows what the picture shows, more than another picture does; of depths it is enough that they have
    more shades than masks have. Arrays are nothing else.
    """
    if all(file.lower().endswith(NUMBERS) for _, file in pairs):
        return True
    chosen = [pairs[index] for index in np.linspace(0, len(pairs) - 1, min(_SAMPLES, len(pairs))).astype(int)]
    try:
        wanted = [_small(read(file)) for _, file in chosen]
        if units:
            return bool(np.median([shades for _, shades in wanted]) > _FLAT)
        given = [_small(read(file)) for file, _ in chosen]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    alike = np.array([[float((one * other).mean()) for other, _ in wanted] for one, _ in given])
    own = float(np.median(alike.diagonal()))
    others = float(np.median(alike[~np.eye(len(alike), dtype=bool)]))
    return own > _ALIKE and own > others + _MORE and bool(np.median([shades for _, shades in wanted]) > _FLAT)


def _small(content: bytes) -> tuple[NDArray[np.float64], int]:
    """A picture as a few grey values without brightness and contrast; and how many values its first channel has."""
    with Image.open(io.BytesIO(content)) as image:
        if image.size[0] * image.size[1] > MAX_PIXELS:
            raise ValueError("it is too large")
        image.load()
        shades = len(np.unique(np.asarray(image.getchannel(0) if len(image.getbands()) > 1 else image)))
        grey = np.asarray(image.convert("F" if image.mode in ("I;16", "I", "F") else "L"), np.float32)
    small = np.asarray(Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float64)
    return (small - small.mean()) / max(float(small.std()), 1e-6), shades


def read_wanted(content: bytes, file: str, label: str, units: bool) -> NDArray[np.float32]:
    """A wanted picture from a file.

    Args:
        content: The file.
        file: Its path: its end says what it is.
        label: Its name for messages.
        units: 0 in it says that nobody knows, where it has 16 bits.

    Returns:
        float32 [H, W, C]: of 8 and of 16 bits from 0 to 1, of an array as it is; nan where nobody knows.

    Raises:
        DataError: It is damaged, or of another form.
    """
    if file.lower().endswith(NUMBERS):
        return _of_array(content, label)
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode not in ("I;16", "I;16B", "I", "F"):
                return upright_pixels(image)[:, :, :3].astype(np.float32) / np.float32(255)
            if image.format not in ("PNG", "TIFF") or image.size[0] * image.size[1] > MAX_PIXELS:
                raise ValueError(f"a {image.format} file of {image.size} with more than 8 bits")
            deep = image.mode != "F"
            image.load()
            values = turned(np.asarray(image, np.float32)[:, :, None], orientation(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{label} is not a whole image: {why_no_image(error)}", BAD_FILE) from error
    if units:
        values = np.where(values == 0, np.float32(np.nan), values)
    return np.asarray(values / np.float32(_DEEP) if deep else values, np.float32)


def _of_array(content: bytes, label: str) -> NDArray[np.float32]:
    try:
        array: Any = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise DataError(f"{label} is not a whole array: {error}", _FIX) from error
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3) or array.dtype.kind not in "fiu" or not array.size:
        raise DataError(f"{label}: no array of numbers [H, W] or [H, W, C]", _FIX)
    values = array.astype(np.float32)
    if np.isinf(values).any():
        raise DataError(f"{label} has values that are infinite", _FIX)
    return values[:, :, None] if values.ndim == 2 else values


def size_of(stream: BinaryIO, file: str, label: str) -> tuple[int, int, int]:
    """Height, width and channels of a wanted picture, without decoding it.

    Args:
        stream: The file.
        file: Its path: its end says what it is.
        label: Its name for messages.

    Raises:
        DataError: It is damaged, or of another form.
    """
    if file.lower().endswith(NUMBERS):
        height, width, channels = _of_array(stream.read(MAX_IMAGE_FILE), label).shape
        return height, width, channels
    try:
        with Image.open(stream) as image:
            if image.mode not in ("I;16", "I;16B", "I", "F"):
                refuse_deep(image)
            return (*upright_size(image), 1 if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;") else 3)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{label} is not a whole image: {why_no_image(error)}", BAD_FILE) from error


def misfit(
    size: tuple[int, int], wanted: tuple[int, int, int], first: tuple[int, int], of_first: tuple[int, int, int]
) -> str | None:
    """Why a wanted picture is none for its own; None where it is.

    All are the same whole number of times as high and wide, and have as many channels.

    Args:
        size: Height and width of the picture.
        wanted: Height, width and channels of the wanted one.
        first: The same of the first pair.
        of_first: Likewise.
    """
    factor = times(first, of_first)
    if wanted[:2] != (factor * size[0], factor * size[1]) or factor > _MOST_FACTOR:
        often = "of its size" if factor == 1 else f"{factor} times as large, as the first is"
        return f"is {wanted[1]} x {wanted[0]}, its picture {size[1]} x {size[0]}: not {often}"
    return None if wanted[2] == of_first[2] else f"has {wanted[2]} channels, the first {of_first[2]}"


def times(size: tuple[int, int], wanted: tuple[int, int, int]) -> int:
    """How many times as high a wanted picture is."""
    return max(1, round(wanted[0] / size[0]))


def digest_of(names: Sequence[tuple[str, str]], sizes: Sequence[tuple[int, int, int]]) -> str:
    """Of the names and sizes of wanted pictures."""
    return hashlib.sha256(f"{list(names)} {list(sizes)}".encode()).hexdigest()[:16]


def _stem(file: str) -> str:
    return file.rpartition("/")[2].rpartition(".")[0]
