"""Which names and sizes are taken, wherever they come from: task files, manifests, folders, archives, options.

A name becomes a line of ``labels.txt``, a cell of a table, a part of a JSON document: what would end the line, cannot
be written as UTF-8 or turns the text around is refused where it comes in. Sizes are bounded before memory is taken for
them: far above what any small device runs, and far below what fills a computer.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

MAX_NAME = 500
MAX_ELEMENTS = 1 << 26
"""Of an input, and of an image: 256 MiB in float32, as `edgespa.bundle.limits` has it."""
MAX_OUTPUTS = 1 << 20
MAX_COUNT = 1 << 53
"""Of anything that is counted: a float holds it exactly."""
_DEPTH = 100
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def name_problem(text: str) -> str | None:
    """Why a text cannot be a name; None where it can.

    Args:
        text: Of a class, a task, a tensor.
    """
    if not text.strip():
        return "is empty"
    if len(text) > MAX_NAME:
        return f"is longer than {MAX_NAME} characters"
    if text != text.strip():
        return "begins or ends with a blank"
    return text_problem(text, lines=False)


def text_problem(text: str, *, lines: bool = True) -> str | None:
    """Why a text cannot be shown and written; None where it can.

    Args:
        text: Any.
        lines: It may have several.
    """
    for character in text:
        kind = unicodedata.category(character)
        if kind == "Cs":
            return "is not UTF-8"
        if kind in ("Zl", "Zp") or (kind == "Cc" and not (lines and character in "\n\r\t")):
            return "has a line break" if character in "\n\r\x0b\x0c\x85\u2028\u2029" else "has a control character"
        if character in _TURNING:
            return "has characters that turn the text around"
    return None


def names_problem(names: Iterable[str]) -> str | None:
    """What is wrong with the first of several names that cannot be one, with the name; None where all can."""
    for name in names:
        if problem := name_problem(name):
            return f"the name {shown(name)} {problem}"
    return None


def sizes_problem(sizes: Sequence[int]) -> str | None:
    """Why numbers cannot be the sizes of an input or an image; None where they can."""
    if not sizes:
        return "there are no sizes"
    if min(sizes) < 1:
        return f"a size of {min(sizes)}"
    if any(size > MAX_ELEMENTS for size in sizes) or math.prod(sizes) > MAX_ELEMENTS:
        return f"more than {MAX_ELEMENTS:,} elements"
    return None


def oddity(value: Any, depth: int = 0) -> str | None:
    """What nothing in a document of ours has: numbers beyond counting, text that is not UTF-8, nests without an end.

    Args:
        value: Decoded JSON or TOML.
        depth: How deep it lies.
    """
    if depth > _DEPTH:
        return "values in values without an end"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_COUNT:
        return f"a number beyond {MAX_COUNT:,}"
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite"
    if isinstance(value, str) and any(unicodedata.category(each) == "Cs" for each in value):
        return f"the text {shown(value)} is not UTF-8"
    if isinstance(value, dict):
        parts: Iterable[Any] = (*value.keys(), *value.values())
    else:
        parts = value if isinstance(value, list | tuple) else ()
    return next((found for part in parts if (found := oddity(part, depth + 1))), None)


def shown(text: str, most: int = 80) -> str:
    """A text that may hold anything, for a message: in quotes, on one line, shortened."""
    plain = ascii(text) if text_problem(text, lines=False) else repr(text)
    return plain if len(plain) <= most else f"{plain[: most - 4]}...{plain[-1]}"


def readable(text: str) -> str:
    """A text as it can be shown and written: a question mark stands for each character that cannot."""
    return "".join(each if text_problem(each, lines=False) is None else "?" for each in text)


def _name(text: str) -> str:
    if problem := name_problem(text):
        raise ValueError(f"{shown(text)} {problem}")
    return text


def _sizes(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if problem := sizes_problem(sizes):
        raise ValueError(problem)
    return sizes


Name = Annotated[str, AfterValidator(_name)]
"""A field that holds a name."""
Sizes = Annotated[tuple[int, ...], AfterValidator(_sizes)]
"""A field that holds the sizes of an input."""
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
"""A field that holds how many there are."""
Figure = Annotated[float, Field(strict=True)]
"""A field that holds a number, and no text that reads as one: ``"NaN"`` does."""
