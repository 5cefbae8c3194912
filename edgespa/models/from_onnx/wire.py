"""How much there is in a protocol buffer, before anything is made of it.

A field of two bytes becomes an object of a hundred: a file that is small may fill the memory when it is parsed.
"""

from __future__ import annotations

from edgespa.bundle.external import _WITHIN, _fields  # the walk that the files of bundles are held to, too

MOST_FIELDS = 1 << 20
_MOST_DEPTH = 100
_OF_TYPES: dict[str, dict[int, str]] = {
    "value": {2: "type", 4: "entry"},
    "type": {1: "typed", 4: "typed", 5: "typed", 8: "typed", 9: "typed"},
    "typed": {1: "type", 2: "shape"},
    "shape": {1: "entry"},
    "entry": {},
}
_WALKED: dict[str, dict[int, str]] = {
    **_WITHIN,
    **_OF_TYPES,
    "graph": {**_WITHIN["graph"], 11: "value", 12: "value", 13: "value", 14: "entry", 16: "entry"},
    "node": {**_WITHIN["node"], 9: "entry"},
    "attribute": {**_WITHIN["attribute"], 14: "type", 15: "type"},
}


def count_fields(content: bytes) -> int:
    """Messages, texts and arrays of an ONNX file.

    Args:
        content: The file.

    Returns:
        The count; more than `MOST_FIELDS` is not counted further.

    Raises:
        ValueError: If it is no whole protocol buffer.
    """
    count = 0
    waiting: list[tuple[memoryview, str, int]] = [(memoryview(content), "model", 0)]
    while waiting:
        part, message, depth = waiting.pop()
        if depth > _MOST_DEPTH:
            raise ValueError("graphs within graphs without an end")
        for number, inner in _fields(part):
            count += 1
            if count > MOST_FIELDS:
                return count
            within = _WALKED[message].get(number)
            if within is not None:
                waiting.append((inner, within, depth + 1))
    return count
