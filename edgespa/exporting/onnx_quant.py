"""Smaller ONNX files from the fp32 one: int8 by ONNX Runtime's quantiser, int8 weights, half precision.

Activations are unsigned: on x86 int8 convolutions with signed ones took four times as long as in float, with unsigned
ones half (ONNX Runtime 1.31, ResNet-56); its kernels for Arm take both. Only layers with weights are quantised, and
gates where that is near enough; sums, normalisations, softmax and products of two matrices stay in float, which makes
transformers both faster and more exact than quantising all that can be.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespa.exporting.corrections import Correction
from edgespa.exporting.onnx_graph import ABSORBED, parts_of
from edgespa.exporting.onnx_layers import channel_axis, with_corrections
from edgespa.exporting.refusals import refused
from edgespa.quantisation.fitness import unfit
from edgespa.quantisation.ranges import Observed, Range, find_ranges
from edgespa.quantisation.sensitivity import by_weights
from edgespa.system.quiet import quiet

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# x * sigmoid(x) and squeeze and excitation: EfficientNet-B0 took 1.2 times as long as in float with its convolutions
# alone in int8, 0.97 times with these.
_GATES = ("Sigmoid", "Mul")
_LEAST_WEIGHTS = 1024


class OnnxQuantiser:
    """An fp32 file, ready to be quantised in several ways.

    Args:
        source: The file.
        symmetric: Activations in int8 with zero at level 0, biases in float32: what TensorRT takes. Elsewhere unsigned,
            with zero at any level.

    Attributes:
        unfit: Layers and gates that stay in float whatever is asked for, with the reasons; known when they have been
            observed.
        rest_ways: What can be done to the weights of layers that stay in float.
        stores_terms: Whether constants that are no layer's weights can be stored smaller.
        whole: Whether no layer can stay in float.
    """

    whole = False
    rest_ways = ("stored",)
    stores_terms = False
    weight_ways = ("dynamic", "stored")

    def __init__(self, source: Path, *, symmetric: bool = False) -> None:
        import onnx

        self._symmetric = symmetric
        self._model = onnx.shape_inference.infer_shapes(onnx.load(source))
        for index, node in enumerate(self._model.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"
        self._constants = {each.name for each in self._model.graph.initializer}
        self._nodes = {
            node.name: node
            for node in self._model.graph.node
            if node.op_type in LAYERS and node.input[1] in self._constants and node.input[0] not in self._constants
        }
        kinds = {node.op_type for node in self._model.graph.node}
        joins = _GATES if "Sigmoid" in kinds else ()
        self._gates = {node.name: node for node in self._model.graph.node if node.op_type in joins}
        self.unfit: dict[str, str] = {}

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Of `layers`, a row for each output channel; but for transposed convolutions, whose rows are no channels."""
        import onnx

        constants = {each.name: each for each in self._model.graph.initializer}
        found = {}
        for name in self.layers:
            node = self._nodes[name]
            weight = onnx.numpy_helper.to_array(constants[node.input[1]])
            if node.op_type != "ConvTranspose" and weight.dtype == np.float32 and weight.size:
                axis = channel_axis(node, weight.ndim)
                found[name] = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
        return found

    def around(self, layer: str) -> tuple[str, str]:
        """Names of what a layer reads, and of what it gives behind its activation function.

        Args:
            layer: One of `layers`.
        """
        output = self._nodes[layer].output[0]
        while len(readers := [node for node in self._model.graph.node if output in node.input]) == 1:
            if readers[0].op_type not in ABSORBED:
                break
            output = readers[0].output[0]
        return self._nodes[layer].input[0], output

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that can be quantised, in order."""
        return tuple(name for name in self._nodes if name not in self.unfit)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Names of the layers that are unfit."""
        return tuple(name for name in self._nodes if name in self.unfit)

    @property
    def alike(self) -> tuple[tuple[str, ...], ...]:
        """`layers` that have the same weights, together: the steps of a recurrence that is written out are one."""
        import onnx

        constants = {each.name: each for each in self._model.graph.initializer}
        return by_weights({n: onnx.numpy_helper.to_array(constants[self._nodes[n].input[1]]) for n in self.layers})

    @property
    def joins(self) -> tuple[str, ...]:
        """Kinds of operators without weights that may be quantised too: gates. By sums nothing is gained."""
        return tuple(sorted({node.op_type for name, node in self._gates.items() if name not in self.unfit}))

    def observe(self, feeds: Sequence[Sequence[NDArray[Any]]]) -> dict[str, Observed]:
        """Run the fp32 file and see what the activations around its layers hold, and what of it is `unfit`.

        Args:
            feeds: One list of inputs for each run, in the file's layout.
        """
        import onnx

        around = [
            node
            for node in self._model.graph.node
            if node.name in self._nodes or node.name in self._gates or node.op_type in ABSORBED
        ]
        parts = parts_of(self._model, [*self._nodes.values(), *self._gates.values()])
        shown = {name for part in parts for name in part.shown}
        wanted = {name for node in around for name in (node.input[0], *node.output)} | shown
        wanted |= {name for node in self._gates.values() for name in node.input}
        # Sizes are multiplied, too: they are no activations.
        wanted -= {*self._constants, *_of_other_types(self._model)}
        inputs = [each.name for each in self._model.graph.input]
        model = copy.deepcopy(self._model)
        del model.graph.output[:]
        float32 = onnx.TensorProto.FLOAT
        inner = sorted(wanted - set(inputs))
        model.graph.output.extend(onnx.helper.make_tensor_value_info(name, float32, None) for name in inner)
        session = _session(model)
        observed = {name: Observed.of(spread=name in shown) for name in wanted}
        for feed in feeds:
            arrays = dict(zip(inputs, feed, strict=True))
            results = {**arrays, **dict(zip(inner, session.run(inner, arrays), strict=True))}
            for name in wanted:
                array = results[name]
                observed[name].add(array if array.shape[:1] == feed[0].shape[:1] else array[None])
        self.unfit = unfit(parts, observed)
        self.unfit |= refused(self, find_ranges(observed, "minmax"), "onnx")
        return observed

    def write_static(
        self,
        path: Path,
        ranges: Mapping[str, Range],
        *,
        only: Collection[str] = (),
        without: Collection[str] = (),
        joined: bool = False,
        rest: str | None = None,
        corrections: Mapping[str, Correction] = MappingProxyType({}),
    ) -> None:
        """Static int8 in QDQ form: weights per channel, activations per tensor; float32 inputs and outputs.

        Args:
            path: The file to write.
            ranges: Of each activation, from `observe`.
            only: Layers to quantise; empty for all.
            without: Layers that stay in float.
            joined: Quantise `joins` too.
            rest: ``stored``: layers that stay in float have their weights in int8, see `write_weights`.
            corrections: Weights and biases in place of their own, of those that are quantised.
        """
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        chosen = set(only or self.layers) - set(without) - set(self.unfit)
        others = (*ABSORBED, *(self.joins if joined else ()))
        between = [
            node.name for node in self._model.graph.node if node.op_type in others and node.name not in self.unfit
        ]
        data = {
            name: TensorData(lowest=np.array(low, dtype=np.float32), highest=np.array(high, dtype=np.float32))
            for name, (low, high) in ranges.items()
        }
        with quiet("onnxruntime.quantization"):
            quantizer = QDQQuantizer(
                with_corrections(self._model, {name: corrections[name] for name in chosen if name in corrections}),
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QInt8 if self._symmetric else QuantType.QUInt8,
                tensors_range=TensorsData(CalibrationMethod.MinMax, data),
                nodes_to_quantize=[*chosen, *between],
                nodes_to_exclude=[],
                op_types_to_quantize=[*LAYERS, *others],
                extra_options={
                    "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
                    "ActivationSymmetric": self._symmetric,
                    "QuantizeBias": not self._symmetric,
                },
            )
            quantizer.quantize_model()
        model = quantizer.model.model
        onnx.save(_tidied(_with_stored_weights(model) if rest else model, self._model), path)

    def write_weights(self, path: Path, way: str) -> None:
        """Weights in int8 per channel; activations stay in float.

        Args:
            path: The file to write.
            way: ``dynamic``: products with a matrix of weights are computed in int8, with the range of each activation
                found as it runs, and all other weights are stored; ``stored``: all weights are int8 in the file, the
                arithmetic is that of float.
        """
        import onnx

        model = copy.deepcopy(self._model)
        if way == "dynamic":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            with quiet("onnxruntime.quantization"):
                trial = path.with_name(f"dynamic-{path.name}")
                try:
                    quantize_dynamic(
                        model, trial, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"]
                    )
                    model = onnx.load(trial)
                finally:
                    trial.unlink(missing_ok=True)
        onnx.save(_tidied(_with_stored_weights(model), self._model), path)

    def write_half(self, path: Path) -> None:
        """Half precision inside, float32 (or pixels) outside: for GPUs, and half the bytes.

        Transpositions before a MatMul stay in float32: ONNX Runtime crashes on x86-64 when it fuses one in half
        precision (seen with 1.31.1; its issue 28392 names 1.24.4 and 1.25.1).

        Args:
            path: The file to write.
        """
        import onnx
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

        with quiet("onnxruntime.transformers"):
            blocked = [*DEFAULT_OP_BLOCK_LIST, *_without_half(self._model)]
            model = convert_float_to_float16(copy.deepcopy(self._model), keep_io_types=True, op_block_list=blocked)
        _cast_once(model)
        _transpose_in_float(model)
        onnx.save(_tidied(model, self._model), path)


