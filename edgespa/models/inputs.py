"""Sizes of a model's inputs, as they are typed and recorded: ``1,3,224,224``, ``1,16:int64``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Self

from edgespa.errors import ConfigError

_DIGITS = 9
TYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclasses.dataclass(frozen=True)
class InputSize:
    """One input of a model.

    Attributes:
        shape: Its sizes, the batch first; at least one, each at least 1.
        dtype: Name of its element type, one of `TYPES`; None for that of the model's weights.
    """

    shape: tuple[int, ...]
    dtype: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``1,3,32,32``, also with ``x`` between the sizes or brackets around them, and ``:TYPE`` behind them.

        Raises:
            ConfigError: It says which part is wrong, and shows one that is right.
        """
        sizes, colon, dtype = text.strip().partition(":")
        dtype = dtype.strip()
        if colon and dtype not in TYPES:
            raise ConfigError(f"'{dtype}' in '{text}' is not an element type", f"write one of {', '.join(TYPES)}")
        shape = []
        for part in (part.strip() for part in re.split("[,x]", sizes.strip().strip("()[]"))):
            if not (part.isascii() and part.isdigit()):
                what = f"'{part}' is not a whole number" if part else "a size is missing"
                raise ConfigError(f"{what} in '{text}'", "write the sizes with commas, as in 1,3,32,32")
            if not part.strip("0"):
                raise ConfigError(f"a size of 0 in '{text}'", "every size is at least 1, as in 1,3,32,32")
            if len(part.lstrip("0")) > _DIGITS:
                raise ConfigError(f"a size of {part[:40]}", "give the sizes of one small batch, as in 1,3,32,32")
            shape.append(int(part))
        if len(shape) == 1 and shape != [1]:  # no batch, most likely; an input of one number per sample is 1
            raise ConfigError(
                f"'{text}' is one size only", "write the batch first, then one sample's: 1,3,32,32 or 1,16:int64"
            )
        return cls(tuple(shape), dtype or None)

    def __str__(self) -> str:
        return ",".join(map(str, self.shape)) + (f":{self.dtype}" if self.dtype else "")


InputSizes = tuple[int, ...] | tuple[InputSize, ...]
"""The sizes of a model's only input, or one `InputSize` for each of its inputs, in the order of ``forward``."""


def as_inputs(given: InputSizes | None) -> tuple[InputSize, ...]:
    """One `InputSize` per input; none for None."""
    sizes: Sequence[int | InputSize] = given or ()
    several = tuple(each for each in sizes if isinstance(each, InputSize))
    if several or not sizes:
        return several
    return (InputSize(tuple(int(each) for each in sizes if not isinstance(each, InputSize))),)
