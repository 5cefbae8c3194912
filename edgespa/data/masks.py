"""Folders of photographs and their masks: which file belongs to which, and what the classes are called."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgespa.data.answers import UNREADABLE, decoded_mask, look_at_masks, names_in
from edgespa.data.images import ImageData
from edgespa.data.pairs import Pairs, find_masks, masks_among, pairs_across
from edgespa.data.source import ImageSource, LeftOut, UnusableError
from edgespa.data.tree import Tree, join
from edgespa.data.whole import summary
from edgespa.errors import DataError
from edgespa.pixels.picture import upright_size

logger = logging.getLogger(__name__)

_CLASS_FILES = frozenset({"classes.txt", "labels.txt", "class_names.txt", "label_names.txt", "codes.txt", "names.txt"})


def find_pairs(tree: Tree, base: str, filled: list[str], read: Callable[[str], bytes]) -> Pairs | None:
    """Photographs and their masks, in two folders or in one; None where there are none."""

    def decoded(file: str) -> Image.Image:
        image = Image.open(io.BytesIO(read(file)))
        image.load()
        return image

    if found := find_masks({name: tree.images[join(base, name)] for name in filled}, decoded):
        return found
    folders = [join(base, name) for name in filled] or [base]
    among = [found for folder in folders if (found := masks_among(tree.images.get(folder, []), decoded))]
    if among and len(folders) > 1:  # in folders of classes: which of both is to be learned, nobody knows
        raise DataError(
            f"{among[0].count} files look like masks of others, as {among[0].masks} of {among[0].photographs}",
            "move the masks into a folder of their own, outside of the folder of images",
        )
    return among[0] if among else None


def pairs_of_split(tree: Tree, split: str | None) -> Pairs | None:
    """Those of a split that is a folder below both that of the photographs and that of the masks."""
    if split is None:
        return None
    base = ""
    while len(tree.children(base)) == 1 and not tree.images.get(base):
        base = join(base, tree.children(base)[0])
    folders = {name: tree.images.get(join(join(base, name), split), []) for name in tree.children(base)}
    return pairs_across({name: files for name, files in folders.items() if files})


def masked_images(
    tree: Tree,
    base: str,
    found: Pairs,
    source: ImageSource,
    read: Callable[[str], bytes],
    where: str,
    title: str,
    skip: bool = False,
) -> ImageData:
    """Photographs with a class for each pixel.

    Args:
        tree: All files.
        base: The folder that they lie below.
        found: Which.
        source: The photographs.
        read: Gives a file.
        where: The data set's own path.
        title: Of the data.
        skip: Leave out photographs whose masks cannot be used, and say so.

    Raises:
        DataError: Masks cannot be used; all of them are told.
    """
    masks = [mask for _, mask in found.files]
    owner: dict[str, str] = {}
    for photograph, mask in found.files:
        if (other := owner.setdefault(photograph, mask)) != mask:
            raise DataError(
                f"{title}: {photograph} has several masks, {other} and {mask}",
                "leave one mask for each photograph there, of the classes that are to be learned",
            )
    folders = {photograph.rpartition("/")[0] for photograph, _ in found.files}
    alone = sum(len(tree.images[folder]) for folder in folders) - len(found.files)
    if alone and folders.isdisjoint(mask.rpartition("/")[0] for mask in masks):
        logger.warning("%s: %d photographs have no mask and were left out", title, alone)

    def read_mask(index: int) -> NDArray[np.uint8]:
        label = f"{where}/{masks[index]}"
        try:
            content = read(masks[index])
        except UNREADABLE as error:
            raise DataError(f"{label} cannot be read: {error}", "copy or make the data again") from error
        return decoded_mask(content, label)

    def checked_mask(index: int) -> NDArray[np.uint8]:
        values, photograph = read_mask(index), found.files[index][0]
        try:
            with Image.open(io.BytesIO(read(photograph))) as image:
                size = upright_size(image)
        except (*UNREADABLE, ValueError, SyntaxError, Image.DecompressionBombError):
            return values  # what is wrong with the photograph is told with all others that are wrong
        if values.shape != size:
            raise DataError(
                f"{where}/{masks[index]} is {values.shape[1]} x {values.shape[0]}, its image {photograph} "
                f"{size[1]} x {size[0]} as it is seen",
                "make the mask again at the size of its image, turned as that is shown",
            )
        return values

    faults: dict[int, DataError] = {}

    def looked_at(index: int) -> NDArray[np.uint8]:
        try:
            return checked_mask(index)
        except DataError as error:
            faults[index] = error
            return np.zeros((0, 0), np.uint8)

    names = _class_names(tree, base, read)
    answers, classes = look_at_masks(read_mask, len(masks), names, title, once=looked_at)
    data = ImageData(source, None, classes, title, answers=answers)
    if not faults:
        return data
    first = faults[min(faults)]
    told = summary(title, [faults[index].message for index in sorted(faults)], len(masks))
    if not skip or len(faults) == len(masks):
        raise UnusableError(first.message if len(faults) == 1 else told, first.hint)
    logger.warning("%s; left out", told)
    rest = data.subset([index for index in range(len(masks)) if index not in faults])
    return rest.without([LeftOut(found.files[index][0], faults[index].message) for index in sorted(faults)])


def _class_names(tree: Tree, base: str, read: Callable[[str], bytes]) -> tuple[str, ...]:
    """The classes of masks, from a text file beside them or above them; empty where there is none."""
    while True:
        for file in sorted(tree.others.get(base, ())):
            if file.rpartition("/")[2].lower() in _CLASS_FILES:
                lines = read(file).decode("utf-8-sig", errors="replace").splitlines()
                return names_in([line.strip() for line in lines if line.strip()])
        if not base:
            return ()
        base = base.rpartition("/")[0]
