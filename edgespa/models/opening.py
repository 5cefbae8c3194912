"""From a model spec and the sizes of its inputs to a traced program."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.export import ExportedProgram

from edgespa.errors import BaseMismatchError, EdgespaError, ModelError, TraceError
from edgespa.graph.finite import not_finite
from edgespa.graph.program import BATCH, Program, shape_of
from edgespa.graph.trace import from_exported, trace
from edgespa.models.detectors import Detector, TakenApart, taken_apart
from edgespa.models.first_layer import misfit
from edgespa.models.huggingface import Answers
from edgespa.models.inputs import InputSize
from edgespa.models.interface import with_plain_inputs
from edgespa.models.load import load_model
from edgespa.models.plain import register_outputs
from edgespa.models.query_detectors import QueryDetector, query_detector
from edgespa.models.recorded import Recorded, recorded
from edgespa.models.saved import is_onnx, is_pt2, load_pt2
from edgespa.models.weights import state_digest
from edgespa.system.quiet import NOTE, first_line, quiet

log = logging.getLogger(__name__)

_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Opened:
    """A model that was found, built or loaded, and traced.

    Attributes:
        digest: SHA-256 of its state dict.
        program: What it computes.
        inputs: What it takes; a batch that is free has the size that was given, or 1.
        recorded: What the library of the model records of its images; None for a model of no library.
        apart: A detector of torchvision, of which the program is the raw network, or of transformers; else None.
        detector: What there is to know of it at the size of the input.
        learns: What it learned to do, by its class.
    """

    digest: str
    program: Program
    inputs: tuple[InputSize, ...]
    recorded: Recorded | None = None
    apart: TakenApart | QueryDetector | None = None
    detector: Detector | None = None
    learns: str = "classes"


def open_program(spec: str, inputs: tuple[InputSize, ...], weights: str | None, wanted: str | None = None) -> Opened:
    """Load and trace a model.

    Args:
        spec: A model spec, see `edgespa.models`.
        inputs: Sizes of its inputs; may be empty for a ``.pt2`` program, and where the model's library records them.
        weights: A weight file, or ``random``.
        wanted: Digest of its state dict; another is refused as soon as the weights are there.

    Raises:
        BaseMismatchError: If it has another digest.
        ModelError: If it cannot be loaded, takes other inputs, or its weights are not finite.
        TraceError: If it cannot be traced.
    """
    if is_pt2(spec):
        return _saved(spec, inputs, wanted)
    if is_onnx(spec):
        return _of_onnx(spec, inputs, weights, wanted)
    model = load_model(spec, weights)  # first: of a wrong name the sizes do not matter
    digest = state_digest(model.state_dict())
    require_digest(wanted, digest, spec)
    apart = taken_apart(model, spec) or query_detector(model)
    known = (apart.recorded if apart is not None else None) or recorded(spec, model)
    if not inputs and known is not None and known.size is not None:
        inputs = (InputSize((1, *known.size)),)
        log.log(NOTE, "input shape: %s, as %s records (--input-shape gives another)", inputs[0], spec)
    if not inputs:
        raise ModelError(
            f"the sizes of the input of {spec} are not known", "pass --input-shape, for example 1,3,224,224"
        )
    if apart is None:
        program, detector = _traced(model, spec, inputs), None
    else:
        program, detector = traced_detector(apart, spec, inputs)
    _require_finite(program, spec, dict(model.named_parameters()))
    return Opened(digest, program, inputs, known, apart, detector, learns_what(model))


def learns_what(model: nn.Module) -> str:
    """What a network of torchvision or transformers learned to do, by its class; ``classes`` where that says nothing.

    Args:
        model: As `edgespa.models.load_model` built it.
    """
    kind = type(model.core if isinstance(model, Answers) else model)
    of_torchvision = kind.__module__.startswith("torchvision.models.segmentation.")
    return "segmentation" if of_torchvision or kind.__name__.endswith("ForSemanticSegmentation") else "classes"


def traced_detector(
    apart: TakenApart | QueryDetector, spec: str, inputs: tuple[InputSize, ...]
) -> tuple[Program, Detector]:
    """The raw network of a detector, traced, and what its outputs mean.

    Args:
        apart: The detector.
        spec: How it was named.
        inputs: Sizes of its input.

    Raises:
        ModelError: If that is no image, or the detector cannot be described.
        TraceError: If it cannot be traced.
    """
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3:
        raise ModelError(
            f"{spec} takes images, and sizes were given for {'; '.join(map(str, inputs))}",
            "pass --input-shape 1,3,HEIGHT,WIDTH",
        )
    return _traced(apart.network, spec, inputs), apart.detector(*shape[2:])


def require_digest(wanted: str | None, found: str, spec: str) -> None:
    """Refuse a base that is not the one a task was made on.

    Args:
        wanted: What the task says; None for anything.
        found: What the base has.
        spec: How it was named.

    Raises:
        BaseMismatchError: With both digests.
    """
    if wanted is not None and wanted != found:
        raise BaseMismatchError(
            f"the task was made on another base: it wants {wanted}, {spec} has {found}",
            "name the right model with --base, or its weights with --weights",
        )


def _saved(spec: str, given: tuple[InputSize, ...], wanted: str | None) -> Opened:
    """A ``.pt2`` program; sizes besides the batch that it leaves free are settled.

    Raises:
        ModelError: If it takes other inputs than those given.
    """
    exported = load_pt2(spec)
    try:
        return _of_exported(exported, spec, given, wanted)
    except EdgespaError:
        raise
    except Exception as error:  # parts of a file that do not belong together fail wherever they first meet
        raise ModelError(
            f"{spec}: its graph and its tensors do not fit one another: {first_line(error)}",
            "save it again with torch.export.save(program, path)",
        ) from error


def _of_onnx(spec: str, given: tuple[InputSize, ...], weights: str | None, wanted: str | None) -> Opened:
    """An ONNX file, as a module that is traced like any other.

    Raises:
        ModelError: If it cannot be read, or weights are given for it.
    """
    from edgespa.models.from_onnx.opened import open_onnx

    if weights is not None:
        raise ModelError(f"{spec} has its weights in it", "leave out --weights, or name the model that they belong to")
    found = open_onnx(spec, given)
    digest = state_digest(found.module.state_dict())
    require_digest(wanted, digest, spec)
    program = _traced(found.module, spec, found.inputs)
    _require_finite(program, spec, dict(found.module.named_parameters()))
    return Opened(digest, program, found.inputs)


def _of_exported(exported: ExportedProgram, spec: str, given: tuple[InputSize, ...], digest: str | None) -> Opened:
    found = state_digest(exported.state_dict)
    require_digest(digest, found, spec)
    try:
        program = with_plain_inputs(from_exported(exported, foreign=True))
    except TraceError as error:
        hint = "export it in evaluation form: call model.eval() before torch.export.export"
        raise TraceError(f"{spec}: {error.message}", hint if "writes" in error.message else error.hint) from error
    own = _inputs_of(program)
    fixed = [tuple(0 if size == BATCH else size for size in each.shape[1:]) for each in program.inputs]
    if given and [_where_fixed(each.shape[1:], sizes) for each, sizes in zip(given, fixed, strict=False)] != fixed:
        wanted, got = (", ".join(str(each.shape) for each in sizes) for sizes in (own, given))
        raise ModelError(f"{spec} takes inputs of shape {wanted}, not {got}", "leave out --input-shape")
    if any(BATCH in each.shape[1:] for each in program.inputs):
        own = tuple(dataclasses.replace(each, shape=size.shape) for each, size in zip(own, given or own, strict=True))
        program = _settled(program, own, spec)
    _require_finite(program, spec, dict(exported.named_parameters()))
    return Opened(found, program, own)


def _require_finite(program: Program, spec: str, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Refuse weights that are not finite: a criterion would rank by them, and a proof compare by them.

    Raises:
        ModelError: With the first such tensors, and how many of their values are not.
    """
    trainable = {name for name, parameter in parameters.items() if parameter.requires_grad}
    found = not_finite(program, trainable)
    if found:
        sizes = {name: tensor.numel() for name, tensor in program.tensors()}
        listed = ", ".join(f"{name} ({count} of {sizes[name]} values)" for name, count in list(found.items())[:_LISTED])
        more = f" and {len(found) - _LISTED} more tensors" if len(found) > _LISTED else ""
        raise ModelError(
            f"{spec} has weights that are not finite: {listed}{more}",
            "give other weights: these were made by a training that diverged, or are damaged",
        )


