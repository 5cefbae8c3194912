"""Folders that are no classes: photographs beside their masks or annotations.

A class may be called ``mask`` too, and class folders often hold the same file names (``0001.jpg`` in each). So all of
it must be there: a name that says so, files that pair up, and pictures of which one has few flat colours and the other
has not.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_PHOTOGRAPHS = frozenset({
    "image", "images", "img", "imgs", "jpegimages", "photo", "photos", "photograph", "photographs", "picture",
    "pictures", "rgb", "frame", "frames", "input", "inputs",
})  # fmt: skip
_MASKS = frozenset({
    "gt", "truth", "seg", "segs", "matte", "mattes", "alpha", "target", "targets", "manual", "semantic", "instance",
    "instances", "panoptic",
})  # fmt: skip
# As a part of a longer word too: trainannot.
_MASKS_ANYWHERE = re.compile("mask|label|annot|segment|trimap|groundtruth|depth|disparity", re.IGNORECASE)
_SPLITS = re.compile(r"(train|training|val|valid|validation|test|testing|eval|dev|unlabeled|unlabelled)[-_]?\d*")
_ANNOTATION_SUFFIXES = frozenset({".xml", ".txt", ".json", ".csv", ".mat"})
_MOST_FOLDERS = 8  # more of them are classes
_PAIRED = 0.9
_SAMPLES = 6
# Of a mask so much of its area has one of so few colours, and of a photograph clearly less.
_COLOURS, _FLAT, _CLEARLY = 16, 0.8, 0.25

Decode = Callable[[str], Image.Image]


@dataclass(frozen=True)
class Pairs:
    """What was recognised.

    Attributes:
        photographs: Their folder, or the name of the first one.
        masks: Their folder, or the name of the first one.
        files: Of each pair the photograph and its mask, in order of name.
    """

    photographs: str
    masks: str
    files: tuple[tuple[str, str], ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.files)


def find_masks(folders: Mapping[str, Sequence[str]], decode: Decode) -> Pairs | None:
    """Two folders of which one holds the masks of the other's photographs; None where none does.

    Args:
        folders: Name -> paths of its images; those that would be classes.
        decode: Opens one.
    """
    if not 2 <= len(folders) <= _MOST_FOLDERS:
        return None
    for photographs, masks in itertools.permutations(folders, 2):
        if not holds_annotations(masks):
            continue
        pairs = _paired(folders[photographs], folders[masks])
        fewest = min(len(folders[photographs]), len(folders[masks]))
        if len(pairs) >= max(2, _PAIRED * fewest) and _are_masks(pairs, decode, True):
            return Pairs(photographs, masks, tuple(sorted(pairs)))
    return None


def masks_among(files: Sequence[str], decode: Decode) -> Pairs | None:
    """Photographs and their masks in one folder: ``a.jpg`` and ``a.png``, or ``a_mask.png``.

    Args:
        files: Paths of the images of one folder.
        decode: Opens one.
    """
    masks = [file for file in files if holds_annotations(_stem(file)[len(_key(file)) :])]
    if masks:
        named = set(masks)
        photographs = [file for file in files if file not in named]
    else:
        kinds = {suffix: [file for file in files if _suffix(file) == suffix] for suffix in set(map(_suffix, files))}
        if len(kinds) != 2:
            return None
        masks, photographs = sorted(kinds.values(), key=lambda own: _suffix(own[0]) != ".png")
    pairs = _paired(photographs, masks)
    if len(pairs) >= max(2, _PAIRED * len(masks)) and _are_masks(pairs, decode, False):
        photograph, mask = (PurePosixPath(file).name for file in pairs[0])
        return Pairs(photograph, mask, tuple(sorted(pairs)))
    return None


def pairs_across(folders: Mapping[str, Sequence[str]]) -> Pairs | None:
    """Photographs and masks of one split that lie in folders of the split's name, ``images/train``, ``masks/train``.

    Args:
        folders: Name of the upper folder -> paths of the images of the split in it.
    """
    for photographs, masks in itertools.permutations(folders, 2):
        if holds_photographs(photographs) and holds_annotations(masks):
            pairs = _paired(folders[photographs], folders[masks])
            if pairs:
                return Pairs(photographs, masks, tuple(sorted(pairs)))
    return None


def has_annotations(files: Iterable[str]) -> bool:
    """Whether files that are no images may be annotations of those that are."""
    return any(_suffix(file) in _ANNOTATION_SUFFIXES for file in files)


def holds_photographs(name: str) -> bool:
    """Whether a folder is called as one of photographs without classes often is."""
    return bool(_words(name) & _PHOTOGRAPHS)


def holds_annotations(name: str) -> bool:
    """Whether a folder is called as one of masks or annotations often is."""
    return bool(_words(name) & _MASKS) or _MASKS_ANYWHERE.search(name) is not None


def are_splits(names: Sequence[str]) -> bool:
    """Whether several folders are all called as splits are: ``train``, ``test``, ``train2017``, ``val2017``."""
    return len(names) > 1 and all(_SPLITS.fullmatch(name.lower()) for name in names)


def _words(name: str) -> frozenset[str]:
    """``SegmentationClass`` -> segmentation, class; the name as a whole too."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return frozenset([*(part.lower() for part in parts), re.sub(r"[^a-z]", "", name.lower())])


