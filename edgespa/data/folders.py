"""Image files in folders, on disk or in a zip file: one folder per class, below a folder per split or not."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgespa.data.answers import UNREADABLE
from edgespa.data.bounded import BAD_FILE, require_file_of_an_image, why_no_image
from edgespa.data.drawn.find import find_drawn
from edgespa.data.drawn.places import Place
from edgespa.data.images import ImageData
from edgespa.data.labels import no_classes
from edgespa.data.masks import find_pairs, masked_images, pairs_of_split
from edgespa.data.pairs import (
    Pairs,
    are_splits,
    has_annotations,
    holds_annotations,
    holds_photographs,
)
from edgespa.data.points import Cut
from edgespa.data.source import Examined, ImageSource
from edgespa.data.tree import IMAGE_SUFFIXES, Tree, join
from edgespa.data.wanted import find_wanted
from edgespa.data.whole import looks_whole
from edgespa.errors import DataError
from edgespa.models.imports import nearest
from edgespa.pixels.picture import TooManyBits, orientation, upright_pixels
from edgespa.system.files import open_plain

logger = logging.getLogger(__name__)

_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval"})
# Top folder, split, class, image: nothing lies deeper than that.
_DEPTH = 4


class _Files(ImageSource):
    in_files = True

    def __init__(self, files: list[str], read: Callable[[str], bytes], where: str) -> None:
        self._files = files
        self._read = read
        self._where = where

    def name(self, index: int) -> str:
        return self._files[index]

    def fault(self, index: int) -> str | None:
        file = self._files[index]
        label = f"{self._where}/{file}"
        path = Path(self._where) / file
        try:
            # In a zip file it is read whole, and so its checksum is looked at.
            with open_plain(path) if Path(self._where).is_dir() else io.BytesIO(self._read(file)) as stream:
                if looks_whole(stream):
                    return None
            self.image(index)
        except DataError as error:
            return error.message
        except UNREADABLE as error:
            return f"{label} cannot be read: {error}"
        return None

    def __len__(self) -> int:
        return len(self._files)

    def image(self, index: int) -> NDArray[np.uint8]:
        return decode(*self._content(index))

    def examined(self, index: int) -> Examined:
        content, label = self._content(index)
        pixels = decode(content, label)
        with Image.open(io.BytesIO(content)) as image:  # it was opened just now
            return Examined(pixels, image.format or "", orientation(image) > 1)

    def _content(self, index: int) -> tuple[bytes, str]:
        label = f"{self._where}/{self._files[index]}"
        try:
            return self._read(self._files[index]), label
        except UNREADABLE as error:
            raise DataError(f"{label} cannot be read: {error}", "copy or make the data again") from error


_ALONE = threading.Lock()
"""Large images are decoded one after the other: several at once, of files of some kilobytes, would fill the memory."""
_LARGE = 1 << 25


def _is_large(image: Image.Image) -> bool:
    return image.size[0] * image.size[1] > _LARGE


def decode(content: bytes, label: str) -> NDArray[np.uint8]:
    """Decode an image file, and turn it as its EXIF orientation says; see `edgespa.pixels.picture.upright_pixels`.

    Args:
        content: The file.
        label: Its name for messages.

    Returns:
        uint8 [H, W, C]: C is 1 for grey, 4 with transparency, else 3. Palettes and other colour spaces become RGB.

    Raises:
        DataError: The file is corrupt, or has more than 8 bits per channel.
    """
    try:
        with Image.open(io.BytesIO(content)) as image, _ALONE if _is_large(image) else contextlib.nullcontext():
            return upright_pixels(image)
    except TooManyBits as error:
        raise DataError(f"{label}: {error}", "convert it to 8 bits, with a scale that suits the data") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{label} is not a whole image: {why_no_image(error, content)}", BAD_FILE) from error


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is wanted of a data set.

    Attributes:
        split: A part of it by name, or a folder; None for all, or the only one.
        labelled: What is right for each image is needed.
        title: The data set's name.
        wanted: What the objective needs, see `edgespa.objectives.base.Known`; None where the data say it.
        skip: Leave out what is wrong, and say so.
    """

    split: str | None
    labelled: bool
    title: str
    wanted: str | None = None
    skip: bool = False


