"""An ONNX file as a module: read, evaluated, converted and proved."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgespa.errors import ModelError
from edgespa.models.from_onnx import reading
from edgespa.models.from_onnx.assembling import Assembly
from edgespa.models.from_onnx.fusing import fused
from edgespa.models.from_onnx.known import Evaluation, Known
from edgespa.models.from_onnx.lowering.place import constant_of
from edgespa.models.from_onnx.names import plain
from edgespa.models.from_onnx.proving import Proof, prove
from edgespa.models.from_onnx.refusals import ONNX_DOMAINS, require_takeable
from edgespa.models.inputs import InputSize
from edgespa.system.quiet import NOTE

log = logging.getLogger(__name__)

Array = NDArray[Any]
_BATCHES = (2, 3)
_SIZES = "pass --input-shape, for example 1,3,224,224"
_HALVES = ("FLOAT16", "BFLOAT16")


@dataclasses.dataclass(frozen=True)
class FromOnnx:
    """An ONNX file as a module.

    Attributes:
        module: In eval mode, with its tensors called as in the file.
        inputs: What it takes, with a batch of 1 where that is free.
        proof: How near it is to the file.
        free: Whether it takes any batch.
    """

    module: nn.Module
    inputs: tuple[InputSize, ...]
    proof: Proof
    free: bool


def open_onnx(spec: str, given: tuple[InputSize, ...]) -> FromOnnx:
    """Read an ONNX file, convert it, and prove that the module computes what the file does.

    Args:
        spec: Path of the file.
        given: Sizes of its inputs, where the file leaves them free.

    Raises:
        ModelError: It cannot be read or converted, with the node; or what was made of it computes something else.
        MissingExtraError: A library that reads it is not installed.
    """
    model = reading.read(spec)
    require_takeable(model, spec)
    original = model.SerializeToString()
    halves = _widen(model)
    constants = _constants(model, spec)
    inputs = [each for each in model.graph.input if each.name not in constants]
    sizes = _sizes(inputs, given, spec)
    evaluation = Evaluation(model, spec, constants)
    known, free = _known(evaluation, inputs, sizes, spec)
    module = _assembled(model, spec, known, tuple(each.name for each in inputs), frozenset(constants))
    found = tuple(
        InputSize(
            (1 if free and declared is None else size.shape[0], *size.shape[1:]) if size.shape else size.shape,
            None if size.dtype == "float32" else size.dtype,
        )
        for size, declared in zip(sizes, (_first(each) for each in inputs), strict=True)
    )
    fixed = tuple(_first(each) for each in inputs)
    proof = prove(module, original, [each.name for each in inputs], found, fixed, spec, free=free, halves=halves)
    log.log(NOTE, "%s: %s", spec, proof)
    return FromOnnx(module, found, proof, free)


def _widen(model: Any) -> bool:
    """Write a file of half precision in float32, in place; whether it was one."""
    import onnx

    halves = {getattr(onnx.TensorProto, name) for name in _HALVES}
    found = False
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type in halves:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
            found = True
    for tensor in model.graph.initializer:
        found |= _widen_tensor(tensor, halves)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                found |= _widen_tensor(attribute.t, halves)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i in halves:
                attribute.i = onnx.TensorProto.FLOAT
                found = True
    del model.graph.value_info[:]
    return found


def _widen_tensor(tensor: Any, halves: set[int]) -> bool:
    import onnx

    if tensor.data_type not in halves:
        return False
    name = tensor.name
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float32), name))
    return True


def _constants(model: Any, spec: str) -> dict[str, Array]:
    import onnx

    try:
        return {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(f"{spec}: a tensor cannot be read: {error}", "export it again") from error


def _first(value: Any) -> int | None:
    """The first size of an input, where the file fixes it."""
    dims = value.type.tensor_type.shape.dim
    return int(dims[0].dim_value) if len(dims) and dims[0].HasField("dim_value") else None


def _sizes(inputs: Sequence[Any], given: tuple[InputSize, ...], spec: str) -> list[InputSize]:
    """Sizes of each input: the file's own, and those that were given where it leaves them free.

    Raises:
        ModelError: They do not agree, or some are not known.
    """
    import onnx

    if not inputs:
        raise ModelError(f"{spec} takes no inputs", "give a network that computes something of what goes in")
    if given and len(given) != len(inputs):
        raise ModelError(
            f"{spec} takes {len(inputs)} inputs ({', '.join(each.name for each in inputs)}), "
            f"sizes were given for {len(given)}",
            "give --input-shape once for each input, in that order; other sizes of the one image that a TFLite file "
            "takes are `export --also-size 320x320`",
        )
    found = []
    for index, value in enumerate(inputs):
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise ModelError(
                f"{spec}: its input {value.name!r} has no sizes", "export it again with sizes of its inputs"
            )
        kind = value.type.tensor_type
        own = [int(dim.dim_value) if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        wanted = given[index].shape if given else tuple(size or (1 if not at else 0) for at, size in enumerate(own))
        agree = len(wanted) == len(own) and all(
            size is None or size == got or (not at and not given)
            for at, (size, got) in enumerate(zip(own, wanted, strict=True))
        )
        told = ",".join("?" if size is None else str(size) for size in own)
        if not agree:
            raise ModelError(
                f"{spec} takes inputs of shape {told}, not {','.join(map(str, wanted))}", "leave out --input-shape"
            )
        if 0 in wanted or not own:
            raise ModelError(f"{spec} leaves sizes of its input {value.name!r} free: {told}", _SIZES)
        try:
            dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{spec}: its input {value.name!r} is of no numbers", "give a network on tensors"
            ) from error
        found.append(InputSize(tuple(wanted), dtype))
    return found


def _known(
    evaluation: Evaluation, inputs: Sequence[Any], sizes: Sequence[InputSize], spec: str
) -> tuple[tuple[dict[str, Known], dict[str, Known]], bool]:
    """All values at two sizes of the batch, and whether they may differ; at one size where the file takes no other."""
    import onnx

    first = _first(inputs[0])
    batched = [index for index, value in enumerate(inputs) if _first(value) == first and sizes[index].shape]
    types = [onnx.helper.np_dtype_to_tensor_dtype(np.dtype(each.dtype or "float32")) for each in sizes]

    def at(batch: int | None) -> dict[str, tuple[tuple[int, ...], int]]:
        return {
            value.name: ((batch, *size.shape[1:]) if batch and index in batched else size.shape, kind)
            for index, (value, size, kind) in enumerate(zip(inputs, sizes, types, strict=True))
        }

    if first in (None, 1):
        try:
            one, other = (evaluation.known(at(batch), None if first is None else batch) for batch in _BATCHES)
            if all(_follows(each.name, one, other) for each in evaluation.outputs):
                return (one, other), True
            reason = "not all that it gives has a row for each sample"
        except ModelError as error:
            reason = error.message.removeprefix(f"{spec}: ")
        log.log(NOTE, "%s takes batches of %d only: %s", spec, sizes[0].shape[0], reason)
    whole = evaluation.known(at(None), None)
    return (whole, whole), False


def _follows(name: str, one: Mapping[str, Known], other: Mapping[str, Known]) -> bool:
    return name in one and one[name].shape[:1] == _BATCHES[:1] and other[name].shape[:1] == _BATCHES[1:]


def _assembled(
    model: Any,
    spec: str,
    known: tuple[dict[str, Known], dict[str, Known]],
    inputs: tuple[str, ...],
    stored: frozenset[str],
) -> nn.Module:
    opset = next(each.version for each in model.opset_import if each.domain in ONNX_DOMAINS)
    outputs = [each.name for each in model.graph.output]
    needed = _needed(model.graph.node, outputs)
    nodes = fused(
        needed, outputs, lambda name: constant_of(known, name) if name in known[0] else None,
        lambda name: len(known[0][name].shape),
    )  # fmt: skip
    assembly = Assembly(spec, opset, known, inputs, stored)
    for node in nodes:
        assembly.add(node)
    called: dict[str, str] = {}
    for name in outputs:
        wanted = plain(name)
        while wanted in called.values():
            wanted += "_"
        called[name] = wanted
    return assembly.finish(called)


def _needed(nodes: Sequence[Any], outputs: Sequence[str]) -> list[Any]:
    """The nodes that something that is given depends on, in order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]