def _where_fixed(shape: tuple[int, ...], fixed: tuple[int | str, ...]) -> tuple[int, ...]:
    """Sizes, with 0 for those that are free."""
    free = [size == 0 for size in fixed]
    return tuple(0 if index < len(free) and free[index] else size for index, size in enumerate(shape))


def _inputs_of(program: Program) -> tuple[InputSize, ...]:
    """The inputs of a program: 1 for a free batch, for another free size what it was exported with."""
    weights = _float_type(program.state().values())
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    return tuple(
        InputSize(
            tuple(
                size if isinstance(size, int) else at_export if dim else 1
                for dim, (size, at_export) in enumerate(zip(each.shape, shape_of(node.meta["val"]), strict=True))
            ),
            None if each.dtype == weights else str(each.dtype).removeprefix("torch."),
        )
        for each, node in zip(program.inputs, nodes, strict=True)
    )


def _settled(program: Program, sizes: tuple[InputSize, ...], spec: str) -> Program:
    """The program for some sizes, with the batch free where it was.

    Raises:
        TraceError: If it does not take them.
    """
    own = _float_type(program.state().values())
    batched = [BATCH in each.shape[:1] for each in program.inputs]
    examples = tuple(
        _example(dataclasses.replace(each, shape=(2, *each.shape[1:])) if free else each, own, seed)
        for seed, (each, free) in enumerate(zip(sizes, batched, strict=True))
    )
    shapes = tuple({0: torch.export.Dim.AUTO} if free else None for free in batched)
    program.module._forward_pre_hooks.clear()  # they ask for the sizes at the export
    try:
        with quiet("torch.export"):
            exported = torch.export.export(program.module, examples, dynamic_shapes=shapes)
    except Exception as error:  # whatever an operator makes of the sizes
        raise TraceError(
            f"{spec} does not take inputs of {'; '.join(map(str, sizes))}: {first_line(error)}",
            "give other sizes with --input-shape",
        ) from error
    return from_exported(exported)


