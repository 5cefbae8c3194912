"""ONNX: torch.onnx (dynamo), simplified by onnxsim, quantised by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgespa.bundle import TensorSpec
from edgespa.errors import ExportError
from edgespa.export.converter import PERCENTILE, PERCENTILE_SAMPLES
from edgespa.graph.program import BATCH, Program
from edgespa.quiet import first_line, quiet

OPSET = 20  # runs in onnxruntime 1.19, the newest for JetPack 5
EXTRA = "onnx"
PACKAGES = ("onnx", "onnxruntime", "onnxscript", "onnxsim")


def write_fp32(program: Program, path: Path) -> None:
    """Convert a program; a free batch size stays free, under the name ``batch``.

    Args:
        program: In evaluation form.
        path: The file to write.

    Raises:
        ExportError: If the converter or the simplifier fails.
    """
    import onnx
    import onnxsim

    inputs = program.example_inputs()
    free = torch.export.Dim(BATCH)
    shapes = tuple({0: free} if BATCH in spec.shape else None for spec in program.inputs)
    try:
        with quiet("torch.onnx"):
            exported = torch.onnx.export(
                program.module,
                inputs,
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                dynamic_shapes=shapes if any(shapes) else None,
                input_names=input_names(len(inputs)),
                output_names=output_names(program),
                verbose=False,
            )
            assert exported is not None
            model, checked = onnxsim.simplify(exported.model_proto)
    except Exception as error:
        raise ExportError(
            f"the program cannot be converted to ONNX: {first_line(error)}",
            "run again with --debug for the converter's own words, or export --format tflite only",
        ) from error
    if not checked:
        raise ExportError("onnxsim changed what the ONNX file computes", "please report the model")
    onnx.save(model, path)


def write_int8(source: Path, path: Path, samples: Sequence[Sequence[NDArray[np.float32]]], ranges: str) -> None:
    """Static int8 in QDQ form: weights per channel, activations per tensor.

    Args:
        source: The fp32 file.
        path: The file to write.
        samples: Calibration inputs, each a list of arrays with a batch of one.
        ranges: Where an activation's range ends: ``minmax``, its least and largest value, or ``percentile``, which
            leaves out one value in 10,000 (on at most `PERCENTILE_SAMPLES` inputs, whose activations are all held).

    Raises:
        ExportError: If the quantiser fails.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    percentile = ranges == "percentile"
    used = samples[:PERCENTILE_SAMPLES] if percentile else samples

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, names: list[str]) -> None:
            self._feeds: Iterator[dict[str, Any]] = (dict(zip(names, sample, strict=True)) for sample in used)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    inferred = path.with_suffix(".inferred.onnx")
    try:
        with quiet("onnxruntime.quantization"):
            model = onnx.shape_inference.infer_shapes(onnx.load(source))
            onnx.save(model, inferred)
            quantize_static(
                inferred,
                path,
                Reader([each.name for each in model.graph.input]),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.Percentile if percentile else CalibrationMethod.MinMax,
                extra_options={"CalibPercentile": PERCENTILE} if percentile else None,
            )
    except Exception as error:
        raise ExportError(
            f"the ONNX file cannot be quantised: {first_line(error)}", "export --precision fp32 only"
        ) from error
    finally:
        inferred.unlink(missing_ok=True)


def specs(program: Program, outputs: Sequence[NDArray[Any]]) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of the files, whatever their precision: QDQ files take and give float32 too.

    Args:
        program: The program.
        outputs: Example outputs, for their shapes.
    """
    names = input_names(len(program.inputs))
    inputs = tuple(
        TensorSpec(name=name, shape=spec.shape, dtype=numpy_name(spec.dtype), layout=_layout(spec.shape))
        for name, spec in zip(names, program.inputs, strict=True)
    )
    batch = BATCH if program.dynamic_batch else program.inputs[0].shape[0]
    results = tuple(
        TensorSpec(
            name=name,
            shape=(batch, *array.shape[1:]) if array.ndim else (),
            dtype=str(array.dtype),
            layout=_layout(array.shape),
        )
        for name, array in zip(output_names(program), outputs, strict=True)
    )
    return inputs, results


def input_names(count: int) -> list[str]:
    """Names of the inputs in every file."""
    return ["input"] if count == 1 else [f"input_{index}" for index in range(count)]


def output_names(program: Program) -> list[str]:
    """Names of the outputs in every file."""
    node = next(node for node in program.graph.nodes if node.op == "output")
    count = len(torch.utils._pytree.tree_leaves(node.args[0]))
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


def numpy_name(dtype: torch.dtype) -> str:
    """A torch dtype in numpy's words."""
    return str(torch.empty(0, dtype=dtype).numpy().dtype)


def _layout(shape: Sequence[int | str]) -> Any:
    return "NCHW" if len(shape) == 4 else "other"
