"""TFLite: litert-torch, for a fixed batch, channels last inside whatever the layout outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgespa.bundle import TensorSpec
from edgespa.errors import ExportError
from edgespa.exporting.converter import Form
from edgespa.exporting.lowering import (
    FromPixels,
    channels_last,
    pixels_of,
    plain_pooling,
    plain_repeats,
    plain_resizing,
    plain_upsampling,
    plain_windows,
    without_batch_norms,
)
from edgespa.graph.program import Program
from edgespa.system.quiet import first_line, quiet

EXTRA = "tflite"
PACKAGES = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")
_TO_LAST = (0, 2, 3, 1)


def write_fp32(program: Program, path: Path, form: Form) -> None:
    """Convert a program for a fixed batch, one unless the form or the program says another.

    Args:
        program: In evaluation form.
        path: The file to write.
        form: Batch, layout, pixels or images.

    Raises:
        ExportError: If the converter fails, or writes operators that no runtime has.
    """
    batch = form.batch or 1
    inputs: tuple[torch.Tensor, ...] = program.example_inputs(batch)
    with torch.no_grad():
        outputs = torch.utils._pytree.tree_leaves(program(*inputs))
    module: torch.nn.Module = _lowered(program).module
    for part in module.modules():
        part.training = False  # an exported module refuses .eval(), and the converter asks
    if form.pixels is not None:
        module, inputs = FromPixels(module, form.pixels), (pixels_of(program, form.pixels, batch),)
    last = form.layout == "nhwc"
    turned = [index for index, tensor in enumerate(inputs) if last and tensor.dim() == 4 and form.pixels is None]
    results = [index for index, tensor in enumerate(outputs) if last and tensor.dim() == 4]
    inputs = tuple(
        tensor.permute(_TO_LAST).contiguous() if index in turned else tensor for index, tensor in enumerate(inputs)
    )
    try:
        with quiet("litert-torch"):
            import litert_torch

            if turned or results:
                module = litert_torch.to_channel_last_io(module, args=turned, outputs=results)
            litert_torch.convert(_evaluated(module), inputs).export(str(path))
    except Exception as error:
        raise ExportError(
            f"the program cannot be converted to TFLite: {first_line(error)}",
            "run again with --debug for the converter's own words, or export --format onnx only",
        ) from error
    _require_known(path)


def _require_known(path: Path) -> None:
    """The converter leaves what it does not know, such as sorting, as StableHLO, of which runtimes know a little."""
    with quiet("ai-edge-litert"):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        try:
            plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            Interpreter(str(path), experimental_op_resolver_type=plain).allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ExportError(
                f"the program needs an operator that TFLite does not have: {first_line(error)}",
                "export --format onnx only",
            ) from error


def _lowered(program: Program) -> Program:
    for rewrite in (
        without_batch_norms,
        plain_upsampling,
        plain_windows,
        plain_pooling,
        plain_resizing,
        plain_repeats,
        channels_last,
    ):
        program = rewrite(program)
    return program


def specs(
    path: Path, form: Form, signature: str | None = None
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the file has them.

    Args:
        path: A TFLite file.
        form: What it was written as.
        signature: By which; the first where nothing is said.

    Raises:
        ExportError: If the runtime does not load what the converter made, as it knows fewer operators.
    """
    try:
        with quiet("ai-edge-litert"):
            from ai_edge_litert.interpreter import Interpreter

            interpreter = Interpreter(str(path))
            key = signature or next(iter(interpreter.get_signature_list()))
            runner = interpreter.get_signature_runner(key)
            inputs, outputs = runner.get_input_details(), runner.get_output_details()
    except (ValueError, RuntimeError) as error:
        raise ExportError(
            f"the runtime does not load the converted file: {first_line(error)}", "export --format onnx only"
        ) from error
    layout = "NHWC" if form.layout == "nhwc" else "NCHW"
    return (
        tuple(_spec(name, inputs[name], "NHWC" if form.pixels else layout) for name in in_order(inputs)),
        tuple(_spec(name, outputs[name], layout) for name in in_order(outputs)),
    )


def operators(path: Path) -> dict[str, int]:
    """How often each operator stands in a file, as it was written, before any runtime takes it over."""
    from collections import Counter

    with quiet("ai-edge-litert"):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = Interpreter(str(path), experimental_op_resolver_type=plain)
        return dict(Counter(each["op_name"] for each in interpreter._get_ops_details()))


def in_order(names: Any) -> list[str]:
    """``args_0, args_1, ..., args_10`` by number."""
    return sorted(names, key=lambda name: (len(name), name))


def _evaluated(module: torch.nn.Module) -> torch.nn.Module:
    for part in module.modules():
        part.training = False
    return module


def _spec(name: str, detail: dict[str, Any], image_layout: Any) -> TensorSpec:
    shape = tuple(int(size) for size in detail["shape"])
    return TensorSpec(
        name=name,
        shape=shape,
        dtype=str(np.dtype(detail["dtype"])),
        layout=image_layout if len(shape) == 4 else "other",
    )
