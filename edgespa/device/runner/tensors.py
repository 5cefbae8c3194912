"""Safetensors files, read with numpy alone."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError

MAX_UNPACKED_BYTES = 256 << 20
MAX_HEADER_BYTES = 100 << 20  # the format's own limit
ELEMENTS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def unpacked(path: Path) -> bytes:
    """The content of a gzip file."""
    try:
        with gzip.open(str(path), "rb") as stream:
            content = stream.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RunnerError(f"cannot read {path.name}: {error}") from error
    if len(content) > MAX_UNPACKED_BYTES:
        raise RunnerError(f"{path.name} is larger than {MAX_UNPACKED_BYTES >> 20} MiB when it is unpacked")
    return content


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file by name; they stay in the file until they are read, unless it is a ``.gz``.

    The format: eight bytes that say how long the header is, the header in JSON (for each tensor its type, shape, and
    where its bytes begin and end after the header), then the bytes. bfloat16, which numpy does not know, comes as
    float32.
    """
    try:
        content = np.frombuffer(unpacked(path), np.uint8) if path.suffix == ".gz" else np.memmap(path, np.uint8, "r")
        length = int.from_bytes(content[:8].tobytes(), "little")
        if len(content) < 8 or length > min(len(content) - 8, MAX_HEADER_BYTES):
            raise ValueError("its header is cut off")
        header = json.loads(content[8 : 8 + length].tobytes().decode("utf-8"))
        values = content[8 + length :]
        return {name: _tensor(values, entry) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RunnerError(f"cannot read {path.name}: {error}") from error


def _tensor(content: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    first, last = entry["data_offsets"]
    if not 0 <= first <= last <= len(content):
        raise ValueError("a tensor lies outside of the file")
    if first == last:
        if 0 not in entry["shape"]:
            raise ValueError("a tensor has no values")
        return np.zeros(entry["shape"], ELEMENTS[entry["dtype"]])
    values = content[first:last].view(np.ndarray)
    if values.ctypes.data % 8:  # not all processors read numbers at any address
        values = values.copy()
    array = values.view(ELEMENTS[entry["dtype"]]).reshape(entry["shape"])
    return (array.astype(np.uint32) << 16).view(np.float32) if entry["dtype"] == "BF16" else array
