"""Metadata in TFLite files, as TensorFlow Lite's Task Library and Android Studio read them: normalisation and labels.

The format is ``metadata_schema.fbs`` 1.1.0 of tflite-support: a FlatBuffer under the name ``TFLITE_METADATA``, and the
labels as a zip behind the model. No package that writes it installs beside a current Python, so the few tables that are
needed are written here, by their numbers in that schema.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgespa.bundle import LABELS
from edgespa.config import Preprocess
from edgespa.exporting.tflite_packed import packed
from edgespa.pixels.values import SCALINGS
from edgespa.system.quiet import quiet

NAME, IDENTIFIER, PARSER = "TFLITE_METADATA", b"M001", "1.0.0"
_IMAGE, _NORMALIZATION, _AXIS_LABELS = 2, 1, 2
_COLORS = {1: 2, 3: 1}
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_metadata(
    path: Path,
    title: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    preprocess: Preprocess | None = None,
    pixels: bool = False,
    classes: Sequence[str] = (),
) -> None:
    """Write a file again with metadata, its constants aligned to 16 bytes.

    Args:
        path: A TFLite file.
        title: Name of the model.
        inputs: Names of its inputs, in their order.
        outputs: Names of its outputs.
        preprocess: From image to the first input; None if it is not an image.
        pixels: The file normalises by itself: its input are pixels.
        classes: Labels of the first output.
    """
    content = _metadata(title, inputs, outputs, preprocess, pixels, bool(classes))
    with quiet("flatbuffers"):
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.read_model(str(path))
        kept = [each for each in model.metadata or [] if _text(each.name) != NAME]
        buffer = schema.BufferT()
        buffer.data = content
        model.buffers = [*model.buffers, buffer]
        entry = schema.MetadataT()
        entry.name, entry.buffer = NAME, len(model.buffers) - 1
        model.metadata = [*kept, entry]
        written = packed(model)
    path.write_bytes(written + (_labels_zip(classes) if classes else b""))


def read_labels(path: Path) -> list[str]:
    """The labels behind a model; empty if there are none.

    Args:
        path: A TFLite file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(LABELS).decode("utf-8").splitlines()
    except (zipfile.BadZipFile, KeyError):
        return []


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _labels_zip(classes: Sequence[str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS, _EPOCH), "\n".join(classes) + "\n")
    return stream.getvalue()


def _metadata(
    title: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    preprocess: Preprocess | None,
    pixels: bool,
    labelled: bool,
) -> bytes:
    import flatbuffers

    write = _Writer(flatbuffers.Builder(1024))
    image = None if preprocess is None else _image(write, preprocess)
    units = None if preprocess is None else write.tables([_normalisation(write, preprocess, pixels)])
    files = write.tables([write.table({0: write.text(LABELS), 2: ("int8", _AXIS_LABELS)}, 4)]) if labelled else None
    takes = [write.table({0: write.text("image" if image else inputs[0]), 3: image, 4: units}, 7)]
    takes += [write.table({0: write.text(name)}, 7) for name in inputs[1:]]
    gives = [write.table({0: write.text("scores" if labelled else outputs[0]), 6: files}, 7)]
    gives += [write.table({0: write.text(name)}, 7) for name in outputs[1:]]
    graph = write.table({2: write.tables(takes), 3: write.tables(gives)}, 7)
    root = write.table({0: write.text(title), 3: write.tables([graph]), 7: write.text(PARSER)}, 8)
    write.builder.Finish(root, file_identifier=IDENTIFIER)
    return bytes(write.builder.Output())


def _image(write: _Writer, how: Preprocess) -> int:
    """Content of an image: its colours and size."""
    size = write.table({0: ("uint32", how.width), 1: ("uint32", how.height)}, 2)
    colours = _COLORS.get(how.channels, 0) if how.channel_order == "rgb" else 0  # there is no word for others
    properties = write.table({0: ("int8", colours), 1: size}, 2)
    return write.table({0: ("uint8", _IMAGE), 1: properties}, 3)


def _normalisation(write: _Writer, how: Preprocess, pixels: bool) -> int:
    """``(pixel - mean) / std``, pixels from 0 to 255; nothing to do where the file does it."""
    by, less = SCALINGS[how.scale]
    mean = [0.0] if pixels else [by * (value + less) for value in how.mean]
    std = [1.0] if pixels else [by * value for value in how.std]
    options = write.table({0: write.floats(mean), 1: write.floats(std)}, 2)
    return write.table({0: ("uint8", _NORMALIZATION), 1: options}, 2)


class _Writer:
    """Tables by the numbers of their fields."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def text(self, value: str) -> int:
        return int(self.builder.CreateString(value))

    def floats(self, values: Sequence[float]) -> int:
        self.builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self.builder.PrependFloat32(value)
        return int(self.builder.EndVector())

    def tables(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
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
                    "uint32": self.builder.PrependUint32Slot,
                }[kind](slot, number, 0)
            elif value is not None:
                self.builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return int(self.builder.EndObject())
