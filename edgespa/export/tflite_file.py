"""TFLite: litert-torch, quantised by ai-edge-quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespa.bundle import TensorSpec
from edgespa.errors import ExportError
from edgespa.export.converter import PERCENTILE, PERCENTILE_SAMPLES
from edgespa.graph.program import Program
from edgespa.quiet import first_line, quiet

_VALUES_PER_SAMPLE = 20_000
EXTRA = "tflite"
PACKAGES = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")


def write_fp32(program: Program, path: Path) -> None:
    """Convert a program for a batch of one; image inputs (four dimensions) become channels-last.

    Args:
        program: In evaluation form.
        path: The file to write.

    Raises:
        ExportError: If the converter fails.
    """
    module = program.copy().module
    for part in module.modules():
        part.training = False  # an exported module refuses .eval(), and the converter asks
    inputs = program.example_inputs(batch=1)
    images = [index for index, tensor in enumerate(inputs) if tensor.dim() == 4]
    sample = tuple(
        tensor.permute(0, 2, 3, 1).contiguous() if index in images else tensor for index, tensor in enumerate(inputs)
    )
    try:
        with quiet("litert-torch"):
            import litert_torch

            wrapped = litert_torch.to_channel_last_io(module, args=images) if images else module
            litert_torch.convert(wrapped.eval() if images else module, sample).export(str(path))
    except Exception as error:
        raise ExportError(
            f"the program cannot be converted to TFLite: {first_line(error)}",
            "run again with --debug for the converter's own words, or export --format onnx only",
        ) from error


def write_int8(source: Path, path: Path, samples: Sequence[Sequence[NDArray[np.float32]]], ranges: str) -> None:
    """Static int8: weights per channel, activations per tensor, int8 inputs and outputs.

    Args:
        source: The fp32 file.
        path: The file to write.
        samples: Calibration inputs in the program's layout, each a list of arrays with a batch of one.
        ranges: Where an activation's range ends, as in `edgespa.export.onnx_file.write_int8`.

    Raises:
        ExportError: If the quantiser fails.
    """
    try:
        with quiet("ai-edge-quantizer"):
            from ai_edge_quantizer import quantizer, recipe
            from ai_edge_quantizer.calibrator import Calibrator
            from ai_edge_quantizer.recipe_manager import RecipeManager
            from ai_edge_quantizer.utils.qsv_utils import min_max_update

            key, names, ranks = _signature(source)
            feeds = [
                {name: _to_nhwc(array, rank) for name, array, rank in zip(names, sample, ranks, strict=True)}
                for sample in samples
            ]
            rules = recipe.static_wi8_ai8()
            manager = RecipeManager()
            manager.load_quantization_recipe(rules)
            # the quantizer's own calibration takes a moving average of the ranges, which cuts off what is rare
            calibrator = Calibrator(str(source), num_threads=1, qsv_update_func=min_max_update)
            calibrator.calibrate({key: feeds}, manager)
            found = calibrator.get_model_qsvs()
            if ranges == "percentile":
                _clip(found, _percentiles(source, key, feeds[:PERCENTILE_SAMPLES]))
            quantizer.Quantizer(str(source), rules).quantize(found).export_model(str(path), overwrite=True)
    except Exception as error:
        raise ExportError(
            f"the TFLite file cannot be quantised: {first_line(error)}", "export --precision fp32 only"
        ) from error


def specs(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the file has them.

    Args:
        path: A TFLite file with one signature.
    """
    with quiet("ai-edge-litert"):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path))
        key = next(iter(interpreter.get_signature_list()))
        runner = interpreter.get_signature_runner(key)
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
    return (
        tuple(_spec(name, inputs[name], "NHWC") for name in _in_order(inputs)),
        tuple(_spec(name, outputs[name], "NCHW") for name in _in_order(outputs)),
    )


def _signature(path: Path) -> tuple[str, list[str], list[int]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    key = next(iter(interpreter.get_signature_list()))
    details = interpreter.get_signature_runner(key).get_input_details()
    names = _in_order(details)
    return key, names, [len(details[name]["shape"]) for name in names]


def _percentiles(source: Path, key: str, feeds: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Range of each float activation without its outermost values, from an evenly spaced part of them."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(source),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner(key)
    activations = [detail for detail in interpreter.get_tensor_details() if detail["dtype"] is np.float32]
    seen: dict[str, list[NDArray[np.float32]]] = {}
    for feed in feeds:
        runner(**feed)
        for detail in activations:
            try:
                values = interpreter.get_tensor(detail["index"]).ravel()
            except ValueError:  # a tensor that the runtime has optimised away
                continue
            seen.setdefault(detail["name"], []).append(values[:: max(1, values.size // _VALUES_PER_SAMPLE)].copy())
    tail = (100 - PERCENTILE) / 100
    return {name: tuple(np.quantile(np.concatenate(parts), [tail, 1 - tail])) for name, parts in seen.items()}


def _clip(ranges: dict[str, Any], percentiles: dict[str, tuple[float, float]]) -> None:
    """Narrow the ranges of activations in place; per-channel ranges, which belong to weights, stay."""
    for name, entry in ranges.items():
        if name in percentiles and entry and np.size(entry["min"]) == 1:
            low, high = percentiles[name]
            if low < high:
                entry["min"] = np.full_like(entry["min"], low)
                entry["max"] = np.full_like(entry["max"], high)


def _in_order(names: Any) -> list[str]:
    """``args_0, args_1, ..., args_10`` by number."""
    return sorted(names, key=lambda name: (len(name), name))


def _spec(name: str, detail: dict[str, Any], image_layout: Any) -> TensorSpec:
    shape = tuple(int(size) for size in detail["shape"])
    return TensorSpec(
        name=name,
        shape=shape,
        dtype=str(np.dtype(detail["dtype"])),
        layout=image_layout if len(shape) == 4 else "other",
    )


def _to_nhwc(array: NDArray[np.float32], rank: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if rank == 4 else array
