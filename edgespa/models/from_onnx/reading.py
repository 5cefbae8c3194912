"""An ONNX file and the tensors that lie beside it, as one model in memory.

The file is read once; what it names beside it is a plain file of the same folder, or below it: no link, no ``..``, no
path that begins at the root. How much is taken is bounded by what the files hold, before memory is taken for it.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from edgespa.errors import MissingExtraError, ModelError
from edgespa.models.from_onnx.wire import MOST_FIELDS, count_fields
from edgespa.models.imports import nearest_path
from edgespa.system.bounds import shown
from edgespa.system.files import expanded
from edgespa.system.quiet import first_line

MOST_BYTES = (1 << 31) - 1
"""Of the file and all that lies beside it: what a protocol buffer can hold."""
MOST_NODES = 1 << 16
MOST_TENSORS = 1 << 16
_AGAIN = (
    "export it again, or copy the whole file, with what lies beside it; or give the PyTorch model that it was made of"
)
_ELSEWHERE = (
    "weights are read from files in the folder of the ONNX file alone. If you trust this one, put them in it: "
    "python -c "
    "\"import onnx; onnx.save(onnx.load('in.onnx'), 'whole.onnx')\""
)


def read(spec: str) -> Any:
    """An ONNX model with all of its tensors in it.

    Args:
        spec: Path of the file.

    Returns:
        An ``onnx.ModelProto``; nothing in it names a file any more.

    Raises:
        ModelError: The file is missing, damaged, too large, or names files elsewhere.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx") from error
    path = expanded(spec)
    if not path.is_file():
        raise ModelError(
            f"{path}: no such file", nearest_path(path) or "check the path, relative to the current folder"
        )
    if path.stat().st_size > MOST_BYTES:
        raise ModelError(f"{path}: {path.stat().st_size:,} bytes, and an ONNX file holds 2 GiB at most", _AGAIN)
    content = path.read_bytes()
    try:
        fields = count_fields(content)
        if fields > MOST_FIELDS:
            raise ModelError(f"{path}: more than {MOST_FIELDS:,} parts, which no network has", _AGAIN)
        model = onnx.ModelProto()
        model.ParseFromString(content)
    except (ValueError, DecodeError) as error:
        raise ModelError(f"{path}: not a whole ONNX file: {first_line(error)}", _AGAIN) from error
    if not model.graph.node and not model.graph.output:
        raise ModelError(f"{path}: there is no graph in it", _AGAIN)
    _require_few(model, path)
    _take_in(model, path)
    for tensor in _tensors(model.graph):
        _require_whole(tensor, path)
    return model


def _require_few(model: Any, path: Path) -> None:
    nodes, tensors = len(model.graph.node), sum(1 for _ in _tensors(model.graph))
    if nodes > MOST_NODES or tensors > MOST_TENSORS:
        raise ModelError(
            f"{path}: {nodes:,} nodes and {tensors:,} tensors: more than {MOST_NODES:,} of either",
            "simplify it first, for example with onnxsim",
        )


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor of a graph and of the graphs inside it."""
    yield from graph.initializer
    for each in graph.sparse_initializer:
        yield from (each.values, each.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _tensors(inner)


def _take_in(model: Any, path: Path) -> None:
    """Put what lies in files beside the model into it.

    Raises:
        ModelError: A file is elsewhere, missing, too short, or all of them are too large.
    """
    import onnx

    total = 0
    for tensor in _tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {each.key: each.value for each in tensor.external_data}
        offset, length = (_whole_number(entries.get(key, ""), tensor, path) for key in ("offset", "length"))
        size = _declared_bytes(tensor, path)
        if length is not None and length != size:
            raise ModelError(
                f"{path}: tensor {shown(tensor.name)} has {size:,} bytes, and {length:,} are named beside it", _AGAIN
            )
        total += size
        if total > MOST_BYTES:
            raise ModelError(f"{path}: more than 2 GiB of weights lie beside it", "edgespa is for smaller networks")
        tensor.raw_data = _part_of(path, entries.get("location", ""), offset or 0, size)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT


def _whole_number(text: str, tensor: Any, path: Path) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ModelError(f"{path}: tensor {shown(tensor.name)} begins or ends at {shown(text)}", _AGAIN)
    return int(text)


def _part_of(path: Path, location: str, offset: int, size: int) -> bytes:
    """Bytes of a file beside a model; no part of the way to it is a link.

    Raises:
        ModelError: It is not there, elsewhere, or shorter.
    """
    parts = PurePosixPath(location).parts
    if not parts or "\0" in location or location.startswith("/") or ".." in parts or "\\" in location:
        raise ModelError(f"{path}: its weights are said to be in {shown(location)}", _ELSEWHERE)
    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        for number, part in enumerate(parts):
            kind = os.O_DIRECTORY if number < len(parts) - 1 else os.O_NONBLOCK
            try:
                inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{path}: its weights are said to be in {shown(location)}", _ELSEWHERE)
            if status.st_size < offset + size:
                raise ModelError(
                    f"{path}: {shown(location)} beside it has {status.st_size:,} bytes, and {offset + size:,} are "
                    "wanted of it",
                    _AGAIN,
                )
            stream.seek(offset)
            return stream.read(size)
    except FileNotFoundError as error:
        raise ModelError(
            f"{path}: its weights lie in {shown(location)} beside it, which is not there", _AGAIN
        ) from error
    except OSError as error:  # also a link, which O_NOFOLLOW refuses
        raise ModelError(f"{path}: {shown(location)} beside it: {error.strerror}", _ELSEWHERE) from error


def _declared_bytes(tensor: Any, path: Path) -> int:
    """Bytes that a tensor has by its type and sizes."""
    import onnx

    dims = list(tensor.dims)
    if len(dims) > 16 or min(dims, default=0) < 0:
        raise ModelError(f"{path}: tensor {shown(tensor.name)} with sizes {dims[:17]}", _AGAIN)
    try:
        width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: tensor {shown(tensor.name)} of the unknown type {tensor.data_type}", _AGAIN
        ) from error
    bits = {onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4}.get(tensor.data_type, 8 * width)
    return int((math.prod(dims) * bits + 7) // 8)


def _require_whole(tensor: Any, path: Path) -> None:
    """Refuse a tensor that claims more elements than it holds, or of texts.

    Raises:
        ModelError: With its name.
    """
    import onnx

    if tensor.data_type == onnx.TensorProto.STRING:
        raise ModelError(
            f"{path}: tensor {shown(tensor.name)} holds texts", "give a network that takes and gives numbers"
        )
    size = _declared_bytes(tensor, path)
    count = math.prod(tensor.dims)
    held = tensor.raw_data
    if (held and len(held) != size) or (not held and count > _typed_values(tensor)):
        raise ModelError(
            f"{path}: tensor {shown(tensor.name)} claims sizes {list(tensor.dims)} and holds another number of values",
            _AGAIN,
        )


def _typed_values(tensor: Any) -> int:
    """How many values the typed fields of a tensor hold; two 4-bit ones in each."""
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    return 2 * max(len(getattr(tensor, name)) for name in fields)
