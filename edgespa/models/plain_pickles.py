"""Pickles that ``torch.save`` did not write, read without making anything: `pickle` itself is not asked.

The instructions of a pickle are gone through one by one (``pickletools`` parses them). Lists, mappings, numbers, texts
and bytes are taken; what a pickle would import is a name, what it would call gives an object without content, and of
numpy's arrays what `edgespa.models.arrays` makes tensors of.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgespa.errors import WeightsError
from edgespa.models.arrays import NUMPY, Array, Kind, Nothing

_TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""With which a file of the older format of ``torch.save`` begins: its number, as a pickle of its own."""
_MOST_STEPS = 1_000_000
"""Of a state dict of 25,000 arrays, in protocol 2."""
_AGAIN = "download or copy the file again, or save the weights as .safetensors"
_TENSORS = ("torch._utils", "torch.storage", "torch._C")
_ARGUMENTS = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
)  # fmt: skip
_VALUES = MappingProxyType({"NONE": None, "NEWTRUE": True, "NEWFALSE": False})
_EMPTY: MappingProxyType[str, Callable[[], Any]] = MappingProxyType(
    {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": Nothing}
)
_IGNORED = ("PROTO", "FRAME", "READONLY_BUFFER")


def is_plain_pickle(path: Path) -> bool:
    """Whether a file is a pickle, and none of ``torch.save``.

    Args:
        path: From wherever.
    """
    with path.open("rb") as stream:
        head = stream.read(32)
    return head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5") and _TORCH_MAGIC not in head


def read_plain_pickle(path: Path) -> object:
    """What is pickled in a file: plain containers, numbers, texts, `Array`, and `Nothing` for all else.

    Raises:
        WeightsError: It is damaged, has tensors of torch in it, or goes on without an end.
    """
    content = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd texts in a file
            return _Machine(len(content), path).run(content)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise WeightsError(f"weights {path}: not a whole pickle: {reason or type(error).__name__}", _AGAIN) from error


class _Name(str):
    """Of what would be imported."""


_MARK = object()


class _Machine:
    """A stack and a memo; see Lib/pickletools.py for what each instruction does to them."""

    def __init__(self, size: int, path: Path) -> None:
        self.path, self.left = path, size
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> object:
        for steps, (instruction, argument, _) in enumerate(pickletools.genops(content)):
            if steps > _MOST_STEPS:
                raise WeightsError(
                    f"weights {self.path}: a pickle of more than {_MOST_STEPS:,} instructions",
                    "save the weights as .safetensors",
                )
            if instruction.name == "STOP":
                return self.stack.pop()
            self._do(instruction.name, argument)
        raise ValueError("it has no end")

    def _do(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _ARGUMENTS:
            stack.append(argument)
        elif name in _VALUES:
            stack.append(_VALUES[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _IGNORED:
            pass
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(argument)])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._marked()
        else:
            self._make(name, argument)

    def _make(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name == "LIST":
            stack.append(self._marked())
        elif name == "DICT":
            stack.append(self._filled({}, self._marked()))
        elif name in ("APPEND", "APPENDS"):
            added = [stack.pop()] if name == "APPEND" else self._marked()
            if isinstance(stack[-1], list):
                stack[-1].extend(added)
        elif name in ("SETITEM", "SETITEMS"):
            pairs = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._marked()
            if isinstance(stack[-1], dict):
                self._filled(stack[-1], pairs)
        elif name == "GLOBAL":
            stack.append(self._named(*str(argument).split(" ", 1)))
        elif name == "STACK_GLOBAL":
            own = stack.pop()
            stack.append(self._named(str(stack.pop()), str(own)))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack.append(self._called(stack.pop(), arguments))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Array | Kind):
                stack[-1].__setstate__(state)
        else:
            self._drop(name)

    def _drop(self, name: str) -> None:
        """What gives an object without content, whatever it is of."""
        if name in ("ADDITEMS", "FROZENSET", "OBJ", "INST"):
            self._marked()
        elif name == "NEWOBJ_EX":
            del self.stack[-3:]
        elif name == "BINPERSID":
            self.stack.pop()
        elif name not in ("PERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER"):
            raise ValueError(f"the instruction {name} is not known")
        if name != "ADDITEMS":
            self.stack.append(Nothing())

    def _marked(self) -> list[Any]:
        """All behind the last mark."""
        at = next((at for at in range(len(self.stack) - 1, -1, -1) if self.stack[at] is _MARK), None)
        if at is None:
            raise ValueError("it has no mark")
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def _named(self, module: str, name: str = "") -> _Name:
        if module.startswith(_TENSORS):
            target = self.path.with_suffix(".pth").name
            raise WeightsError(
                f"weights {self.path}: tensors that were pickled without torch.save",
                "write them by torch.save, only if you trust their maker, for this runs what is in it:\n"
                "    import pathlib, pickle, torch\n"
                f"    torch.save(pickle.loads(pathlib.Path({str(self.path)!r}).read_bytes()), {target!r})",
            )
        return _Name(f"{module}.{name}"[:200])

    def _called(self, what: object, arguments: object) -> object:
        given = arguments if isinstance(arguments, tuple) else ()
        if not isinstance(what, _Name):
            return Nothing()
        if what in NUMPY:
            return NUMPY[what](*given)
        if what == "collections.OrderedDict":
            pairs = given[0] if given and isinstance(given[0], list) else []
            self._spend(len(pairs))
            flat = [part for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2 for part in pair]
            return self._filled({}, flat)
        if what == "_codecs.encode" and given and isinstance(given[0], str):  # bytes, up to protocol 2
            self._spend(len(given[0]))
            return given[0].encode("latin-1")
        return Nothing()

    def _spend(self, count: int) -> None:
        """What is copied once is in the file once."""
        self.left -= count
        if self.left < 0:
            raise ValueError("it makes more than it has")

    @staticmethod
    def _filled(mapping: dict[Any, Any], pairs: list[Any]) -> dict[Any, Any]:
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if isinstance(key, str | bytes | int | float):
                mapping[key] = value
        return mapping