def _stem(file: str) -> str:
    return file.rpartition("/")[2].rpartition(".")[0]


def _suffix(file: str) -> str:
    return f".{file.rpartition('.')[2].lower()}"


def _key(file: str) -> str:
    """The stem without the words at its end: ``0001TP_006690_L`` -> ``0001TP_006690``, ``21_training`` -> ``21``."""
    stem = _stem(file)
    short = re.sub(r"(?:[_\-. ][A-Za-z][A-Za-z0-9]*)+$", "", stem)
    return short or stem


def _paired(photographs: Sequence[str], masks: Sequence[str]) -> list[tuple[str, str]]:
    """(photograph, mask) by their stems, else by `_key`, where that tells the files of a folder apart."""
    by_stem = {_stem(file): file for file in photographs}
    pairs = [(by_stem[_stem(file)], file) for file in masks if _stem(file) in by_stem]
    if len(pairs) >= _PAIRED * len(masks):
        return pairs
    by_key = {_key(file): file for file in photographs}
    if len(by_key) < _PAIRED * len(photographs):
        return pairs
    return [(by_key[_key(file)], file) for file in masks if _key(file) in by_key]


def _are_masks(pairs: Sequence[tuple[str, str]], decode: Decode, named: bool) -> bool:
    """Whether most of some pairs, over all of them, are a photograph and a mask of its size."""
    chosen = [pairs[index] for index in np.linspace(0, len(pairs) - 1, min(_SAMPLES, len(pairs))).astype(int)]
    votes = [_is_mask(photograph, mask, decode, named) for photograph, mask in chosen]
    return 2 * sum(votes) > len(votes)


def _is_mask(photograph: str, mask: str, decode: Decode, named: bool) -> bool:
    try:
        picture, other = decode(photograph), decode(mask)
        if sorted(picture.size) != sorted(other.size):  # a photograph may be stored turned
            return False
        if named and len(other.getbands()) == 1 and len(picture.getbands()) == 3 and other.mode != "P":
            return True  # depths and mattes are not flat, but grey beside colours
        flat, before = _flatness(other), _flatness(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return flat >= _FLAT and before <= flat - _CLEARLY


def _flatness(image: Image.Image) -> float:
    """Share of the area that has one of the `_COLOURS` most frequent colours."""
    if image.mode not in ("1", "L", "P", "RGB", "I", "I;16", "F"):
        image = image.convert("RGB")
    pixels: NDArray[np.generic] = np.asarray(image)
    codes = pixels.reshape(-1) if pixels.ndim == 2 else pixels.reshape(-1, 3).astype(np.int64) @ (1, 256, 65536)
    counts = np.unique(codes, return_counts=True)[1]
    return float(np.sort(counts)[-_COLOURS:].sum() / counts.sum())
