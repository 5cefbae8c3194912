"""State dicts of numpy arrays, as Detectron2's model zoo and older tools pickle them: arrays become tensors.

numpy makes none of them: what a pickle says of an array (its sizes, the kind of its numbers, its bytes) is kept as it
is written, looked at, and copied into a tensor. Arrays of anything but plain numbers stay objects without content.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgespa.errors import WeightsError
from edgespa.system.bounds import shown

_KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")
_MOST_SIZES = 32
_AGAIN = "download or copy the file again; if it stays so, do not use it"


class Nothing:
    """Stands for an object of a class that is not made."""

    def __new__(cls, *_: Any, **__: Any) -> Nothing:
        """Whatever it is called with."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class Array(Nothing):
    """What a pickle says of an array.

    Attributes:
        state: As ``numpy.ndarray.__setstate__`` takes it: version, sizes, kind, whether columns come first, bytes.
    """

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class Kind(Nothing):
    """What it says of the kind of numbers.

    Attributes:
        name: As ``f4``.
        order: Of the bytes.
    """

    order: object = "|"

    def __init__(self, name: object = None, *_: Any, **__: Any) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 else None


class Made(Nothing):
    """Stands for ``_reconstruct``, which makes an array without content, to be filled."""

    def __new__(cls, *_: Any, **__: Any) -> Nothing:  # type: ignore[misc]  # what numpy's function gives
        """An array, of whatever class."""
        return Array()


class Filled(Nothing):
    """Stands for ``_frombuffer``, which makes an array of its bytes."""

    def __new__(  # type: ignore[misc]  # what numpy's function gives
        cls, data: object = None, kind: object = None, sizes: object = None, order: object = "C", *_: Any
    ) -> Nothing:
        """An array."""
        made = Array()
        made.__setstate__((1, sizes, kind, order == "F", data))
        return made


class Empty(Nothing):
    """Stands for ``bytes``, which is called in protocol 2 for those of an array without numbers."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """No bytes."""
        return b""


NUMPY: Mapping[str, type[Nothing]] = MappingProxyType(
    {
        "numpy.ndarray": Array,
        "numpy.dtype": Kind,
        **{f"{module}.bytes": Empty for module in ("builtins", "__builtin__")},
        **{f"numpy.{core}.multiarray._reconstruct": Made for core in ("core", "_core")},
        **{f"numpy.{core}.numeric._frombuffer": Filled for core in ("core", "_core")},
    }
)
"""Names in pickles -> what they are read as."""


def with_tensors(content: object, path: Path, most: int) -> object:
    """A checkpoint whose state dicts are of numpy arrays, with tensors in their place.

    One that has tensors is given back as it is: arrays beside them are records. So are those beside a mapping of them.

    Args:
        content: Plain containers with `Array` in them.
        path: Of the file, for messages.
        most: Bytes that the tensors may have together.

    Raises:
        WeightsError: An array is not what it says, or there is more of them than the file can hold.
    """
    if _holds(content, Tensor, {}) or not _holds(content, Array, {}):
        return content
    return _Converted(path, most).of(content)


def _holds(value: object, kind: type, known: dict[int, bool]) -> bool:
    """Whether one of a kind is in a nest of mappings, which may have itself in it."""
    if isinstance(value, kind):
        return True
    if not isinstance(value, Mapping):
        return False
    if id(value) not in known:
        known[id(value)] = False
        known[id(value)] = any([_holds(each, kind, known) for each in value.values()])
    return known[id(value)]


class _Converted:
    def __init__(self, path: Path, most: int) -> None:
        self.path, self.left = path, most
        self._made: dict[int, Any] = {}
        self._known: dict[int, bool] = {}

    def of(self, value: object, name: str = "") -> object:
        """A value with tensors in the place of arrays; what is there twice is made once."""
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, Array):
            self._made[id(value)] = self._tensor(value, name)
            return self._made[id(value)]
        if not isinstance(value, Mapping):
            return value
        made: dict[Any, Any] = {}
        self._made[id(value)] = made
        deeper = any(isinstance(each, Mapping) and _holds(each, Array, self._known) for each in value.values())
        for key, each in value.items():
            made[key] = each if deeper and isinstance(each, Array) else self.of(each, str(key)[:100])
        return made

    def _tensor(self, array: Array, name: str) -> Tensor | Array:
        """The tensor of an array; of one of other things than numbers the array itself."""
        state = array.state
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            return array
        sizes, kind, by_columns, data = state[-4:]
        if not isinstance(kind, Kind) or kind.name not in _KINDS or kind.order not in ("<", ">", "|", "="):
            return array
        if isinstance(data, str):  # bytes of Python 2
            data = data.encode("latin-1", "replace")
        if not isinstance(data, bytes | bytearray):
            return array
        if (
            not isinstance(sizes, tuple)
            or len(sizes) > _MOST_SIZES
            or not all(type(size) is int and 0 <= size < 1 << 48 for size in sizes)
        ):
            raise self._wrong(name, "its sizes are none")
        numbers = np.dtype(f"{'=' if kind.order == '|' else kind.order}{kind.name}")
        count = math.prod(sizes)
        if count * numbers.itemsize != len(data):
            shape = "x".join(map(str, sizes)) or "1"
            raise self._wrong(name, f"it would be {shape} of {kind.name}, and has {len(data):,} bytes")
        self.left -= len(data)
        if self.left < 0:
            raise self._wrong(name, "it has the bytes of others, over and over")
        if not count:
            return torch.zeros(sizes, dtype=torch.from_numpy(np.zeros(1, numbers.newbyteorder("="))).dtype)
        flat = np.frombuffer(data, numbers).astype(numbers.newbyteorder("="))  # a copy, which torch may write to
        shaped = flat.reshape(sizes, order="F" if by_columns else "C")
        return torch.from_numpy(np.ascontiguousarray(shaped).reshape(sizes))

    def _wrong(self, name: str, what: str) -> WeightsError:
        return WeightsError(f"weights {self.path}: the array {shown(name)} is damaged: {what}", _AGAIN)
