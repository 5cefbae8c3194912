"""The tables of TFLite metadata, by their numbers in ``metadata_schema.fbs`` of tflite-support."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgespa.config import Preprocess
from edgespa.pixels.values import SCALINGS

DESCRIPTIONS, AXIS_LABELS, VALUE_LABELS = 1, 2, 3
"""What an associated file is: texts, a name for each entry of an axis, a name for each value."""
_IMAGE, _BOXES = 2, 3
_NORMALISATION, _THRESHOLD = 1, 3
_CORNERS, _RATIO, _PIXELS = 1, 0, 1
_COLOURS = {1: 2, 3: 1}
_GREY = 2
_ALIGNED = 16


class Tables:
    """Writes tables by the numbers of their fields.

    Args:
        builder: A ``flatbuffers.Builder``.
    """

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def text(self, value: str | None) -> int | None:
        """A string; None stays None, and so does an empty one, which readers take for one that is not there."""
        return int(self.builder.CreateString(value)) if value else None

    def floats(self, values: Sequence[float]) -> int:
        """A vector of float32."""
        return self._vector(values, self.builder.PrependFloat32)

    def counts(self, values: Sequence[int]) -> int:
        """A vector of uint32."""
        return self._vector(values, self.builder.PrependUint32)

    def rows(self, offsets: Sequence[int]) -> int:
        """A vector of what was written before."""
        return self._vector(offsets, self.builder.PrependUOffsetTRelative)

    def nested(self, content: bytes) -> int:
        """A FlatBuffer inside of this one, aligned as its readers want it."""
        self.builder.StartVector(1, len(content), _ALIGNED)
        for value in reversed(content):
            self.builder.PrependByte(value)
        return int(self.builder.EndVector())

    def _vector(self, values: Sequence[Any], put: Any) -> int:
        self.builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            put(value)
        return int(self.builder.EndVector())

    def table(self, fields: dict[int, Any], count: int) -> int:
        """A table; a field is an offset, None, or a number with its type."""
        self.builder.StartObject(count)
        for slot, value in fields.items():
            if isinstance(value, tuple):
                kind, number = value
                {
                    "int8": self.builder.PrependInt8Slot,
                    "uint8": self.builder.PrependUint8Slot,
                    "int32": self.builder.PrependInt32Slot,
                    "uint32": self.builder.PrependUint32Slot,
                    "float": self.builder.PrependFloat32Slot,
                }[kind](slot, number, 0)
            elif value is not None:
                self.builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return int(self.builder.EndObject())

    def file(self, name: str, kind: int, description: str) -> int:
        """A file that lies in the zip behind the model."""
        return self.table({0: self.text(name), 1: self.text(description), 2: ("int8", kind)}, 5)

    def image(self, how: Preprocess) -> int:
        """Content of an image: its colours and size."""
        size = self.table({0: ("uint32", how.width), 1: ("uint32", how.height)}, 2)
        colours = _COLOURS.get(how.channels, 0) if how.channel_order == "rgb" else 0  # there is no word for others
        properties = self.table({0: ("int8", colours), 1: size}, 2)
        return self.table({0: ("uint8", _IMAGE), 1: properties}, 3)

    def masks(self) -> int:
        """Content of maps that lie in height and width, one for each class."""
        properties = self.table({0: ("int8", _GREY)}, 2)
        return self.table({0: ("uint8", _IMAGE), 1: properties, 2: self._range(1, 2)}, 3)

    def boxes(self, *, ratio: bool) -> int:
        """Content of rows of left, top, right, bottom: in pixels of the input, or of 0 to 1."""
        kind = ("int8", _RATIO if ratio else _PIXELS)
        properties = self.table({0: self.counts([0, 1, 2, 3]), 1: ("int8", _CORNERS), 2: kind}, 3)
        return self.table({0: ("uint8", _BOXES), 1: properties, 2: self._range(2, 2)}, 3)

    def _range(self, first: int, last: int) -> int:
        return self.table({0: ("int32", first), 1: ("int32", last)}, 2)

    def normalisation(self, how: Preprocess, *, inside: bool) -> int:
        """``(pixel - mean) / std``, pixels from 0 to 255; nothing to do where the file does it."""
        by, less = SCALINGS[how.scale]
        mean = [0.0] if inside else [by * (value + less) for value in how.mean]
        std = [1.0] if inside else [by * value for value in how.std]
        options = self.table({0: self.floats(mean), 1: self.floats(std)}, 2)
        return self.table({0: ("uint8", _NORMALISATION), 1: options}, 2)

    def threshold(self, value: float) -> int:
        """Scores below it say nothing."""
        options = self.table({0: ("float", value)}, 1)
        return self.table({0: ("uint8", _THRESHOLD), 1: options}, 2)
