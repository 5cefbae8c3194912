"""A TFLite file as its quantiser sees it: layers, what lies between them, and what its outputs are made of."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespa.quantisation.fitness import UNLIKE, Part, Shown

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# What lies between convolutions: in int8 too, they save its way to float and back, at some loss.
JOINS = (
    *("ADD", "CONCATENATION", "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD", "STRIDED_SLICE"),
    *("MUL", "LOGISTIC", "HARD_SWISH", "MEAN"),
)
# Of these the output has one scale for parts of several inputs.
_TOGETHER = ("ADD", "CONCATENATION", "PAD")
_SUMS = ("ADD", "SUB")
# Nothing is weighed: what is lost of their inputs is lost of their outputs.
_WITHOUT_WEIGHTS = frozenset(
    (
        *("ADD", "SUB", "MUL", "DIV", "MINIMUM", "MAXIMUM", "POW", "SQUARED_DIFFERENCE", "SELECT", "SELECT_V2"),
        *("LOGISTIC", "TANH", "RELU", "RELU6", "RELU_N1_TO_1", "ELU", "LEAKY_RELU", "PRELU", "HARD_SWISH", "GELU"),
        *("EXP", "LOG", "SQRT", "RSQRT", "SQUARE", "NEG", "ABS", "SIN", "COS", "CAST", "SOFTMAX", "LOG_SOFTMAX"),
        *("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V"),
        *("CONCATENATION", "PACK", "UNPACK", "PAD", "PADV2", "MIRROR_PAD", "GATHER", "GATHER_ND", "TILE"),
        *("BROADCAST_TO", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
        *("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "AVERAGE_POOL_2D", "MAX_POOL_2D"),
    )
)


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes:
        name: In reports: its kind and its place.
        kind: As the quantiser calls it; empty where it does not know it.
        scope: By which the quantiser's rules find it.
        inputs: Names of the activations that it reads.
        outputs: Names of the activations that it writes.
        weight: Of a layer: per output channel in a row, float32.
        bias: Of a layer that has one.
        shown: See `Part`.
    """

    name: str
    kind: str
    scope: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight: NDArray[np.float32] | None
    bias: NDArray[np.float32] | None
    shown: tuple[str, ...]

    @property
    def one_scale(self) -> bool:
        """Whether one scale can stand for the weights of all output channels, where an output is made of them."""
        assert self.weight is not None
        sizes = np.abs(self.weight).max(axis=1)
        return not self.shown or bool(sizes.max() < UNLIKE * sizes.min(where=sizes > 0, initial=np.inf))

    @property
    def part(self) -> Part:
        """For its judgement."""
        return Part(self.name, self.inputs, self.outputs, self.kind in _TOGETHER, self.shown)


def read(source: Path) -> tuple[list[Operator], list[Operator]]:
    """The layers whose weights are constants, and the operators between them that may be in int8 too.

    Args:
        source: A float file.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    model = tfl_flatbuffer_utils.read_model(str(source))
    graph = model.subgraphs[0]
    codes = [each.builtinCode for each in model.operatorCodes]
    builtin = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}

    def content(tensor: int) -> Any:
        return model.buffers[graph.tensors[tensor].buffer].data if tensor >= 0 else None

    def name_of(tensor: int) -> str:
        return str(tfl_flatbuffer_utils.get_tensor_name(graph.tensors[tensor]))

    def values(tensor: int) -> NDArray[np.float32] | None:
        data = content(tensor)
        if data is None or graph.tensors[tensor].type != schema.TensorType.FLOAT32:
            return None
        return np.frombuffer(bytes(data), np.float32).reshape(graph.tensors[tensor].shape)

    layers: list[Operator] = []
    joins: list[Operator] = []
    shown = Shown(name_of(each) for each in graph.outputs)
    for index, node in reversed(list(enumerate(graph.operators))):
        code = codes[node.opcodeIndex]
        # Not all operators are known there, Cast for one.
        known = tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME.get(code)
        kind = known.value if known is not None else ""
        outputs = tuple(name_of(each) for each in node.outputs)
        activations = tuple(name_of(each) for each in node.inputs if each >= 0 and content(each) is None)
        if builtin[code] in _WITHOUT_WEIGHTS:
            shown.passed(activations, outputs, sums=builtin[code] in _SUMS)
        weight = values(node.inputs[1]) if kind in LAYERS and len(node.inputs) > 1 else None
        if kind not in JOINS and weight is None:
            continue
        operator = Operator(
            name=f"{kind.lower()}_{index}",
            kind=kind,
            scope=str(tfl_flatbuffer_utils.get_op_scope(node, graph.tensors)),
            inputs=activations if weight is None else activations[:1],
            outputs=outputs,
            weight=None if weight is None else _rows(kind, weight),
            bias=values(node.inputs[2]) if weight is not None and len(node.inputs) > 2 else None,
            shown=shown.of(outputs),
        )
        (joins if weight is None else layers).append(operator)
    return layers[::-1], joins[::-1]


def _rows(kind: str, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    channels = weight.shape[3] if kind == "DEPTHWISE_CONV_2D" else weight.shape[0]
    last = kind == "DEPTHWISE_CONV_2D"
    return np.moveaxis(weight, 3, 0).reshape(channels, -1) if last else weight.reshape(channels, -1)
