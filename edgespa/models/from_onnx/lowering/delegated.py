"""Operators that onnx2torch lowers: comparisons, and whatever else is rare."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import Any

from edgespa.errors import MissingExtraError, ModelError
from edgespa.models.from_onnx.known import Known
from edgespa.models.from_onnx.lowering.place import Made, Place
from edgespa.models.from_onnx.refusals import spoken
from edgespa.models.imports import mismatched
from edgespa.system.quiet import NOTE, first_line, quiet

log = logging.getLogger(__name__)

PACKAGE = "onnx2torch"


def require_converter(place: Place) -> None:
    """Refuse to go on without the library.

    Args:
        place: The node that is not lowered here.

    Raises:
        MissingExtraError: It is not installed; the node is named in a note.
        ModelError: It cannot be imported, as where torchvision was built for another torch.
    """
    try:
        absent = importlib.util.find_spec(PACKAGE) is None
    except ValueError:
        absent = True
    if absent:
        log.log(NOTE, "%s: %s is left to %s", place.spec, spoken(place.node), PACKAGE)
        raise MissingExtraError(PACKAGE, "from-onnx")
    try:
        importlib.import_module(PACKAGE)
    except Exception as error:  # a build of torchvision that does not match torch raises RuntimeError
        raise ModelError(
            f"{PACKAGE} is installed but cannot be imported, for it wants torchvision: {type(error).__name__}: "
            f"{first_line(error)}",
            mismatched("torchvision"),
        ) from error


def delegated(place: Place, known: dict[str, Known]) -> Made:
    """What onnx2torch makes of a node.

    Args:
        place: The node.
        known: Of every value.

    Raises:
        ModelError: It does not have the operator, or not in this form.
    """
    import onnx

    require_converter(place)
    graph_module: Any = importlib.import_module("onnx2torch.onnx_graph")
    registry: Any = importlib.import_module("onnx2torch.node_converters")
    node = place.node
    constants = {name: value for index, name in enumerate(node.input) if (value := place.constant(index)) is not None}
    infos = [
        onnx.helper.make_tensor_value_info(name, known[name].dtype, known[name].shape)
        for name in dict.fromkeys(node.input)
        if name and name not in constants
    ]
    outputs = [onnx.helper.make_tensor_value_info(n, known[n].dtype, known[n].shape) for n in node.output if n]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = graph_module.OnnxGraph(onnx.helper.make_graph([node], "node", infos, outputs, tensors))
    converter = _converter(registry, node.op_type, place.opset)
    if converter is None:
        raise place.refusal(
            f"neither edgespa nor {PACKAGE} has this operator of opset {place.opset}",
            "export for opset 17, or without this operator; or give the PyTorch model that the file was made of",
        )
    try:
        with quiet(PACKAGE):
            module, mapping = converter(next(iter(graph.nodes.values())), graph)
    except Exception as error:  # of the library, which says it in its own ways
        raise place.refusal(f"{PACKAGE}: {type(error).__name__}: {first_line(error)}") from error
    if "" in mapping.inputs:
        raise place.refusal("an input in its midst is left out")
    return Made(module.eval(), tuple(mapping.inputs))


def _converter(registry: Any, operator: str, opset: int) -> Any | None:
    """The newest that the library has of an operator: later ones have gained types, not other meanings."""
    for version in range(opset, 0, -1):
        try:
            return registry.get_converter(operation_type=operator, version=version)
        except NotImplementedError:
            continue
    return None
