"""Mean average precision, by pycocotools: the code that COCO's own figures are made with.

Of the two that are kept well, faster-coco-eval counts the same faster; it wants OpenCV for some of it, and these sets
are small. VOC's ``difficult`` objects are counted as COCO counts crowds: what lies on one is neither right nor wrong.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from typing import Any

import numpy as np

from edgespa.errors import MissingExtraError

COLUMNS = 8
"""Of a row: picture, 0 for an object that is there and 1 for one that is found, class, x1, y1, x2, y2; and whether an
object that is there is ignored, or the score of one that is found."""
_PACKAGE, _EXTRA = "pycocotools", "detection"


def require_library() -> None:
    """Refuse what needs it before anything long begins.

    Raises:
        MissingExtraError: It is not installed.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        raise MissingExtraError(_PACKAGE, _EXTRA)


def average_precisions(rows: np.ndarray) -> tuple[float, float]:
    """Mean average precision at overlaps of 0.5 to 0.95 in steps of 0.05, and at 0.5.

    The mean is over the classes of which an object is there (Lin et al. 2014, arXiv 1405.0312, and
    cocodataset.org/#detection-eval), over boxes of all sizes, of at most 100 in a picture; 0 where nothing is there.

    Args:
        rows: float64 ``[n, 8]``, see `COLUMNS`.

    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    precision, _ = _precision(rows)
    return _mean(precision) or 0.0, _mean(precision[:1]) or 0.0


def average_precisions_of_classes(rows: np.ndarray) -> dict[int, tuple[float | None, float | None]]:
    """The same of each class of which an object is there; None where none of them counts.

    Args:
        rows: float64 ``[n, 8]``, see `COLUMNS`.

    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    precision, classes = _precision(rows)
    parts = (precision[:, :, index] for index in range(len(classes)))
    return {name: (_mean(own), _mean(own[:1])) for name, own in zip(classes, parts, strict=True)}


def _precision(rows: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Precisions ``[overlaps, recalls, classes]``, -1 where nothing counts, and the classes."""
    require_library()
    coco: Any = importlib.import_module(f"{_PACKAGE}.coco")
    evaluation: Any = importlib.import_module(f"{_PACKAGE}.cocoeval")
    there, found = rows[rows[:, 1] == 0], rows[rows[:, 1] == 1]
    classes = [int(index) for index in np.unique(there[:, 2])]
    if not len(there):
        return np.zeros((1, 1, 0)), classes
    sides = rows[:, 5:7] - rows[:, 3:5]
    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": int(index)} for index in np.unique(rows[:, 0])],
            "categories": [{"id": index} for index in classes],
            "annotations": [
                {
                    "id": number + 1,  # 0 means none there
                    "image_id": int(row[0]),
                    "category_id": int(row[2]),
                    "bbox": [row[3], row[4], *side],
                    "area": float(side.prod()),
                    "iscrowd": int(row[7]),
                }
                for number, (row, side) in enumerate(zip(there, sides[rows[:, 1] == 0], strict=True))
            ],
        }
        truth.createIndex()
        if not len(found):
            counted = [bool((there[there[:, 2] == index, 7] == 0).any()) for index in classes]
            return np.where(counted, 0.0, -1.0)[None, None], classes
        places = np.column_stack([found[:, 0], found[:, 3:5], sides[rows[:, 1] == 1], found[:, 7], found[:, 2]])
        run = evaluation.COCOeval(truth, truth.loadRes(places), "bbox")
        run.evaluate()
        run.accumulate()
    return run.eval["precision"][:, :, :, 0, -1], classes  # of all sizes, of 100


def _mean(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]  # of a class of which nothing counts there is none
    return float(known.mean()) if known.size else None
