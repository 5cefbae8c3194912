"""What an ONNX file may not have to be a model here, each named by its node, with what to do."""

from __future__ import annotations

from collections import Counter
from typing import Any

from edgespa.errors import ModelError
from edgespa.system.bounds import shown

OLDEST_OPSET, NEWEST_OPSET = 7, 24
ONNX_DOMAINS = ("", "ai.onnx")
_CONTROL = ("If", "Loop", "Scan")
_SEQUENCES = ("Sequence", "SplitToSequence", "ConcatFromSequence", "Optional", "String", "RegexFullMatch", "TfIdf")
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")
_CHOOSING = ("NonMaxSuppression", "NonZero", "Unique", "Compress", "RoiAlign")
_INT8 = (
    "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
    "QuantizeLinear",
)  # fmt: skip
_FLOAT = (
    "give the float file that it was made of: edgespa makes int8 files itself, of what is left of the network: "
    "--precision int8 of its export"
)
_SHOWN = 3


def require_takeable(model: Any, spec: str) -> None:
    """Refuse what cannot be a model here, before anything is computed.

    Args:
        model: An ``onnx.ModelProto``.
        spec: Of the file.

    Raises:
        ModelError: With the first nodes that cannot be taken, by name and operator.
    """
    opset = next((each.version for each in model.opset_import if each.domain in ONNX_DOMAINS), 0)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ModelError(
            f"{spec}: opset {opset}; {OLDEST_OPSET} to {NEWEST_OPSET} are read",
            "export it again with a newer opset_version, or: onnx.version_converter.convert_version(model, 17)",
        )
    if len(model.functions):
        raise ModelError(
            f"{spec}: it has functions of its own: {_names([each.name for each in model.functions])}",
            "put them in their places first: onnx.inliner.inline_local_functions(model)",
        )
    nodes = list(model.graph.node)
    if found := [node for node in nodes if node.op_type in _INT8 or node.op_type.startswith("QLinear")]:
        kinds = Counter(node.op_type for node in found)
        form = "QDQ" if set(kinds) <= {"DequantizeLinear", "QuantizeLinear"} else "QLinear"
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_SHOWN))
        raise ModelError(f"{spec} is quantised to int8 ({form}: {listed}), and was rounded for good", _FLOAT)
    for names, what, hint in _REFUSED:
        if found := [node for node in nodes if node.op_type.startswith(names)]:
            raise ModelError(f"{spec}: {what}: {described(found)}", hint)
    if found := [node for node in nodes if any(each.HasField("g") or len(each.graphs) for each in node.attribute)]:
        raise ModelError(f"{spec}: graphs inside of nodes: {described(found)}", _REFUSED[0][2])
    if found := [node for node in nodes if node.domain not in ONNX_DOMAINS]:
        raise ModelError(
            f"{spec}: operators of {_names(sorted({node.domain for node in found}))}: {described(found)}",
            "give the file as it was exported, before a runtime's optimiser wrote it for itself",
        )
    if len(model.graph.sparse_initializer):
        raise ModelError(f"{spec}: sparse weights", "store them densely: they are pruned here by whole units")


_REFUSED: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        _CONTROL,
        "which nodes are run depends on values",
        "export the model in evaluation mode for fixed sizes, so that no branch or loop is left in it; onnxsim takes "
        "away those that never change",
    ),
    (_SEQUENCES, "values that are no tensors", "export the network alone, without what prepares and reads its values"),
    (_RANDOM, "its outputs depend on chance", "export the model in evaluation mode: model.eval()"),
    (
        _CHOOSING,
        "sizes depend on the values of the inputs",
        "export the network without its post-processing, up to its raw outputs (edgespa decodes boxes itself)",
    ),
)


def described(nodes: list[Any]) -> str:
    """The first of some nodes, by name and operator.

    Args:
        nodes: Of a graph.
    """
    more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
    return ", ".join(f"{spoken(node)}" for node in nodes[:_SHOWN]) + more


def spoken(node: Any) -> str:
    """A node, as it is named in messages: its name, or that of its first output, and its operator."""
    name = node.name or next(iter(node.output), "")
    return f"{shown(name)} ({shown(node.op_type)[1:-1]})"


def _names(names: list[str]) -> str:
    return ", ".join(shown(name) for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
