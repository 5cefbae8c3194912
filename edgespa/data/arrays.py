"""Images that are arrays: idx files as MNIST has them, ``.npz`` files, and scikit-learn's digits."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespa.data.answers import ItemAnswers
from edgespa.data.bounded import require_memory
from edgespa.data.images import ImageData, Kind
from edgespa.data.labels import checked_labels, no_classes
from edgespa.data.named import NamedSource, inputs_by_split
from edgespa.data.source import ImageSource
from edgespa.errors import DataError
from edgespa.models.imports import nearest
from edgespa.system.files import open_plain

_IDX = re.compile(r"(?P<split>.+?)-(?P<what>images|labels)[-.]idx(?P<dims>[134])-ubyte(?:\.gz)?")
_IMAGE_KEYS = ("images", "x")
_LABEL_KEYS = ("labels", "y")
_TARGET_KEYS = ("targets",)
_CLASS_KEYS = ("classes", "class_names")
_DIGITS_TEST_FRACTION = 0.25
_AGAIN = "copy or download it again"


class ArraySource(ImageSource):
    """Images in memory.

    Args:
        images: uint8 [N, H, W, C].
    """

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.array = self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> NDArray[np.uint8]:
        """One image; see `ImageSource.image`."""
        image: NDArray[np.uint8] = self._images[index]
        return image


def has_idx(folder: Path) -> bool:
    """Whether a folder holds idx image files."""
    return any((match := _IDX.fullmatch(each.name)) and match["what"] == "images" for each in folder.iterdir())


def load_idx(folder: Path, split: str | None, labelled: bool, title: str) -> ImageData:
    """A folder of ``SPLIT-images-idx3-ubyte[.gz]`` and ``SPLIT-labels-idx1-ubyte[.gz]``; ``t10k`` is called ``test``.

    Classes are named by their numbers, up to the highest label of any split there.
    """
    found: dict[str, dict[str, Path]] = {"images": {}, "labels": {}}
    for path in sorted(folder.iterdir()):
        match = _IDX.fullmatch(path.name)
        if match:
            name = re.sub(r"t10k$", "test", match["split"])
            # Sorted, so that of a file and its .gz the plain one is kept.
            found[match["what"]].setdefault(name, path)
    chosen = choose_split("test" if split == "t10k" else split, list(found["images"]), str(folder))
    images = _read_idx(found["images"][chosen])
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)):
        raise DataError(
            f"{found['images'][chosen]}: images of shape {images.shape}", "idx images have [N, H, W] or [N, H, W, C]"
        )
    if images.size == 0:
        raise DataError(f"{found['images'][chosen]}: no images (shape {images.shape})", _AGAIN)
    source = ArraySource(images[:, :, :, None] if images.ndim == 3 else images)
    if chosen not in found["labels"]:
        if labelled:
            raise no_classes(f"{folder}, split '{chosen}' (its labels file is absent),")
        return ImageData(source, None, (), title)
    labels = checked_labels(_read_idx(found["labels"][chosen]), len(images), str(found["labels"][chosen]))
    return ImageData(source, labels, _numbered(_read_idx(path) for path in found["labels"].values()), title)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """One idx file: two zero bytes, type 8 (ubyte), number of dimensions, big-endian sizes, bytes."""
    try:
        with open_plain(path) as file, gzip.open(file) if path.suffix == ".gz" else file as stream:
            start = stream.read(4)
            if len(start) < 4 or start[:3] != b"\x00\x00\x08":
                raise DataError(f"{path}: no idx file of bytes (it starts with {start.hex()})", _AGAIN)
            sizes = stream.read(4 * start[3])
            if len(sizes) < 4 * start[3]:
                raise DataError(f"{path}: cut off in its header", _AGAIN)
            shape = struct.unpack(f">{start[3]}I", sizes)
            expected = math.prod(shape)
            require_memory(expected, str(path))
            content = stream.read(expected)  # and of what is packed no more than that
            if len(content) != expected or stream.read(1):
                actual = "more" if len(content) == expected else len(content)
                raise DataError(f"{path}: {actual} bytes for the shape {shape}, which needs {expected}", _AGAIN)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read whole: {error}", _AGAIN) from error
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _numbered(labels: Iterable[NDArray[Any]]) -> tuple[str, ...]:
    highest = max((int(each.max()) for each in labels if each.size), default=-1)
    return tuple(str(number) for number in range(highest + 1))


def choose_split(split: str | None, known: list[str], where: str) -> str:
    """The split that was asked for, or the only one.

    Raises:
        DataError: It is not there, or none was asked for and there are several; the hint lists them.
    """
    if split is None and len(known) == 1:
        return known[0]
    if split is None:
        raise DataError(
            f"{where} has splits: {', '.join(known)}",
            f"name one of them: {where}:{'train' if 'train' in known else known[0]}",
        )
    if split not in known:
        near = nearest(split, known, 1)
        listed = f"splits there: {', '.join(known)}" if known else "it has none: leave the split out"
        raise DataError(f"{where} has no split '{split}'", f"did you mean '{near[0]}'? {listed}" if near else listed)
    return split


def load_npz(path: Path, split: str | None, labelled: bool, title: str, items: str | None = None) -> ImageData:
    """An ``.npz`` of uint8 ``images`` or ``x`` [N, H, W] or [N, H, W, C] and integer ``labels`` or ``y`` [N].

    Instead of labels ``targets`` [N, K]: floating-point numbers to predict (regression; [N] for one), or 0 and 1 as
    integers or booleans, one per class (multi-label).

    Arrays of other names, and ``x`` where it is not uint8, are the inputs of a model that takes no images, or several
    inputs, `[N, ...]` each: by the names of its ``forward``, or ``input_0``, ``input_1``; the only one by any name.

    For the objective ``items`` labels and targets are of any shape, ``[N, ...]``.

    Splits are keys such as ``x_train`` and ``y_train``, or ``train_images`` and ``train_labels``. ``classes`` or
    ``class_names`` gives names; else classes are named by their numbers, up to the highest label of any split.
    """
    # Opened here, because numpy leaves the file open where it turns out to be damaged.
    with path.open("rb") as file:
        try:
            archive: Any = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not a whole .npz file: {error}", _AGAIN) from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(
                f"{path}: a single array, not an .npz", "write it with numpy.savez(path, images=..., labels=...)"
            )
        image_keys = _keys_by_split(archive.files, _IMAGE_KEYS)
        label_keys = _keys_by_split(archive.files, _LABEL_KEYS)
        target_keys = _keys_by_split(archive.files, _TARGET_KEYS)
        inputs = _inputs(archive, image_keys, path)
        if inputs:
            image_keys = {name: next(iter(keys.values())) for name, keys in inputs.items()}
        if not image_keys:
            raise DataError(
                f"{path}: no images (its arrays: {', '.join(archive.files) or 'none'})",
                "name the arrays images and labels, or x_train, y_train, x_test, y_test",
            )
        if split is None and "" in image_keys:
            chosen = ""
        else:
            chosen = choose_split(split, [name for name in image_keys if name], str(path))
        source: ImageSource
        if inputs:
            own = {name: _array(archive, key, path) for name, key in inputs[chosen].items()}
            source = NamedSource(own, str(path))
        else:
            images = _array(archive, image_keys[chosen], path)
            source = ArraySource(_checked_images(images, f"{path}: {image_keys[chosen]}"))
        if items is not None and labelled:
            keys = [each[chosen] for each in (label_keys, target_keys) if chosen in each]
            answers = _whatever([_array(archive, key, path) for key in keys], keys, len(source), str(path), items)
            return ImageData(source, None, _class_names(archive, path), title, answers=answers)
        if chosen not in label_keys:
            if labelled and chosen in target_keys:
                where = f"{path}: {target_keys[chosen]}"
                targets, kind = checked_targets(_array(archive, target_keys[chosen], path), len(source), where)
                named = _class_names(archive, path) or tuple(str(number) for number in range(targets.shape[1]))
                if len(named) != targets.shape[1]:
                    raise DataError(f"{where}: {targets.shape[1]} columns, but {len(named)} names", "name each column")
                return ImageData(source, None, named, title, targets, kind)
            if labelled:
                raise no_classes(f"{path} (no array of labels beside '{image_keys[chosen]}')")
            return ImageData(source, None, (), title)
        every = {name: _array(archive, key, path) for name, key in label_keys.items()}
        where = f"{path}: {label_keys[chosen]}"
        if every[chosen].dtype.kind in "US":
            names = np.unique(np.concatenate([each.reshape(-1).astype(str) for each in every.values()]))
            numbers: NDArray[Any] = np.searchsorted(names, every[chosen].astype(str))
            classes = tuple(str(name) for name in names)
        else:
            numbers = every[chosen]
            for name, each in every.items():
                checked_labels(each, each.size, f"{path}: {label_keys[name]}")
            classes = _class_names(archive, path) or _numbered(every.values())
        labels = checked_labels(numbers, len(source), where)
        if len(labels) and int(labels.max()) >= len(classes):
            raise DataError(
                f"{where}: a label of {int(labels.max())}, but {len(classes)} classes are named",
                "give one name per class, in the order of the labels",
            )
    return ImageData(source, labels, classes, title)


def _whatever(arrays: list[NDArray[Any]], keys: list[str], count: int, where: str, kind: Kind) -> ItemAnswers:
    """Labels or targets of any shape, for an objective of the user's own; both as a pair.

    Raises:
        DataError: There are none, or not one for each sample.
    """
    if not arrays:
        raise DataError(f"{where}: no labels and no targets", "name what is right for each sample: targets")
    for array, key in zip(arrays, keys, strict=True):
        if array.ndim == 0 or len(array) != count or array.dtype.kind not in "iufb":
            raise DataError(
                f"{where}: '{key}' of shape {array.shape} and type {array.dtype}, for {count} samples",
                "give numbers, as many rows as there are samples",
            )
    return ItemAnswers(
        lambda at: arrays[0][at] if len(arrays) == 1 else tuple(each[at] for each in arrays), count, kind
    )


def _others(keys: list[str]) -> list[str]:
    """Keys of what is right, and of names."""
    stems = (*_LABEL_KEYS, *_TARGET_KEYS)
    return [*_CLASS_KEYS, *(key for stem in stems for key in _keys_by_split(keys, (stem,)).values())]


def _inputs(archive: Any, image_keys: dict[str, str], path: Path) -> dict[str, dict[str, str]]:
    """Keys of arrays that are no images, by split and input; none where there are images, by their name or type."""
    if any(_IMAGE_KEYS[0] in key.split("_") for key in image_keys.values()):
        return {}
    found = inputs_by_split(archive.files, _others(archive.files))
    pictured = (_array(archive, key, path) for keys in found.values() for key in keys.values())
    return {} if any(each.dtype == np.uint8 and each.ndim in (3, 4) for each in pictured) else found


def _keys_by_split(keys: list[str], stems: tuple[str, ...]) -> dict[str, str]:
    """Split name -> key; the split is ``""`` for a key without one."""
    found: dict[str, str] = {}
    for stem in stems:
        for key in keys:
            if key == stem:
                found.setdefault("", key)
            elif key.startswith(f"{stem}_"):
                found.setdefault(key.removeprefix(f"{stem}_"), key)
            elif key.endswith(f"_{stem}"):
                found.setdefault(key.removesuffix(f"_{stem}"), key)
    return found


def _array(archive: Any, key: str, path: Path) -> NDArray[Any]:
    try:
        _require_announced(archive.zip, key, f"{path}: array '{key}'")
        array: NDArray[Any] = archive[key]
    except ValueError as error:
        hint = "save plain arrays of numbers; edgespa unpickles nothing" if "bject" in str(error) else _AGAIN
        raise DataError(f"{path}: array '{key}' cannot be read: {error}", hint) from error
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: array '{key}' cannot be read whole: {error}", _AGAIN) from error
    return array


def _require_announced(archive: zipfile.ZipFile, key: str, where: str) -> None:
    """Refuse an array that says it is larger than what is stored of it, or than the memory that is left.

    Raises:
        DataError: Before anything is unpacked.
    """
    name = key if key in archive.namelist() else f"{key}.npy"
    stored = archive.getinfo(name).file_size
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    wanted = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and wanted > stored:
        raise DataError(f"{where} has {stored:,} bytes for the shape {shape}, which needs {wanted:,}", _AGAIN)
    require_memory(stored, where)


def _checked_images(images: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if images.dtype != np.uint8:
        raise DataError(
            f"{where}: images of type {images.dtype}", "give uint8 from 0 to 255: (x * 255).round().astype('uint8')"
        )
    if images.ndim == 3:
        images = images[:, :, :, None]
    if images.ndim != 4 or images.shape[3] not in (1, 3, 4):
        raise DataError(
            f"{where}: images of shape {images.shape}",
            "give [N, H, W], or [N, H, W, C] with 1, 3 or 4 channels; [N, C, H, W] needs transpose(0, 2, 3, 1)",
        )
    if images.size == 0:
        raise DataError(f"{where}: no images (shape {images.shape})", "give at least one")
    return np.ascontiguousarray(images)


def checked_targets(targets: NDArray[Any], count: int, where: str) -> tuple[NDArray[np.float32], Kind]:
    """Targets as float32 [N, K], and whether they are numbers or decisions.

    Args:
        targets: [N] or [N, K].
        count: The number of images.
        where: They come from, for messages.

    Raises:
        DataError: They are of another shape or type, or not finite, or whole numbers other than 0 and 1.
    """
    table = targets[:, None] if targets.ndim == 1 else targets
    floating = np.issubdtype(table.dtype, np.floating)
    whole = table.dtype == np.bool_ or np.issubdtype(table.dtype, np.integer)
    if table.ndim != 2 or not table.shape[1] or not (floating or whole):
        raise DataError(
            f"{where}: targets of shape {targets.shape} and type {targets.dtype}",
            "give floating-point numbers [N, K], or 0 and 1 per class as integers or booleans [N, K]",
        )
    if len(table) != count:
        raise DataError(f"{where}: {count} images but {len(table)} targets", "make the file again from whole data")
    if not np.isfinite(table).all():
        raise DataError(f"{where}: targets that are not finite", "leave those images out")
    if whole and not np.isin(table, (0, 1)).all():
        raise DataError(
            f"{where}: integer targets other than 0 and 1",
            "give numbers to predict as floating-point, classes as labels",
        )
    return table.astype(np.float32), "regression" if floating else "multi-label"


def _class_names(archive: Any, path: Path) -> tuple[str, ...]:
    key = next((each for each in _CLASS_KEYS if each in archive.files), None)
    if key is None:
        return ()
    names = _array(archive, key, path)
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(
            f"{path}: '{key}' of shape {names.shape} and type {names.dtype}", "give one text per class: np.array([...])"
        )
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())


def load_digits(split: str | None) -> ImageData:
    """Scikit-learn's 1797 handwritten digits, 8 x 8, grey; ``train`` (75%) and ``test`` are fixed, by class."""
    if split is not None:
        choose_split(split, ["train", "test"], "digits")
    from sklearn.datasets import load_digits as load  # 1 s to import

    digits: Any = load()
    # The scans have 17 levels, 0 to 16.
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    names = tuple(str(number) for number in range(10))
    everything = ImageData(ArraySource(pixels[:, :, :, None]), labels, names, "digits")
    if split is None:
        return everything
    train, test = everything.split(_DIGITS_TEST_FRACTION, seed=0)
    part = train if split == "train" else test
    pixels = part.array if part.array is not None else pixels
    return ImageData(ArraySource(pixels), part.labels, names, f"digits:{split}")
