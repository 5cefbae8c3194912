"""From opset 18, the least that torch.onnx writes, down to what older runtimes load.

onnx's own converter refuses some operators that only gained what is not used here; these are put into their older form
first: https://onnx.ai/onnx/operators/ has the history of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgespa.errors import ExportError
from edgespa.exporting.versions import EXPORTER_OPSET

_SAME = frozenset({"Cast", "Identity", "Shape", "Constant", "ConstantOfShape", "Equal", "If", "Loop", "Size"})
_REDUCE = frozenset(
    f"Reduce{name}" for name in ("Max", "Mean", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
)


def step_down(model: Any, opset: int) -> Any:
    """The same model for an older opset.

    Args:
        model: Of opset 18.
        opset: 13 to 17.

    Raises:
        ExportError: If an operator has no older form.
    """
    import onnx
    from onnx import version_converter

    older = onnx.ModelProto()
    older.CopyFrom(model)
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in older.graph.initializer}
    nodes: list[Any] = []
    for node in older.graph.node:
        nodes += _REWRITES.get(node.op_type, _as_it_is)(node, constants, opset)
    del older.graph.node[:]
    older.graph.node.extend(nodes)
    known = {each.name for each in older.graph.initializer}
    used = {name for node in nodes for name in node.input}
    kept = [each for each in older.graph.initializer if each.name in used]
    kept += [onnx.numpy_helper.from_array(v, n) for n, v in constants.items() if n in used and n not in known]
    del older.graph.initializer[:]
    older.graph.initializer.extend(kept)
    # What is left of 18 has the same meaning in 17 where onnx has an adapter or the operator did not change.
    for each in older.opset_import:
        if each.domain in ("", "ai.onnx"):
            each.version = 17 if not _needs_adapter(nodes, EXPORTER_OPSET) else EXPORTER_OPSET
    try:
        result = version_converter.convert_version(older, opset)
        onnx.checker.check_model(result)
    except Exception as error:
        words = str(error).strip().splitlines()[-1][:160]
        raise ExportError(
            f"the program has no form in ONNX opset {opset}: {words}",
            "name a newer --onnx-runtime, or export --format tflite only",
        ) from error
    return result


def _needs_adapter(nodes: list[Any], opset: int) -> bool:
    """Whether an operator that changed in that opset is left."""
    import onnx

    handled = {*_REWRITES, *_SAME}
    return any(
        onnx.defs.get_schema(node.op_type, opset).since_version == opset
        for node in nodes
        if node.domain in ("", "ai.onnx") and node.op_type not in handled
    )


def _as_it_is(node: Any, constants: dict[str, Any], opset: int) -> list[Any]:
    del constants, opset
    return [node]


def _pad(node: Any, constants: dict[str, Any], opset: int) -> list[Any]:
    del constants, opset
    if len(node.input) > 3 and node.input[3]:
        raise ExportError("Pad over named axes has no form before ONNX opset 18", "name a newer --onnx-runtime")
    del node.input[3:]
    return [node]


def _reduce(node: Any, constants: dict[str, Any], opset: int) -> list[Any]:
    """Axes were an attribute before 18."""
    import onnx

    del opset
    kept = [each for each in node.attribute if each.name != "noop_with_empty_axes"]
    del node.attribute[:]
    node.attribute.extend(kept)
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in constants:
            raise ExportError("a reduction over computed axes has no form before ONNX opset 18", "name a newer runtime")
        axes = [int(axis) for axis in constants[node.input[1]].ravel()]
        node.attribute.append(onnx.helper.make_attribute("axes", axes))
    del node.input[1:]
    return [node]


def _split(node: Any, constants: dict[str, Any], opset: int) -> list[Any]:
    """Without sizes, the number of equal parts is that of the outputs before 18."""
    del constants, opset
    kept = [each for each in node.attribute if each.name != "num_outputs"]
    del node.attribute[:]
    node.attribute.extend(kept)
    return [node]


def _layer_norm(node: Any, constants: dict[str, Any], opset: int) -> list[Any]:
    """``(x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + bias``; the operator itself is as old as 17."""
    import onnx

    if opset >= 17:
        return [node]
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    epsilon = attributes.get("epsilon", 1e-5)
    scale = constants.get(node.input[1])
    if scale is None or any(node.output[1:]):
        raise ExportError("this layer normalisation has no form before ONNX opset 17", "name a newer --onnx-runtime")
    base, axes = node.output[0], list(range(-scale.ndim, 0))
    constants[f"{base}_epsilon"] = np.array(epsilon, dtype=np.float32)

    def step(kind: str, inputs: list[str], name: str, **values: Any) -> Any:
        return onnx.helper.make_node(kind, inputs, [name], name=f"{name}_{kind}", **values)

    last = f"{base}_scaled" if len(node.input) > 2 and node.input[2] else base
    steps = [
        step("ReduceMean", [node.input[0]], f"{base}_mean", axes=axes, keepdims=1),
        step("Sub", [node.input[0], f"{base}_mean"], f"{base}_centred"),
        step("Mul", [f"{base}_centred", f"{base}_centred"], f"{base}_square"),
        step("ReduceMean", [f"{base}_square"], f"{base}_variance", axes=axes, keepdims=1),
        step("Add", [f"{base}_variance", f"{base}_epsilon"], f"{base}_safe"),
        step("Sqrt", [f"{base}_safe"], f"{base}_deviation"),
        step("Div", [f"{base}_centred", f"{base}_deviation"], f"{base}_normal"),
        step("Mul", [f"{base}_normal", node.input[1]], last),
    ]
    return [*steps, step("Add", [last, node.input[2]], base)] if last != base else steps


def _resize(node: Any, constants: dict[str, Any], opset: int) -> list[Any]:
    del constants, opset
    new = {"antialias", "axes", "keep_aspect_ratio_policy"}
    kept = [each for each in node.attribute if each.name not in new or each.i or each.ints]
    if any(each.name in new and each.name != "keep_aspect_ratio_policy" for each in kept):
        raise ExportError("an antialiased Resize has no form before ONNX opset 18", "name a newer --onnx-runtime")
    del node.attribute[:]
    node.attribute.extend(each for each in kept if each.name != "keep_aspect_ratio_policy")
    return [node]


def _reshape(node: Any, constants: dict[str, Any], opset: int) -> list[Any]:
    """Runtimes of that time refuse ``allowzero``; without a zero in the shape it says nothing."""
    del opset
    if not np.all(constants.get(node.input[1], np.ones(1))):
        raise ExportError("a Reshape to an empty tensor has no form in old runtimes", "name a newer --onnx-runtime")
    kept = [each for each in node.attribute if each.name != "allowzero"]
    del node.attribute[:]
    node.attribute.extend(kept)
    return [node]


_REWRITES: dict[str, Callable[[Any, dict[str, Any], int], list[Any]]] = {
    **dict.fromkeys(_REDUCE, _reduce),
    "Pad": _pad,
    "Reshape": _reshape,
    "Split": _split,
    "LayerNormalization": _layer_norm,
    "Resize": _resize,
}
