"""Image files in folders, on disk or in a zip file: one folder per class, below a folder per split or not."""

from __future__ import annotations

import io
import logging
import os
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edgespa.data.images import ImageData, ImageSource, no_classes
from edgespa.errors import DataError
from edgespa.imports import nearest
from edgespa.picture import TooManyBits, upright_pixels

logger = logging.getLogger(__name__)

_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"}
)
_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval"})
# Top folder, split, class, image: nothing lies deeper than that.
_DEPTH = 4


@dataclass
class _Tree:
    """Folders and image files below a root, all as paths relative to it; the root is ``""``."""

    images: dict[str, list[str]] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    subfolders: dict[str, set[str]] = field(default_factory=dict)

    def add_folder(self, folder: str) -> None:
        while folder:
            parent, _, name = folder.rpartition("/")
            self.subfolders.setdefault(parent, set()).add(name)
            folder = parent

    def add_file(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        self.add_folder(folder)
        if PurePosixPath(name).suffix.lower() in _SUFFIXES:
            self.images.setdefault(folder, []).append(path)
        else:
            self.others[folder] = self.others.get(folder, 0) + 1

    def children(self, folder: str) -> list[str]:
        return sorted(self.subfolders.get(folder, ()))


class _Files(ImageSource):
    def __init__(self, files: list[str], read: Callable[[str], bytes], where: str) -> None:
        self._files = files
        self._read = read
        self._where = where

    def __len__(self) -> int:
        return len(self._files)

    def image(self, index: int) -> NDArray[np.uint8]:
        file = self._files[index]
        label = f"{self._where}/{file}"
        try:
            content = self._read(file)
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
            raise DataError(f"{label} cannot be read: {error}", "copy or make the data again") from error
        return decode(content, label)


def decode(content: bytes, label: str) -> NDArray[np.uint8]:
    """Decode an image file, and turn it as its EXIF orientation says; see `edgespa.picture.upright_pixels`.

    Args:
        content: The file.
        label: Its name for messages.

    Returns:
        uint8 [H, W, C]: C is 1 for grey, 4 with transparency, else 3. Palettes and other colour spaces become RGB.

    Raises:
        DataError: The file is corrupt, or has more than 8 bits per channel.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return upright_pixels(image)
    except TooManyBits as error:
        raise DataError(f"{label}: {error}", "convert it to 8 bits, with a scale that suits the data") from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{label} is not a whole image: {error}", "replace or delete this file") from error


def load_folder(root: Path, split: str | None, labelled: bool, title: str) -> ImageData:
    """Images in folders on disk; see `load_data`."""
    tree = _Tree()
    for folder, names, files in os.walk(root, followlinks=True):
        below = PurePosixPath(Path(folder).relative_to(root).as_posix())
        names[:] = [] if len(below.parts) >= _DEPTH else [name for name in names if not _hidden(name)]
        prefix = "" if str(below) == "." else f"{below}/"
        for name in names:
            tree.add_folder(prefix + name)
        for name in files:
            if not _hidden(name):
                tree.add_file(prefix + name)
    return _from_tree(tree, lambda file: (root / file).read_bytes(), str(root), split, labelled, title)


def load_zip(path: Path, split: str | None, labelled: bool, title: str) -> ImageData:
    """Images in folders inside a zip file, which stays open; see `load_data`."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DataError(f"{path}: not a whole zip file: {error}", "copy or download it again") from error
    tree = _Tree()
    for name in archive.namelist():
        parts = PurePosixPath(name).parts
        if any(_hidden(part) for part in parts):
            continue
        if name.endswith("/"):
            tree.add_folder(name.rstrip("/"))
        else:
            tree.add_file(name)
    lock = threading.Lock()

    def read(file: str) -> bytes:
        with lock:
            return archive.read(file)

    return _from_tree(tree, read, str(path), split, labelled, title)


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name == "Thumbs.db"


def _from_tree(
    tree: _Tree, read: Callable[[str], bytes], where: str, split: str | None, labelled: bool, title: str
) -> ImageData:
    base = _base(tree, split, where)
    at = f"{where}/{base}" if base else where
    subfolders = tree.children(base)
    filled = [name for name in subfolders if tree.images.get(_join(base, name))]
    deeper = [name for name in subfolders if name not in filled and tree.children(_join(base, name))]
    if deeper and filled:
        raise DataError(
            f"{at}: some folders hold images ({_some(filled)}) and some hold folders ({_some(deeper)})",
            "keep one folder per class, directly below the split",
        )
    if deeper:
        raise DataError(f"{at}: no images, but splits: {', '.join(deeper)}", f"name one of them: {where}:{deeper[0]}")
    flat = tree.images.get(base, [])
    if not filled:
        if not flat:
            raise DataError(
                f"{at}: no images", f"put images ({', '.join(sorted(_SUFFIXES))}) into one folder per class there"
            )
        if labelled:
            raise no_classes(at)
        _tell_left_out(tree, [base], at)
        return ImageData(_Files(sorted(flat), read, where), None, (), title)
    classes = sorted({*filled, *_classes_of_siblings(tree, base, split)})
    if labelled and len(classes) < 2:
        raise DataError(
            f"{at}: one folder of images only ('{filled[0]}'), so there are no classes to tell apart",
            "put the images of each class into a folder of its own",
        )
    files: list[str] = []
    labels: list[int] = []
    for name in filled:
        members = sorted(tree.images[_join(base, name)])
        files += members
        labels += [classes.index(name)] * len(members)
    missing = [name for name in [*subfolders, *classes] if name not in filled]
    if missing:
        logger.warning("%s: no images in: %s", at, ", ".join(dict.fromkeys(missing)))
    if flat:
        logger.warning("%s: %d images beside the class folders were left out", at, len(flat))
    _tell_left_out(tree, [base, *(_join(base, name) for name in filled)], at)
    return ImageData(_Files(files, read, where), np.asarray(labels, dtype=np.int64), classes, title)


def _base(tree: _Tree, split: str | None, where: str) -> str:
    """The folder that holds the class folders: the split, or the top, below lone wrapping folders."""
    base = ""
    while True:
        subfolders = tree.children(base)
        if split is not None and split in subfolders:
            return _join(base, split)
        wrapped = _join(base, subfolders[0]) if len(subfolders) == 1 and not tree.images.get(base) else ""
        if not wrapped or not tree.children(wrapped):
            break
        base = wrapped
    if split is None:
        return base
    near = nearest(split, subfolders, 1)
    listed = f"splits there: {_some(subfolders)}" if subfolders else "there are no folders in it"
    raise DataError(f"{where} has no split '{split}'", f"did you mean '{near[0]}'? {listed}" if near else f"{listed}")


def _classes_of_siblings(tree: _Tree, base: str, split: str | None) -> set[str]:
    """Classes of the other splits: one that is absent from this split must not shift the numbers of the rest."""
    if split is None or split not in _SPLIT_NAMES:
        return set()
    parent = base.rpartition("/")[0]
    siblings = [_join(parent, name) for name in tree.children(parent) if name in _SPLIT_NAMES]
    return {name for each in siblings for name in tree.children(each) if tree.images.get(_join(each, name))}


def _tell_left_out(tree: _Tree, folders: list[str], at: str) -> None:
    others = sum(tree.others.get(folder, 0) for folder in folders)
    if others:
        logger.warning("%s: %d files are no images and were left out", at, others)
    used = set(folders)
    below = tuple(f"{folder}/" for folder in folders[1:])
    nested = sum(len(files) for folder, files in tree.images.items() if folder.startswith(below) and folder not in used)
    if below and nested:
        logger.warning("%s: %d images in folders below the class folders were left out", at, nested)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