def _without_half(model: Any) -> set[str]:
    """Kinds of operators that half precision is not defined for, Celu for one."""
    import onnx

    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    found = set()
    for kind in {node.op_type for node in model.graph.node if node.domain in ("", "ai.onnx")}:
        types = [set(each.allowed_type_strs) for each in onnx.defs.get_schema(kind, opset).type_constraints]
        floats = [each for each in types if "tensor(float)" in each]
        if floats and not any("tensor(float16)" in each for each in floats):
            found.add(kind)
    return found


def _cast_once(model: Any) -> None:
    """Drop a cast that is there already: the converter writes one for each operator in float that reads a value."""
    nodes, made = list(model.graph.node), set()
    model.graph.ClearField("node")
    for node in nodes:
        if node.op_type != "Cast" or node.output[0] not in made:
            model.graph.node.append(node)
            made.add(node.output[0])


def _transpose_in_float(model: Any) -> None:
    """Put the transpositions whose result a MatMul takes between casts."""
    from onnx import TensorProto, helper

    nodes = list(model.graph.node)
    taken = {value for node in nodes if node.op_type == "MatMul" for value in node.input}
    model.graph.ClearField("node")
    for node in nodes:
        if node.op_type != "Transpose" or node.output[0] not in taken:
            model.graph.node.append(node)
            continue
        result = node.output[0]
        before, after = f"{result}_before_in_float", f"{result}_in_float"
        into = helper.make_node("Cast", [node.input[0]], [before], to=TensorProto.FLOAT)
        out_of = helper.make_node("Cast", [after], [result], to=TensorProto.FLOAT16)
        node.input[0], node.output[0] = before, after
        model.graph.node.extend([into, node, out_of])


