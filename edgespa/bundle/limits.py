"""How large what a manifest describes may be: asked before anything is made of its sizes.

It stands alone, for the runner of a bundle is made of it, too: Python 3.8 or newer and nothing else. Every size of a
manifest that something is allocated by is bounded here; what lies in files is as large as the files are, or is unpacked
up to what is described.
"""

from __future__ import annotations

from collections.abc import Sequence  # for annotations only: Python 3.8 cannot subscript it

MAX_MANIFEST_BYTES = 4 << 20
MAX_VARIANTS = 256
MAX_TENSORS = 256
"""Inputs, or outputs, of a file."""
MAX_RANK = 16
MAX_ELEMENTS = 1 << 26
"""Of one sample of all inputs together, or of all outputs: 256 MiB in float32, a picture of 4 x 4096 x 4096."""
MAX_SAMPLES = 64
"""That are recorded."""
MAX_DIGITS = 20
"""Of a whole number: more are none that anything is counted by, and take time with their square."""


def shapes_problem(what: str, shapes: Sequence[Sequence[object]]) -> str | None:
    """Why tensors of these shapes are too many or too large, in words; None if they are not.

    Args:
        what: They are, for the words.
        shapes: Sizes; one that is free is a word, and counts as 1.
    """
    if len(shapes) > MAX_TENSORS:
        return f"{len(shapes):,} {what}: more than {MAX_TENSORS}"
    total = 0
    for shape in shapes:
        if len(shape) > MAX_RANK:
            return f"{what} of {len(shape)} dimensions: more than {MAX_RANK}"
        elements = 1
        for size in shape:
            if isinstance(size, str):
                continue
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                return f"{what} with a size of {str(size)[:MAX_DIGITS]}"
            elements = min(elements * size, 10**18)
        total += elements
    if total > MAX_ELEMENTS:
        return f"{what} of {total:.3g} numbers: more than {MAX_ELEMENTS:,}"
    return None


def picture_problem(channels: object, height: object, width: object) -> str | None:
    """Why a picture is too large to be an input, in words; None if it is not."""
    return shapes_problem("pictures", [[channels, height, width]])


def whole_number(text: str) -> int:
    """A whole number of JSON.

    Raises:
        ValueError: It has more digits than any size.
    """
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{text[:MAX_DIGITS]}... is too large for a whole number")
    return int(text)
