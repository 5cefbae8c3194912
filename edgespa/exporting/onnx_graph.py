"""What the outputs of an ONNX file are made of, and what of it may be in int8."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgespa.quantisation.fitness import Part, Shown

ABSORBED = ("Relu", "Clip")
"""An activation function that int8 ranges already hold disappears into them."""
_IN_FLOAT = ("Gemm", "MatMul")
_SUMS = ("Add", "Sub")
# Nothing is weighed: what is lost of their inputs is lost of their outputs.
_WITHOUT_WEIGHTS = frozenset(
    (
        *(
            "Add",
            "Sub",
            "Mul",
            "Div",
            "Min",
            "Max",
            "Pow",
            "Where",
            "Clip",
            "Cast",
            "Identity",
            "Softmax",
            "LogSoftmax",
        ),
        *("Sigmoid", "Tanh", "Relu", "Elu", "LeakyRelu", "PRelu", "HardSwish", "HardSigmoid", "Gelu", "Swish", "Mish"),
        *("Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Sin", "Cos", "Erf", "Softplus", "Selu", "Celu"),
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat", "Pad", "Gather"),
        *("GatherND", "GatherElements", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Resize", "Upsample"),
        *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "GlobalAveragePool", "GlobalMaxPool"),
        *("AveragePool", "MaxPool"),
    )
)


def parts_of(model: Any, nodes: Iterable[Any]) -> list[Part]:
    """Operators for their judgement; results of matrix products stay in float, whatever they are made of.

    Args:
        model: An ``onnx.ModelProto``.
        nodes: Those of its nodes that may be in int8.
    """
    constants = {each.name for each in model.graph.initializer}
    readers: dict[str, list[Any]] = {}
    kept = {each.name for each in model.graph.output}
    shown = Shown(kept)
    for node in reversed(model.graph.node):  # they are sorted
        for name in node.input:
            readers.setdefault(name, []).append(node)
        if node.op_type in _WITHOUT_WEIGHTS:
            activations = [name for name in node.input if name and name not in constants]
            shown.passed(activations, node.output, sums=node.op_type in _SUMS)
    found = []
    for node in nodes:
        outputs = [name for name in node.output if name]
        only = readers.get(outputs[0], [])
        if len(only) == 1 and only[0].op_type in ABSORBED and outputs[0] not in kept:
            outputs = list(only[0].output)
        found.append(
            Part(
                name=node.name,
                inputs=tuple(name for name in node.input[:1] if name not in constants),
                outputs=() if node.op_type in _IN_FLOAT else tuple(outputs),
                shown=shown.of(outputs),
            )
        )
    return found
