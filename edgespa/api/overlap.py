"""Whether a model is judged on images that it was made with."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping

import numpy as np

from edgespa.data import ImageData, Prepared
from edgespa.data.inputs import arguments

log = logging.getLogger(__name__)

LOOKED_AT = 1000
_CHUNK = 256


def tell_overlap(test: ImageData, seen: Mapping[str, Prepared]) -> float:
    """Warn of test images that something was learned from or chosen by; a part of many is looked at.

    They are compared as the model gets them, so the same picture in another file is found, too.

    Args:
        test: Of ``--eval-data``.
        seen: Option -> its images.

    Returns:
        The largest share of the test images that one of them has, in [0, 1].
    """
    if not seen or not len(test):
        return 0.0
    shares = [0.0]
    chosen = test.subset(_spread(len(test)))
    digests = list(_digests(next(iter(seen.values())).likewise(chosen), np.arange(len(chosen))))
    for option, images in seen.items():
        # What is not in memory would be decoded for this alone. Of equal sets equal parts are taken.
        known = set(_digests(images, np.arange(len(images)) if images.cached else _spread(len(images))))
        count = sum(digest in known for digest in digests)
        shares.append(count / len(chosen))
        if not count:
            continue
        of = f"{len(chosen):,}{'' if len(chosen) == len(test) else ' looked at'}"
        log.warning(
            "--eval-data %s has the very images of %s %s (%s of %s): what is measured there says %s about new images",
            test.name,
            option,
            images.name,
            f"{count:,}",
            of,
            "nothing" if count == len(chosen) else "less",
        )
    return max(shares)


def tell_trained_on(test: ImageData, trained_on: object) -> None:
    """Warn of test data of the name that a task's training data had.

    Args:
        test: Of ``--eval-data``.
        trained_on: The name that the task records; anything but a text is none.
    """
    if isinstance(trained_on, str) and trained_on.partition(", ")[0] == test.name.partition(", ")[0]:
        log.warning(
            "the task was learned on data of the name %s: what is measured on --eval-data of that name may be no test "
            "accuracy",
            trained_on,
        )


def _spread(count: int) -> np.ndarray:
    """At most `LOOKED_AT` positions, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(np.int64))


def _digests(images: Prepared, positions: np.ndarray) -> Iterator[bytes]:
    for start in range(0, len(positions), _CHUNK):
        chunk = positions[start : start + _CHUNK]
        batch = arguments(images.tensor(chunk)) if images.preprocessed else (images.pixels(chunk),)
        parts = [each.movedim(axis, 0).numpy() for each, axis in zip(batch, images.axes, strict=True)]
        for items in zip(*parts, strict=True):
            content = b"".join(np.ascontiguousarray(item).tobytes() for item in items)
            yield hashlib.blake2b(content, digest_size=16).digest()
