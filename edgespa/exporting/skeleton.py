"""An ONNX graph without its weights: ONNX Runtime is given them as external initializers where it runs.

Nothing that depends on a weight is folded here, so every initializer that is left out is a tensor of the program, under
its own name. ONNX Runtime folds (batch norms into convolutions, transposed weights) when it loads the graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgespa.errors import EdgespaError, ExportError
from edgespa.exporting.converter import Form
from edgespa.exporting.onnx_file import exported, simplify
from edgespa.exporting.versions import EXPORTER_OPSET
from edgespa.graph.program import Program
from edgespa.system.quiet import first_line, quiet

LOCATION = "weights"


def skeleton(program: Program, form: Form) -> tuple[bytes, tuple[str, ...]]:
    """Convert a program without its tensors.

    Args:
        program: In evaluation form, with plain outputs, in float32.
        form: Opset, IR version and batch of the file.

    Returns:
        The ONNX file, and the names of the tensors that it has to be given.

    Raises:
        ExportError: If the converter or the simplifier fails, or the opset is too old for what the program does.
    """
    import onnx
    from onnxscript import optimizer

    from edgespa.exporting.onnx_opset import step_down

    try:
        with quiet("torch.onnx"):
            model = exported(program, form, optimize=False)
            taken = _as_inputs(model, program.state())
            # As inputs, so that nothing is computed from them; the first pass knows types and sizes, the second merges.
            model = simplify(optimizer.optimize(model))
            if form.target.opset < EXPORTER_OPSET:
                model = step_down(model, form.target.opset)
            model.ir_version = form.target.ir
            _strip(model)
            onnx.checker.check_model(model)
            names = _as_external(model, taken)
    except EdgespaError:
        raise
    except Exception as error:
        raise ExportError(
            f"the program cannot be converted to ONNX: {first_line(error)}",
            "run again with --debug for the converter's own words",
        ) from error
    return model.SerializeToString(deterministic=True), names


def _as_inputs(model: Any, names: Iterable[str]) -> dict[str, Any]:
    """Make inputs of initializers; what they were, by name."""
    import onnx

    wanted = set(names)
    graph = model.graph
    taken = {each.name: each for each in graph.initializer if each.name in wanted}
    rest = [each for each in graph.initializer if each.name not in taken]
    for name, each in taken.items():
        graph.input.append(onnx.helper.make_tensor_value_info(name, each.data_type, list(each.dims)))
    del graph.initializer[:]
    graph.initializer.extend(rest)
    return taken


def _as_external(model: Any, taken: dict[str, Any]) -> tuple[str, ...]:
    """Make external initializers of those inputs; the names of the ones that are read."""
    import onnx

    graph = model.graph
    read = {name for node in graph.node for name in node.input} | {each.name for each in graph.output}
    inputs = [each for each in graph.input if each.name not in taken]
    del graph.input[:]
    graph.input.extend(inputs)
    names = tuple(name for name in taken if name in read)
    for name in names:
        empty = onnx.TensorProto(name=name, data_type=taken[name].data_type, dims=taken[name].dims)
        empty.data_location = onnx.TensorProto.EXTERNAL
        empty.external_data.add(key="location", value=LOCATION)
        graph.initializer.append(empty)
    return names


def _strip(model: Any) -> None:
    """Without what only people read."""
    graph = model.graph
    for each in (model, graph, *graph.node, *graph.input, *graph.output):
        del each.metadata_props[:]
        each.doc_string = ""
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
    del graph.value_info[:]
