"""How far each layer of a smaller file is from the float32 file of its format: where in the network precision is lost.

The float32 file is proved to be the program. Files may be anybody's, so they are read and run in a process of its own
(``python -m edgespa.exporting.layer_errors FOLDER VARIANT REFERENCE SECONDS``), which bounds its memory and time.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespa.bundle import Manifest, Variant
from edgespa.device import runner
from edgespa.device.runner.bundle import inside
from edgespa.device.runner.confine import limit_memory, limit_time, memory_for
from edgespa.device.runner.in_onnxruntime import open_session
from edgespa.device.runner.layouts import feed_by_name
from edgespa.errors import DeviceError
from edgespa.system.isolated import NoAnswerError, answer_of

MOST_SAMPLES = 8
MOST_LAYERS = 2000
_TIMES = 3  # the memory of a run: two files, and what lies between their layers is kept
_ONNX_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_TFLITE_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")


@dataclasses.dataclass(frozen=True)
class LayerError:
    """One layer of a smaller file.

    Attributes:
        layer: The module whose weights it has, or as the file calls what it gives.
        op: What it computes.
        error: Of what it gives, all that comes before it included, against its spread: rms(a - b) / std(b).
    """

    layer: str
    op: str
    error: float

    @property
    def snr_db(self) -> float:
        """The same as a ratio of signal to noise in decibels."""
        return -20 * math.log10(self.error) if self.error > 0 else math.inf


def layer_errors(folder: Path, manifest: Manifest, variant: Variant, *, timeout_s: float) -> tuple[LayerError, ...]:
    """Run the recorded inputs through a file and the float32 file of its format, and compare what their layers give.

    Args:
        folder: Of the bundle, whose files have been checked.
        manifest: Its manifest.
        variant: A smaller file.
        timeout_s: End it after so long.

    Returns:
        In the order of the file; empty where there is no float32 file of the format, or the format tells nothing of
        its layers.

    Raises:
        DeviceError: The files do not run so.
    """
    reference = next(
        (each for each in manifest.variants if (each.format, each.precision) == (variant.format, "fp32")), None
    )
    if reference is None or variant.precision == "fp32" or variant.format not in _READERS or variant.weights:
        return ()
    try:
        rows = answer_of(__name__, str(folder.absolute()), variant.name, reference.name, str(timeout_s))
    except NoAnswerError as error:
        raise DeviceError(f"{variant.name}: its layers cannot be compared: {error}", "leave out --by-layer") from error
    return tuple(LayerError(str(layer)[:200], str(op)[:40], float(error)) for layer, op, error in rows[:MOST_LAYERS])


def _compared(
    folder: Path, variant: Mapping[str, Any], reference: Mapping[str, Any], inputs: Sequence[Any]
) -> list[Any]:
    own, other_file = (_READERS[variant["format"]](folder, each) for each in (variant, reference))
    squares: dict[str, list[float]] = {}
    for at in range(min(MOST_SAMPLES, len(inputs[0]))):
        one = [array[at : at + 1] for array in inputs]
        theirs = {name: array for (name, _, _), array in other_file(one).items()}
        for (name, layer, op), values in own(one).items():
            other = theirs.get(name)
            if other is None or other.shape != values.shape:
                continue
            sums = squares.setdefault(json.dumps([layer, op, name]), [0.0] * 4)
            found = (np.square(values - other).sum(), other.sum(), np.square(other).sum(), other.size)
            sums[:] = [so_far + float(new) for so_far, new in zip(sums, found, strict=True)]
    rows = []
    for key, (error, total, square, count) in squares.items():
        layer, op, _ = json.loads(key)
        spread = square / count - (total / count) ** 2
        if spread > 0 and math.isfinite(error):
            rows.append([layer, op, math.sqrt(error / count / spread)])
    return rows


Told = dict[tuple[str, str, str], NDArray[np.float64]]
"""What layers give, by the name of the tensor, the layer and what it computes."""


Read = Callable[[Sequence[Any]], Told]
"""An opened file: from one sample to what its layers give."""


def _of_onnx(folder: Path, variant: Mapping[str, Any]) -> Read:
    import onnx
    import onnxruntime

    model = onnx.load(inside(folder, variant["file"]), load_external_data=False)
    constants = {each.name for each in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    given = {each.name for each in model.graph.output}
    levels = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    values_of = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    # What a layer gives is read behind its levels: a ReLU may be nothing but where those begin.
    layers = {}
    for node in model.graph.node:
        if node.op_type in _ONNX_LAYERS and (weight := _weight_of(node, makers, constants)) is not None:
            name = node.output[0]
            layer = weight.removesuffix("_quantized").removesuffix(".weight")
            layers[name] = values_of.get(levels.get(name, ""), name), layer, node.op_type
    whole = variant["precision"] == "fp32"  # all that may be compared with
    shown = {name: (name, name, "") for node in model.graph.node for name in node.output} if whole else layers
    model.graph.output.extend(onnx.ValueInfoProto(name=each) for each, _, _ in shown.values() if each not in given)
    session = open_session(onnxruntime, model.SerializeToString(), 1, ["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]

    def read(inputs: Sequence[Any]) -> Told:
        results = dict(zip(names, session.run(names, feed_by_name(list(inputs), dict(variant))), strict=True))
        return {
            (name, layer, op): results[told].astype(np.float64)
            for name, (told, layer, op) in shown.items()
            if np.issubdtype(results[told].dtype, np.floating)
        }

    return read


def _weight_of(node: Any, makers: Mapping[str, Any], constants: set[str]) -> str | None:
    name = node.input[1]
    while (
        name not in constants and name in makers and makers[name].op_type in ("DequantizeLinear", "Cast", "Transpose")
    ):
        name = makers[name].input[0]
    return name if name in constants else None


def _of_tflite(folder: Path, variant: Mapping[str, Any]) -> Read:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        str(inside(folder, variant["file"])),
        num_threads=1,
        experimental_op_resolver_type=plain,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    model = runner.open_model(folder, dict(variant), 1, runner.import_runtime("tflite")[0])
    details = {each["index"]: each for each in interpreter.get_tensor_details()}
    layers = [each for each in interpreter._get_ops_details() if each["op_name"] in _TFLITE_LAYERS]

    def read(inputs: Sequence[Any]) -> Told:
        for detail, array in zip(model.input_details, model.feed(list(inputs)), strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        found: Told = {}
        counts: dict[str, int] = {}
        for operator in layers:
            name = operator["op_name"]
            counts[name] = counts.get(name, 0) + 1
            detail = details[operator["outputs"][0]]
            values = interpreter.get_tensor(detail["index"]).astype(np.float64)
            scale, zero = detail["quantization"]
            title = f"{name} {counts[name]}"
            found[title, title, name] = (values - zero) * scale if scale else values
        return found

    return read


_READERS = {"onnx": _of_onnx, "tflite": _of_tflite}


def main(arguments: Sequence[str]) -> None:
    """Compare one file with another, and say it in a line of JSON.

    Args:
        arguments: The bundle's folder, the names of the variant and of its reference, seconds.
    """
    folder = Path(arguments[0])
    manifest = runner.read_bundle(folder)
    (variant,), (reference,) = (
        [each for each in manifest["variants"] if each["name"] == name] for name in arguments[1:3]
    )
    limit_memory(_TIMES * memory_for(folder, [variant, reference], 1))
    limit_time(float(arguments[3]))
    inputs = runner.read_samples(folder, manifest).inputs
    print(json.dumps(_compared(folder, variant, reference, inputs)))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
