"""Large constants of a TFLite file that are no layer's weights: in int8 too."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.exporting.tflite_packed import packed
from edgespa.system.quiet import quiet

_LEAST_TERM_BYTES = 4096


def store_terms(path: Path) -> None:
    """Large constants that are added or multiplied, such as position embeddings: in int8, made float as the file loads.

    ai-edge-quantizer leaves them as they are where it leaves their operator, which computes faster in float. Not every
    constant bears it: the places of a YOLO11n's anchors, up to 40 and exact, cost it 0.05 of mAP@50:95.

    Args:
        path: A file with quantised layers; it is written again.
    """
    with quiet("flatbuffers"):
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.read_model(str(path))
        graph, kinds = model.subgraphs[0], schema.BuiltinOperator
        codes = [each.builtinCode for each in model.operatorCodes]
        if kinds.DEQUANTIZE not in codes:
            return
        added = []
        holders = Counter(int(tensor.buffer) for tensor in graph.tensors)
        for index in sorted(
            {int(each) for node in graph.operators if codes[node.opcodeIndex] in _terms(kinds) for each in node.inputs}
        ):
            tensor = graph.tensors[index]
            content = model.buffers[tensor.buffer].data
            if content is None or tensor.type != schema.TensorType.FLOAT32 or len(content) < _LEAST_TERM_BYTES:
                continue
            if holders[int(tensor.buffer)] > 1:
                continue
            values = np.frombuffer(bytes(content), dtype=np.float32)
            scale = float(np.abs(values).max()) / 127
            if not np.isfinite(scale) or not scale:
                continue
            stored = copy.copy(tensor)
            stored.name, stored.type = tensor.name + b"_stored", schema.TensorType.INT8
            stored.quantization = schema.QuantizationParametersT()
            stored.quantization.scale, stored.quantization.zeroPoint = [scale], [0]
            model.buffers[tensor.buffer].data = np.round(values / scale).astype(np.int8).view(np.uint8)
            tensor.buffer = 0  # the empty one
            graph.tensors.append(stored)
            node = schema.OperatorT()
            node.opcodeIndex = codes.index(kinds.DEQUANTIZE)
            node.inputs, node.outputs = [len(graph.tensors) - 1], [index]
            added.append(node)
        if added:
            graph.operators = [*added, *graph.operators]
            path.write_bytes(packed(model))


def _terms(kinds: Any) -> tuple[int, ...]:
    return kinds.ADD, kinds.SUB, kinds.MUL
