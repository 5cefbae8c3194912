"""ONNX: torch.onnx (dynamo), simplified by onnxsim to a fixpoint, for the opset that the oldest runtime knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from edgespa.bundle import TensorSpec
from edgespa.errors import EdgespaError, ExportError
from edgespa.exporting.converter import Form
from edgespa.exporting.lowering import FromPixels, pixels_of, plain_windows, with_heads, without_batch_norms
from edgespa.exporting.versions import EXPORTER_OPSET
from edgespa.graph.program import BATCH, Program
from edgespa.models.interface import input_and_output_names, output_shapes
from edgespa.system.quiet import first_line, quiet

EXTRA = "onnx"
PACKAGES = ("onnx", "onnxruntime", "onnxscript", "onnxsim")
_MAX_PASSES = 5
_GROWTH_BYTES = 4096


def write_fp32(program: Program, path: Path, form: Form) -> None:
    """Convert a program; a free batch size stays free, under the name ``batch``, unless the form fixes it.

    Args:
        program: In evaluation form.
        path: The file to write.
        form: Opset, IR version, batch, pixels or images.

    Raises:
        ExportError: If the converter or the simplifier fails, or the opset is too old for what the program does.
    """
    import onnx

    from edgespa.exporting.onnx_opset import step_down

    try:
        with quiet("torch.onnx"):
            model = simplify(exported(program, form))
            if form.target.opset < EXPORTER_OPSET:
                model = step_down(model, form.target.opset)
            model.ir_version = form.target.ir
            del model.metadata_props[:]
            onnx.checker.check_model(model)
    except EdgespaError:
        raise
    except Exception as error:
        raise ExportError(
            f"the program cannot be converted to ONNX: {first_line(error)}",
            "run again with --debug for the converter's own words, or export --format tflite only",
        ) from error
    onnx.save(model, path)


def simplify(model: Any) -> Any:
    """Simplify until nothing changes: constants folded, batch norms in the convolutions before them, dead ends gone.

    Each pass is checked on random inputs by onnxsim. A constant that would make the file larger than what it is
    computed from is not folded.

    Args:
        model: An ``onnx.ModelProto``.

    Raises:
        ExportError: If a pass changes what the model computes.
    """
    import onnxsim

    for _ in range(_MAX_PASSES):
        before = model.SerializeToString(deterministic=True)
        smaller, checked = onnxsim.simplify(model)
        if not checked:
            raise ExportError("onnxsim changed what the ONNX file computes", "please report the model")
        after = smaller.SerializeToString(deterministic=True)
        if len(after) > len(before) + _GROWTH_BYTES:
            smaller, checked = onnxsim.simplify(model, tensor_size_threshold="1KB")
            if not checked or smaller.ByteSize() > len(before) + _GROWTH_BYTES:
                return model
            after = smaller.SerializeToString(deterministic=True)
        model = smaller
        if after == before:
            break
    return model


def specs(
    program: Program, outputs: Sequence[NDArray[Any]], form: Form | None = None
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of the files, whatever their precision: all take and give float32, or pixels.

    Args:
        program: The program.
        outputs: Example outputs, for their types.
        form: What the files look like; None for the program itself.
    """
    form = form or Form()
    names, output_names = _names(program, form)
    batch: int | str = program.inputs[0].shape[0] if not program.dynamic_batch else form.batch or BATCH
    inputs = tuple(
        TensorSpec(
            name=name,
            shape=tuple(batch if size == BATCH else size for size in spec.shape),
            dtype=numpy_name(spec.dtype),
            layout=_layout(spec.shape),
        )
        for name, spec in zip(names, program.inputs, strict=True)
    )
    if form.pixels is not None:
        how = form.pixels
        shape = (batch, how.height, how.width, how.channels)
        inputs = (TensorSpec(name=names[0], shape=shape, dtype="uint8", layout="NHWC"),)
    results = tuple(
        TensorSpec(
            name=name,
            shape=tuple(batch if size is None else size for size in shape),
            dtype=str(array.dtype),
            layout=_layout(shape),
        )
        for name, array, shape in zip(output_names, outputs, output_shapes(program), strict=True)
    )
    return inputs, results


def _names(program: Program, form: Form) -> tuple[list[str], list[str]]:
    """Names of the inputs and of the outputs."""
    inputs, outputs = form.names or input_and_output_names(program)
    return list(inputs), list(outputs)


def numpy_name(dtype: torch.dtype) -> str:
    """A torch dtype in numpy's words."""
    return str(torch.empty(0, dtype=dtype).numpy().dtype)


def exported(program: Program, form: Form, *, optimize: bool = True) -> Any:
    """What torch.onnx makes of a program; its initializers have the names of the program's tensors.

    Args:
        program: In evaluation form.
        form: Opset, batch, pixels or images.
        optimize: Fold constants and batch norms.
    """
    program = with_heads(plain_windows(program))
    module: torch.nn.Module = without_batch_norms(program).module if optimize else program.module
    batch = form.batch or 2
    inputs = program.example_inputs(batch)
    free = torch.export.Dim(BATCH)
    shapes = tuple({0: free} if BATCH in spec.shape and not form.batch else None for spec in program.inputs)
    if form.pixels is not None:
        module, inputs = FromPixels(module, form.pixels), (pixels_of(program, form.pixels, batch),)
    names = _names(program, form)
    result = torch.onnx.export(
        module,
        inputs,
        dynamo=True,
        opset_version=max(form.target.opset, EXPORTER_OPSET),
        external_data=False,
        dynamic_shapes=shapes if any(shapes) else None,
        input_names=names[0],
        output_names=names[1],
        verbose=False,
        optimize=optimize,
    )
    assert result is not None
    return result.model_proto


def _layout(shape: Sequence[int | str | None]) -> Any:
    return "NCHW" if len(shape) == 4 else "other"
