"""What a layer is to a stopwatch, besides its widths: operator, kernel, stride, size of the map, what is fused to it.

A kind has a text of one line, which is its name in latency tables: ``conv k3x3 s2x2 p1x1 @112x112 +relu6``. From the
text a file of one such layer can be made, of any widths: two networks that have a kind share its times.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

from edgespa.errors import ConfigError

WEIGHED = ("conv", "depthwise", "grouped", "deconv", "linear")
"""Operators with weights: their time is a function of the widths on both sides (of one, where both are the same)."""

BY_ELEMENTS = (
    *("add", "mul", "mul_channels", "relu", "relu6", "sigmoid", "silu", "hardswish", "hardsigmoid", "gelu"),
    *("tanh", "div", "transpose", "concat", "slice", "mean", "max_pool", "avg_pool", "upsample", "softmax"),
    *("layer_norm", "batch_norm", "matmul"),
)  # fmt: skip
"""Operators without weights to speak of: their time is a function of how many numbers they touch."""

OPERATORS = (*WEIGHED, "attention", *BY_ELEMENTS)
FUSED = ("relu", "relu6", "sigmoid", "silu", "hardswish", "hardsigmoid", "gelu", "tanh", "add")
LONGEST = 160
_MOST, _DIMS, _CHAIN = 1 << 14, 3, 3

_LISTS = {"k": "kernel", "s": "stride", "p": "padding", "d": "dilation"}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Attributes:
        operator: One of `OPERATORS`.
        kernel: Sizes of the kernel; empty where there is none.
        stride: Likewise.
        padding: Likewise, the same on both sides.
        dilation: Likewise.
        size: Of the map that goes in (height, width), or tokens of a linear layer or an attention.
        before: Zeros put around the map by an operator of their own, as torch's pad has them.
        inner: Of operators that work along an axis (softmax, layer norm) its length; channels of one group of a
            grouped convolution, in and out.
        after: What follows and runtimes fuse, in order: some of `FUSED`.
    """

    operator: str
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    size: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    inner: tuple[int, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def axes(self) -> int:
        """Of how many widths its time is a function: 2 of what has other channels out than in, else 1."""
        return 2 if self.operator in ("conv", "deconv", "linear", "attention") else 1

    @property
    def family(self) -> str:
        """Kinds whose widths meet the same blocks of a runtime."""
        if self.operator not in WEIGHED:
            return self.operator
        return f"{self.operator} k1" if self.kernel and set(self.kernel) == {1} else self.operator

    def macs(self, widths: Sequence[int]) -> int:
        """Multiply-accumulates of one sample; 0 of what multiplies no weights.

        Args:
            widths: Channels in and out, or of a depthwise or grouped convolution those that there are.
        """
        if self.operator not in WEIGHED:
            return 0
        places = math.prod(self.size)
        if self.operator in ("conv", "depthwise", "grouped"):
            around = self.before or (0,) * (2 * len(self.size))  # pairs, of the last dimension first
            places = 1
            for at, size in enumerate(self.size):
                before = sum(around[2 * (len(self.size) - 1 - at) :][:2])
                reach = self.dilation[at] * (self.kernel[at] - 1) + 1
                places *= max(0, size + 2 * self.padding[at] + before - reach) // self.stride[at] + 1
        inner = self.inner[-1] if self.operator == "grouped" else 1
        return places * math.prod(self.kernel) * math.prod(widths) * inner

    def __str__(self) -> str:
        words = [self.operator]
        for letter, name in _LISTS.items():
            values = getattr(self, name)
            usual = {"s": 1, "p": 0, "d": 1}.get(letter)
            if values and any(value != usual for value in values):
                words.append(letter + "x".join(map(str, values)))
        if self.before:
            words.append("z" + "x".join(map(str, self.before)))
        if self.inner:
            words.append("w" + "x".join(map(str, self.inner)))
        if self.size:
            words.append("@" + "x".join(map(str, self.size)))
        return " ".join([*words, *(f"+{each}" for each in self.after)])

    @classmethod
    def parse(cls, text: str) -> Kind:
        """A kind from its text, which may come from anywhere.

        Raises:
            ConfigError: It is none, or not written as `Kind` writes it.
        """
        try:
            kind = cls._read(text)
        except (ValueError, KeyError, IndexError) as error:
            raise ConfigError(f"'{text[:LONGEST]}' is no kind of layer: {error}") from None
        if str(kind) != text:
            raise ConfigError(f"'{text[:LONGEST]}' is no kind of layer: it would be written '{kind}'")
        return kind

    @classmethod
    def _read(cls, text: str) -> Kind:
        if len(text) > LONGEST or re.fullmatch(r"[a-z0-9_+@ ]+", text) is None:
            raise ValueError("odd characters, or too many")
        operator, *words = text.split(" ")
        if operator not in OPERATORS:
            raise ValueError(f"unknown operator '{operator}'")
        values: dict[str, tuple[int, ...]] = {}
        after: list[str] = []
        for word in words:
            if word[:1] == "+":
                if word[1:] not in FUSED or len(after) == _CHAIN:
                    raise ValueError(f"unknown '{word}'")
                after.append(word[1:])
                continue
            name = {**_LISTS, "z": "before", "w": "inner", "@": "size"}[word[:1]]
            numbers = tuple(int(each) for each in word[1:].split("x"))
            if name in values or len(numbers) > 2 * _DIMS or not all(0 <= each <= _MOST for each in numbers):
                raise ValueError(f"'{word}' is out of range")
            values[name] = numbers
        if "kernel" in values:
            rank = len(values["kernel"])
            usual = {"stride": (1,) * rank, "padding": (0,) * rank, "dilation": (1,) * rank}
            values = {**usual, **values}
            if any(len(values[name]) != rank for name in ("stride", "padding", "dilation")) or 0 in values["stride"]:
                raise ValueError("kernel, stride, padding and dilation differ in length, or are 0")
        return cls(operator, after=tuple(after), **values)
