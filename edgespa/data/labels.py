"""Class indices of images: that they are some, and what is said where there are none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgespa.errors import DataError
from edgespa.system.bounds import MAX_OUTPUTS


def no_classes(title: str) -> DataError:
    """The error for images without classes where classes are needed."""
    return DataError(
        f"{title} has no classes",
        "put the images of each class into a folder of its own, or give an .npz with labels; "
        "images without classes serve for calibration only",
    )


def checked_labels(raw: NDArray[np.generic], count: int, title: str) -> NDArray[np.int64]:
    """Labels as int64 [N], checked.

    Args:
        raw: What a file or data set gave: integers [N] or [N, 1].
        count: The number of images.
        title: Name of the data set for messages.

    Raises:
        DataError: Wrong kind, shape or number, or a negative class, or one of more than anything has.
    """
    labels = raw.reshape(-1) if raw.ndim == 2 and raw.shape[1] == 1 else raw
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{title}: labels of shape {raw.shape} and type {raw.dtype}",
            "give one integer per image, from 0; one-hot rows become that by argmax(1)",
        )
    if len(labels) != count:
        raise DataError(f"{title}: {count} images but {len(labels)} labels", "make the file again from whole data")
    if count and int(labels.min()) < 0:
        raise DataError(f"{title}: a label of {int(labels.min())}", "number the classes from 0")
    if count and int(labels.max()) >= MAX_OUTPUTS:
        raise DataError(
            f"{title}: a label of {int(labels.max()):,}, and {MAX_OUTPUTS:,} classes are the most",
            "number the classes from 0, without gaps",
        )
    return labels.astype(np.int64)