def _traced(model: torch.nn.Module, spec: str, inputs: tuple[InputSize, ...]) -> Program:
    _require_count(model, spec, len(inputs))
    own = _float_type(model.parameters())
    examples = tuple(_example(each, own, seed) for seed, each in enumerate(inputs))
    try:
        return trace(model, examples)
    except TraceError as error:
        if not register_outputs(model, examples):
            found = misfit(model, inputs[0].shape) if len(inputs) == 1 else None
            if found is None:
                raise
            reason = error.message.splitlines()[-1].strip()
            raise TraceError(
                f"{spec} does not take an input of {inputs[0]}: {found[0]}\n  {reason}", found[1]
            ) from error
    return trace(model, examples)


def _require_count(model: torch.nn.Module, spec: str, count: int) -> None:
    """Refuse another number of inputs than ``forward`` takes.

    Raises:
        ModelError: With the names of the inputs.
    """
    kinds = inspect.Parameter
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # not written in Python: the trace will tell
        return
    named = [each for each in parameters if each.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    least = sum(each.default is kinds.empty for each in named)
    if least <= count and (count <= len(named) or any(each.kind is kinds.VAR_POSITIONAL for each in parameters)):
        return
    takes = f"{least} inputs" if least == len(named) else f"{least} to {len(named)} inputs"
    raise ModelError(
        f"{spec} takes {takes.replace('1 inputs', '1 input')} ({', '.join(each.name for each in named)}), "
        f"sizes were given for {count}",
        "give --input-shape once for each input, in that order, for example "
        "--input-shape 1,3,224,224 --input-shape 1,16:int64; other sizes of the one image that a TFLite file takes are "
        "`export --also-size 320x320`",
    )


def _float_type(tensors: Iterable[torch.Tensor]) -> torch.dtype:
    """Element type of the first tensor with a fraction."""
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)


def _example(size: InputSize, own: torch.dtype, seed: int) -> torch.Tensor:
    """Standard normal, or zeros of a type without fractions: valid as an index whatever it looks up."""
    dtype = getattr(torch, size.dtype) if size.dtype else own
    if not dtype.is_floating_point:
        return torch.zeros(size.shape, dtype=dtype)
    return torch.randn(size.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
