"""Files that an ONNX model refers to: weights beside it, which no digest of the model itself covers.

It stands alone, for the runner of a bundle is made of it, too: Python 3.8 or newer and nothing else. ONNX Runtime
follows such a reference to any file; so what a model refers to must be listed in the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator  # for annotations only: Python 3.8 cannot subscript them

# Fields of onnx.proto that lead to a TensorProto, by message: number -> message.
_WITHIN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_MOST_DEPTH = 200


def external_files(content: bytes | memoryview) -> tuple[str, ...]:
    """The locations that a model's tensors name, each once, in order.

    Args:
        content: An ONNX file.

    Raises:
        ValueError: If it is no whole protocol buffer.
    """
    return tuple(dict.fromkeys(_locations(memoryview(content), "model", 0)))


def _locations(content: memoryview, message: str, depth: int) -> Iterator[str]:
    if depth > _MOST_DEPTH:
        raise ValueError("graphs within graphs without an end")
    if message == "entry":
        texts = {number: bytes(part).decode("utf-8", "replace") for number, part in _fields(content)}
        if texts.get(1) == "location":
            yield texts.get(2, "")
        return
    for number, part in _fields(content):
        within = _WITHIN[message].get(number)
        if within is not None:
            yield from _locations(part, within, depth + 1)


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field that has a length; the others hold numbers."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        kind = key & 7
        if kind == 2:
            size, at = _varint(content, at)
            if size > len(content) - at:
                raise ValueError("a field is cut off")
            yield key >> 3, content[at : at + size]
            at += size
        elif kind == 0:
            at = _varint(content, at)[1]
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
    if at > len(content):
        raise ValueError("a field is cut off")


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(content) and shift < 70:
        byte = content[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("a number is cut off")
