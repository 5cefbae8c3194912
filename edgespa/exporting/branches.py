"""Many small networks at once to files of their own, by the very converters and quantisers of an export.

A converter takes as long to begin as to convert; so the networks are branches of one program, which is converted and
quantised as a whole, and what came of it is taken apart again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgespa.errors import ExportError
from edgespa.exporting import onnx_file, tflite_file
from edgespa.exporting.conversion import CONVERTERS
from edgespa.exporting.converter import Form
from edgespa.exporting.parity import File
from edgespa.exporting.tflite_packed import packed
from edgespa.exporting.variants import QUANTISERS
from edgespa.graph.constants import folded
from edgespa.graph.trace import trace
from edgespa.models.interface import in_float32, with_plain_outputs
from edgespa.quantisation.ranges import find_ranges
from edgespa.system.quiet import quiet

Shapes = tuple[tuple[int, ...], ...]
BESIDE = "beside_"
"""How operators are called that make what is added to a layer: they are no part of it."""
AT_ONCE = 32
"""Branches of one conversion: its time grows faster than their number."""


class _Branches(nn.Module):
    def __init__(self, branches: Sequence[tuple[nn.Module, Shapes]]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(module for module, _ in branches)
        self.counts = [len(shapes) for _, shapes in branches]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        results, at = [], 0
        for module, count in zip(self.branches, self.counts, strict=True):
            results.append(module(*inputs[at : at + count]))
            at += count
        return tuple(results)


def write_branches(
    branches: Sequence[tuple[nn.Module, Shapes]],
    paths: Sequence[Path],
    name: str,
    precision: str,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a file for each network.

    Args:
        branches: Each with the shapes of its inputs, the batch of 1 among them.
        paths: A file for each.
        name: Of the format, ``onnx`` or ``tflite``.
        precision: ``fp32`` or ``int8``: static, everything in int8 that can be, quantised on random numbers. In TFLite
            files what goes in and comes out is int8 too then.
        progress: Told how many are written.

    Raises:
        ExportError: A converter or quantiser fails.
    """
    for start in range(0, len(branches), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        _write_some(branches[part], paths[part], name, precision)
        if progress is not None:
            progress(min(start + AT_ONCE, len(branches)))


def _write_some(branches: Sequence[tuple[nn.Module, Shapes]], paths: Sequence[Path], name: str, precision: str) -> None:
    network = _Branches(branches).eval()
    inputs = tuple(torch.randn(shape) for _, shapes in branches for shape in shapes)
    program = with_plain_outputs(in_float32(folded(trace(network, inputs))))
    form = Form(batch=1)
    whole = paths[0].with_name(f"branches.{name}")
    try:
        CONVERTERS[name].write_fp32(program, whole, form)
        if precision == "int8":
            smaller = whole.with_name(f"branches.int8.{name}")
            quantiser = QUANTISERS[name](whole)
            with torch.no_grad():
                outputs = [each.numpy() for each in program(*inputs)]
            specs = tflite_file.specs(whole, form) if name == "tflite" else onnx_file.specs(program, outputs, form)
            file = File(whole, "branches", name, *specs, 1, None)
            feeds = [file.own_inputs([each.numpy() for each in inputs])]
            ranges = find_ranges(quantiser.observe(feeds), "minmax")
            quantiser.write_static(smaller, ranges, joined=True)
            smaller.replace(whole)
        split = _split_onnx if name == "onnx" else _split_tflite
        split(whole, [module for module, _ in branches], paths)
    finally:
        whole.unlink(missing_ok=True)


def _split_onnx(whole: Path, modules: Sequence[nn.Module], paths: Sequence[Path]) -> None:
    import onnx

    model = onnx.load(whole)
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {each.name: each for each in graph.initializer}
    inputs = {each.name: each for each in graph.input}
    order = {id(node): number for number, node in enumerate(graph.node)}
    for output, path, module in zip(graph.output, paths, modules, strict=True):
        nodes, names = _behind(
            [output.name], lambda name: makers.get(name), lambda node: [each for each in node.input if each]
        )
        part = onnx.helper.make_graph(
            sorted(nodes, key=lambda node: order[id(node)]),
            "layer",
            [inputs[name] for name in inputs if name in names],
            [output],
            [constants[name] for name in constants if name in names],
        )
        _mark(part, module)
        single = onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
        onnx.save(single, path)


def _mark(graph: Any, module: nn.Module) -> None:
    """Have what is no part of a layer begin with `BESIDE`: names of operators, and of what they give."""
    if getattr(module, "behind", None) is not None:
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        convolutions[-1].name = f"{BESIDE}behind"
        return
    if getattr(module, "beside", None) is None:
        return
    reached = {graph.input[0].name}
    new: dict[str, str] = {}
    for number, node in enumerate(graph.node):
        for at, name in enumerate(node.input):
            node.input[at] = new.get(name, name)
        if any(name in reached for name in node.input):
            reached.update(node.output)
            continue
        node.name = f"{BESIDE}{number}"
        for at, name in enumerate(node.output):
            new[name] = node.output[at] = f"{BESIDE}{number}_{at}"


def _split_tflite(whole: Path, modules: Sequence[nn.Module], paths: Sequence[Path]) -> None:

    with quiet("ai-edge-quantizer"):
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_quantizer.utils import tfl_flatbuffer_utils

        model = tfl_flatbuffer_utils.read_model(str(whole))
    graph = model.subgraphs[0]
    codes = [each.builtinCode for each in model.operatorCodes]
    makers = {tensor: operator for operator in graph.operators for tensor in operator.outputs}
    order = {id(operator): number for number, operator in enumerate(graph.operators)}
    signature = model.signatureDefs[0]
    by_name = {_text(each.name): each.tensorIndex for each in signature.outputs}
    outputs = [by_name[name] for name in tflite_file.in_order(by_name)]
    if len(outputs) != len(paths):
        raise ExportError("the TFLite file of many layers has lost some of its outputs", "please report it")
    ends = {schema.BuiltinOperator.QUANTIZE, schema.BuiltinOperator.DEQUANTIZE}
    given = {int(each) for each in graph.inputs}
    for operator in graph.operators:  # what turns inputs into int8 is no part of a layer
        if codes[operator.opcodeIndex] in ends and int(operator.inputs[0]) in given:
            given.add(int(operator.outputs[0]))
    for tensor, path in zip(outputs, paths, strict=True):
        last = makers.get(tensor)
        if last is not None and codes[last.opcodeIndex] == schema.BuiltinOperator.DEQUANTIZE:
            tensor = int(last.inputs[0])
        operators, tensors = _behind(
            [tensor],
            lambda each: None if each in given else makers.get(each),
            lambda operator: [int(each) for each in operator.inputs if each >= 0],
        )
        operators.sort(key=lambda operator: order[id(operator)])
        _write_tflite(schema, model, operators, sorted(tensors & given), tensor, path)


def _write_tflite(
    schema: Any, model: Any, operators: Sequence[Any], inputs: Sequence[int], output: int, path: Path
) -> None:
    graph = model.subgraphs[0]
    used: dict[int, int] = {}
    buffers: list[Any] = [schema.BufferT()]
    tensors: list[Any] = []

    def place(tensor: int) -> int:
        if tensor < 0:
            return tensor
        if tensor not in used:
            used[tensor] = len(tensors)
            own = _copy(graph.tensors[tensor])
            data = model.buffers[own.buffer].data
            own.buffer = 0
            if data is not None and len(data):
                own.buffer = len(buffers)
                buffers.append(model.buffers[graph.tensors[tensor].buffer])
            tensors.append(own)
        return used[tensor]

    part = schema.SubGraphT()
    part.operators = []
    for operator in operators:
        own = _copy(operator)
        own.inputs = np.array([place(int(each)) for each in operator.inputs], np.int32)
        own.outputs = np.array([place(int(each)) for each in operator.outputs], np.int32)
        part.operators.append(own)
    part.inputs = np.array([place(each) for each in inputs], np.int32)
    part.outputs = np.array([place(output)], np.int32)
    part.tensors, part.name = tensors, b"main"
    single = schema.ModelT()
    single.version, single.operatorCodes = model.version, model.operatorCodes
    single.subgraphs, single.buffers, single.description = [part], buffers, b"layer"
    path.write_bytes(packed(single))


def _copy(value: Any) -> Any:
    """A copy of one of the schema's objects, which share what they hold."""
    own = type(value)()
    vars(own).update(vars(value))
    return own


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _behind(
    ends: Iterable[Any], maker: Callable[[Any], Any], reads: Callable[[Any], Iterable[Any]]
) -> tuple[list[Any], set[Any]]:
    """All that values are computed by, and the names of all values among them."""
    found: dict[int, Any] = {}
    names: set[Any] = set()
    todo = list(ends)
    while todo:
        name = todo.pop()
        if name in names:
            continue
        names.add(name)
        node = maker(name)
        if node is not None and id(node) not in found:
            found[id(node)] = node
            todo += reads(node)
    return list(found.values()), names
