"""From a data spec to images with classes."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edgespa.data.arrays import has_idx, load_digits, load_idx, load_npz
from edgespa.data.datasets import load_dataset, of_dataset
from edgespa.data.folders import Asked, load_folder, load_zip
from edgespa.data.images import ImageData, Progress
from edgespa.errors import DataError
from edgespa.models.given import Given
from edgespa.models.imports import is_module_spec, module_exists, nearest_path, split_file_spec
from edgespa.models.trust import remember
from edgespa.system.files import expanded

_KINDS = (
    "DATA is PATH[:SPLIT] with PATH an image folder, a zip of one, a folder of idx files or an .npz; "
    "or package.module:callable, path/file.py:callable, digits:train, digits:test"
)


def load_data(
    spec: str,
    *,
    labelled: bool = True,
    items: str | None = None,
    wanted: str | None = None,
    skip: bool = False,
    progress: Progress | None = None,
) -> ImageData:
    """Open a data set. Images in folders and zip files are decoded only when they are used.

    Args:
        spec: ``PATH[:SPLIT]``, where PATH is

            - a folder with one folder per class, or with those below a folder per split. Classes are in order of name;
              they are numbered over all splits, so that one absent from a split does not shift the rest. SPLIT may be
              the path of a folder, ``train/images``;
            - a ``.zip`` of such a folder, with or without a top folder;
            - a folder or ``.zip`` with photographs and their masks in two folders, ``images`` and ``masks``, below a
              split or not (or ``images/train`` and ``masks/train``): a class for each pixel, by its number in the
              mask; 255 counts nowhere. Names are in ``classes.txt`` there, a line each;
            - a folder or ``.zip`` with pictures and the boxes that were drawn on them: Pascal VOC (``Annotations``,
              ``JPEGImages``, ``ImageSets/Main/*.txt``), COCO (``annotations/instances_*.json``, or a ``.json`` beside
              the pictures; of key points too), YOLO (``images``, ``labels``, ``data.yaml``); see `edgespa.data.drawn`;
            - a folder or ``.zip`` with pictures and those that are wanted for them in two folders, ``low`` and
              ``high``, see `edgespa.data.pictures`;
            - a folder of idx files as MNIST has them, gzipped or not: ``train``, ``test``;
            - an ``.npz`` with ``images`` (or ``x``) and ``labels`` (or ``y``), or per split ``x_train``, ``y_train``;

            or ``package.module:callable`` / ``path/file.py:callable``, which gives a ``torch.utils.data.Dataset`` of
            (image, label); or ``digits``, ``digits:train``, ``digits:test``: scikit-learn's handwritten digits (a
            folder of that name is ``./digits``); or a `Given` data set, loader, pair of arrays, or `ImageData`.
        labelled: False admits images without classes (a flat folder, an ``.npz`` without labels).
        items: Instead of labels take whatever a data set gives beside the image, for the objective of that name.
        wanted: What the objective needs, where data have several answers, see `edgespa.objectives.base.Known`.
        skip: Leave out pictures whose annotation cannot be used, and say so.
        progress: Called with (done, total) if a data set has to be read through for its labels.

    Returns:
        The images, in a fixed order.

    Raises:
        DataError: The data cannot be found, has no such split, no images or no classes, or is damaged.
    """
    if isinstance(spec, Given):
        return (
            spec.value if isinstance(spec.value, ImageData) else of_dataset(spec.value, spec, labelled, items, progress)
        )
    if items is not None and labelled and not is_code(spec) and not _is_npz(spec):
        raise DataError(
            f"the objective {items} takes what a data set of yours gives, and {spec} is none",
            "name a function that returns one, path/file.py:callable or package.module:callable; or an .npz with "
            "targets",
        )
    if spec == "digits" or spec.startswith("digits:"):
        return load_digits(spec.partition(":")[2] or None)
    if is_code(spec):
        data = load_dataset(spec, labelled, items, progress)
        remember(spec)
        return data
    path, split = _path_and_split(spec)
    assert path is not None
    name = path.resolve().name if path.is_dir() else path.stem
    title = f"{name}:{split}" if split else name
    asked = Asked(split, labelled, title, wanted, skip)
    if path.is_dir():
        return load_idx(path, split, labelled, title) if has_idx(path) else load_folder(path, asked)
    if not path.is_file():  # a device has no end
        raise DataError(f"{path}: neither a file nor a folder", nearest_path(path) or _KINDS)
    if path.suffix == ".npz":
        return load_npz(path, split, labelled, title, items)
    if path.suffix == ".zip" or zipfile.is_zipfile(path):
        return load_zip(path, asked)
    hint = f"give the folder: {path.parent}" if "-ubyte" in path.name else _KINDS
    raise DataError(f"{path}: not a kind of data that is known here", hint)


def _is_npz(spec: str) -> bool:
    return any(name.endswith(".npz") for name in (spec, spec.rpartition(":")[0]))


def is_code(spec: str) -> bool:
    """Whether a data spec names Python code, which is run to get the images.

    Args:
        spec: As `load_data` takes it.
    """
    if spec == "digits" or spec.startswith("digits:"):
        return False
    if split_file_spec(spec) is not None:
        return not Path(spec).is_dir()
    try:
        return _path_and_split(spec)[0] is None
    except DataError:  # nothing of that name
        return False


def _path_and_split(spec: str) -> tuple[Path | None, str | None]:
    """Path and split; no path if the spec is that of a module."""
    whole = expanded(spec)
    if spec and whole.exists():
        return whole, None
    head, colon, tail = spec.rpartition(":")
    if colon and head and expanded(head).exists():
        if not tail:
            raise DataError(f"'{spec}' ends in a colon", "name a split after it, or leave it out")
        return expanded(head), tail
    if is_module_spec(spec) and module_exists(spec):
        return None, None
    missing = expanded(head if colon and head else spec)
    raise DataError(f"data {spec!r}: {missing} does not exist", nearest_path(missing) or _KINDS)