def _of_other_types(model: Any) -> set[str]:
    """Values that are known not to be float32."""
    import onnx

    return {
        each.name
        for each in (*model.graph.input, *model.graph.value_info, *model.graph.output)
        if each.type.tensor_type.elem_type not in (0, onnx.TensorProto.FLOAT)
    }


def _with_stored_weights(model: Any) -> Any:
    """Each float weight of a layer as int8 times a scale, max|w| / 127 of the channel.

    Written as ``Cast`` and ``Mul``, which ONNX Runtime computes once, as it loads the file. A ``DequantizeLinear`` it
    keeps, and computes at each run: MobileNetV2 took 14.5 ms instead of 7.7.
    """
    import onnx
    from onnx import helper, numpy_helper

    constants = {each.name: each for each in model.graph.initializer}
    done: dict[str, tuple[Any, Any]] = {}
    for node in model.graph.node:
        if node.op_type not in LAYERS or node.input[1] not in constants:
            continue
        name = node.input[1]
        weight = numpy_helper.to_array(constants[name])
        if weight.dtype != np.float32 or weight.size < _LEAST_WEIGHTS:
            continue
        if name not in done:
            axis = channel_axis(node, weight.ndim)
            others = tuple(each for each in range(weight.ndim) if each != axis)
            scale = np.maximum(np.abs(weight).max(axis=others) / 127, np.finfo(np.float32).tiny).astype(np.float32)
            shape = [-1 if each == axis else 1 for each in range(weight.ndim)]
            levels = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
            model.graph.initializer.append(numpy_helper.from_array(levels, f"{name}_int8"))
            model.graph.initializer.append(numpy_helper.from_array(scale.reshape(shape), f"{name}_scale"))
            plain, output = f"{name}_levels", f"{name}_float"
            done[name] = (
                helper.make_node("Cast", [f"{name}_int8"], [plain], name=plain, to=onnx.TensorProto.FLOAT),
                helper.make_node("Mul", [plain, f"{name}_scale"], [output], name=output),
            )
        node.input[1] = f"{name}_float"
    nodes = [*(node for pair in done.values() for node in pair), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [each for each in model.graph.initializer if each.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _tidied(model: Any, source: Any) -> Any:
    """Without what only the quantiser needed, with the source's IR version, and as the standard wants it.

    Quantisers append nodes behind those that read them: ONNX Runtime forgives it, other tools do not.
    """
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel

    ONNXModel(model).topological_sort()
    model.ir_version = source.ir_version
    del model.graph.value_info[:]
    del model.metadata_props[:]
    onnx.checker.check_model(model)
    return model


def _session(model: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