def load_folder(root: Path, asked: Asked) -> ImageData:
    """Images in folders on disk; see `load_data`."""
    tree = Tree()
    for folder, names, files in os.walk(root, followlinks=True):
        below = PurePosixPath(Path(folder).relative_to(root).as_posix())
        names[:] = [] if len(below.parts) >= _DEPTH else [name for name in names if not _hidden(name)]
        prefix = "" if str(below) == "." else f"{below}/"
        for name in names:
            tree.add_folder(prefix + name)
        for name in files:
            if not _hidden(name):
                tree.add_file(prefix + name)

    def read(file: str) -> bytes:
        with open_plain(root / file) as stream:
            require_file_of_an_image(os.fstat(stream.fileno()).st_size, f"{root}/{file}")
            return stream.read()

    return _from_tree(Place(tree, lambda file: open_plain(root / file), str(root)), read, asked)


def load_zip(path: Path, asked: Asked) -> ImageData:
    """Images in folders inside a zip file, which stays open; see `load_data`."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DataError(f"{path}: not a whole zip file: {error}", "copy or download it again") from error
    tree = Tree()
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
            require_file_of_an_image(archive.getinfo(file).file_size, f"{path}/{file}")
            return archive.read(file)

    def opened(file: str) -> BinaryIO:
        return cast(BinaryIO, archive.open(file))  # several at once have one lock of their own

    return _from_tree(Place(tree, opened, str(path)), read, asked)


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name == "Thumbs.db"


def _from_tree(place: Place, read: Callable[[str], bytes], asked: Asked) -> ImageData:
    tree, where, split, labelled, title = place.tree, place.where, asked.split, asked.labelled, asked.title
    drawn = find_drawn(place, split, title, labelled=labelled, wanted=asked.wanted, skip=asked.skip)
    if drawn is not None:
        source: ImageSource = _Files(drawn.files, read, where)
        if drawn.windows is not None:
            source = Cut(source, *drawn.windows)
        return ImageData(source, None, drawn.classes, title, answers=drawn.answers).without(drawn.left_out)
    pictures = find_wanted(place, read, split, title, labelled=labelled, wanted=asked.wanted, skip=asked.skip)
    if pictures is not None:
        return ImageData(_Files(pictures[0], read, where), None, (), title, answers=pictures[1]).without(pictures[2])
    if found := pairs_of_split(tree, split):
        return _with_masks(tree, "", found, read, where, asked)
    base = _base(tree, split, where)
    at = f"{where}/{base}" if base else where
    subfolders = tree.children(base)
    filled = [name for name in subfolders if tree.images.get(join(base, name))]
    deeper = [name for name in subfolders if name not in filled and tree.children(join(base, name))]
    if deeper and filled:
        alone = _beside_annotations(tree, base, filled, where)
        raise DataError(
            f"{at}: some folders hold images ({_some(filled)}) and some hold folders ({_some(deeper)})",
            alone or "keep one folder per class, directly below the split",
        )
    if deeper:
        raise _no_class_folders(tree, base, deeper, at, where)
    flat = tree.images.get(base, [])
    _refuse_splits(tree, base, filled, where)
    if found := find_pairs(tree, base, filled, read):
        return _with_masks(tree, base, found, read, where, asked)
    if not filled:
        if not flat:
            raise DataError(
                f"{at}: no images", f"put images ({', '.join(sorted(IMAGE_SUFFIXES))}) into one folder per class there"
            )
        if labelled:
            raise no_classes(at)
        whole = ImageData(_Files(sorted(flat), read, where), None, (), title)
        whole.no_images = _tell_left_out(tree, [base], at)
        return whole
    classes = sorted({*filled, *_classes_of_siblings(tree, base, split)})
    if labelled and len(classes) < 2:
        raise DataError(
            f"{at}: one folder of images only ('{filled[0]}'), so there are no classes to tell apart",
            _beside_annotations(tree, base, filled, where) or "put the images of each class into a folder of its own",
        )
    files: list[str] = []
    labels: list[int] = []
    for name in filled:
        members = sorted(tree.images[join(base, name)])
        files += members
        labels += [classes.index(name)] * len(members)
    missing = [name for name in [*subfolders, *classes] if name not in filled]
    if missing:
        logger.warning("%s: no images in: %s", at, _some(list(dict.fromkeys(missing))))
    if flat:
        logger.warning("%s: %d images beside the class folders were left out: %s", at, len(flat), _some(sorted(flat)))
    data = ImageData(_Files(files, read, where), np.asarray(labels, dtype=np.int64), classes, title)
    data.no_images = _tell_left_out(tree, [base, *(join(base, name) for name in filled)], at)
    return data


def _with_masks(
    tree: Tree, base: str, found: Pairs, read: Callable[[str], bytes], where: str, asked: Asked
) -> ImageData:
    """Photographs with their masks, or alone where nobody asks for classes."""
    source = _Files(list(dict.fromkeys(photograph for photograph, _ in found.files)), read, where)
    if asked.labelled:
        return masked_images(tree, base, found, source, read, where, asked.title, asked.skip)
    return ImageData(source, None, (), asked.title)


def _refuse_splits(tree: Tree, base: str, filled: list[str], where: str) -> None:
    """Ask where splits would be learned as classes."""
    if are_splits(filled):
        raise DataError(
            f"{join(where, base)}: {_some(filled)} look like splits of images without classes, not like classes",
            "put the images of each class into a folder of its own, below the split; "
            + _images_alone(where, join(base, filled[0])),
        )


def _beside_annotations(tree: Tree, base: str, filled: list[str], where: str) -> str | None:
    """What to do with images beside a folder of files that annotate them, as VOC and YOLO have; None for others."""
    beside = [name for name in tree.children(base) if has_annotations(tree.others.get(join(base, name), ()))]
    named = [name for name in filled if holds_photographs(name)]
    if not (beside and named):
        return None
    return (
        f"'{named[0]}' and '{beside[0]}' look like images and their annotations, not like classes: put the images of "
        f"each class into a folder of its own; {_images_alone(where, join(base, named[0]))}"
    )


def _images_alone(where: str, folder: str) -> str:
    return f"where no labels are needed (--calibration) name the images alone: {where}:{folder}"


def _no_class_folders(tree: Tree, base: str, deeper: list[str], at: str, where: str) -> DataError:
    images = next((name for name in deeper if holds_photographs(name)), None)
    if images is not None and any(holds_annotations(name) for name in tree.children(base)):
        first = join(join(base, images), tree.children(join(base, images))[0])
        return DataError(
            f"{at}: images and their annotations in folders of their own ({', '.join(deeper)}), and no classes",
            f"put the images of each class into a folder of its own; {_images_alone(where, first)}",
        )
    return DataError(f"{at}: no images, but splits: {', '.join(deeper)}", f"name one of them: {where}:{deeper[0]}")


def _base(tree: Tree, split: str | None, where: str) -> str:
    """The folder that holds the class folders: the split, or the top, below lone wrapping folders.

    A split may be the path of a folder too, ``train/images``.
    """
    base = ""
    while True:
        subfolders = tree.children(base)
        if split is not None and tree.has(join(base, split.strip("/"))):
            return join(base, split.strip("/"))
        wrapped = join(base, subfolders[0]) if len(subfolders) == 1 and not tree.images.get(base) else ""
        if not wrapped or not tree.children(wrapped):
            break
        base = wrapped
    if split is None:
        return base
    inside = [join(name, split) for name in subfolders if tree.has(join(join(base, name), split))]
    near = [*inside, *nearest(split, subfolders, 1)]
    listed = f"splits there: {_some(subfolders)}" if subfolders else "there are no folders in it"
    raise DataError(f"{where} has no split '{split}'", f"did you mean '{near[0]}'? {listed}" if near else f"{listed}")


def _classes_of_siblings(tree: Tree, base: str, split: str | None) -> set[str]:
    """Classes of the other splits: one that is absent from this split must not shift the numbers of the rest."""
    if split is None:
        return set()
    parent, _, own = base.rpartition("/")

    def classes(split: str) -> set[str]:
        folder = join(parent, split)
        return {name for name in tree.children(folder) if tree.images.get(join(folder, name))}

    # Whatever splits are called, they have most of their classes in common; other data beside them have not.
    mine, found = classes(own), set()
    for name in tree.children(parent):
        theirs = classes(name)
        named = own in _SPLIT_NAMES and name in _SPLIT_NAMES
        if named or 2 * len(mine & theirs) > min(len(mine), len(theirs)):
            found |= theirs
    return found


def _tell_left_out(tree: Tree, folders: list[str], at: str) -> tuple[str, ...]:
    """Name the files that are no images; and say that there are images in folders that are no classes."""
    others = tuple(sorted(file for folder in folders for file in tree.others.get(folder, ())))
    if others:
        logger.warning("%s: %d files are no images and were left out: %s", at, len(others), _some(list(others)))
    used = set(folders)
    below = tuple(f"{folder}/" for folder in folders[1:])
    nested = sum(len(files) for folder, files in tree.images.items() if folder.startswith(below) and folder not in used)
    if below and nested:
        logger.warning("%s: %d images in folders below the class folders were left out", at, nested)
    return others


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
