"""Other weights and biases for layers of a TFLite file in float32."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespa.exporting.corrections import Correction
from edgespa.exporting.tflite_graph import Operator
from edgespa.exporting.tflite_packed import packed

Change = Callable[[NDArray[np.float32], NDArray[np.float32] | None], None]
"""Writes into the weights, output channels first, and into the bias, if the layer has one."""


def with_layers(content: bytes, changes: Mapping[str, Change]) -> bytes:
    """The file with changed layers; constants that others read too are left to those.

    Args:
        content: A float file.
        changes: By the scope of the layer; the same bytes come back if there are none.
    """
    if not changes:
        return content
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    model = tfl_flatbuffer_utils.read_model(content)
    graph = model.subgraphs[0]
    holders = Counter(int(tensor.buffer) for tensor in graph.tensors)

    def values(place: int) -> NDArray[np.float32] | None:
        tensor = graph.tensors[place] if place >= 0 else None
        data = model.buffers[tensor.buffer].data if tensor is not None else None
        return None if tensor is None or data is None else np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)

    def put(place: int, array: NDArray[np.float32]) -> None:
        tensor = graph.tensors[place]
        if holders[int(tensor.buffer)] > 1:
            holders[int(tensor.buffer)] -= 1
            buffer: Any = schema.BufferT()
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        model.buffers[tensor.buffer].data = np.frombuffer(array.tobytes(), np.uint8)

    for node in graph.operators:
        change = changes.get(str(tfl_flatbuffer_utils.get_op_scope(node, graph.tensors)))
        weight = values(node.inputs[1]) if change is not None else None
        if change is None or weight is None:
            continue
        weight = weight.copy()
        at = node.inputs[2] if len(node.inputs) > 2 else -1
        bias = values(at)
        bias = None if bias is None else bias.copy()
        kind = model.operatorCodes[node.opcodeIndex].builtinCode
        last = kind == schema.BuiltinOperator.DEPTHWISE_CONV_2D
        change(np.moveaxis(weight, 3, 0) if last else weight, bias)  # a view: what is written there is in the weight
        put(node.inputs[1], weight)
        if bias is not None:
            put(at, bias)
    return packed(model)


def put_in(correction: Correction) -> Change:
    """The change that a correction is.

    Args:
        correction: Of the layer.
    """

    def change(rows: NDArray[np.float32], bias: NDArray[np.float32] | None) -> None:
        rows[...] = correction.rows.reshape(rows.shape)
        if bias is not None:
            bias += correction.shift.reshape(bias.shape)

    return change


def as_corrected(layer: Operator, correction: Correction | None) -> Operator:
    """A layer as it then is.

    Args:
        layer: As it was read.
        correction: Of it.
    """
    if correction is None:
        return layer
    change, rows = put_in(correction), np.empty_like(correction.rows)
    bias = None if layer.bias is None else layer.bias.copy()
    change(rows, bias)
    return dataclasses.replace(layer, weight=rows, bias=bias)
