"""Smaller TFLite files from the fp32 one, by ai-edge-quantizer.

Only layers with weights are quantised: what XNNPACK computes faster in int8. On ViT-tiny, int8 for all that can be took
1.7 times as long as float, for its layers alone 0.45 times.
"""

from __future__ import annotations

import copy
import re
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespa.export.ranges import Observed, Range
from edgespa.export.tflite_file import in_order
from edgespa.quiet import quiet

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# What lies between convolutions: in int8 too, they save its way to float and back, at some loss.
JOINS = (
    *("ADD", "CONCATENATION", "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD", "STRIDED_SLICE"),
    *("MUL", "LOGISTIC", "HARD_SWISH", "MEAN"),
)
_LEAST_TERM_BYTES = 4096
_HALF_LAYERS = (*LAYERS, "CONV_2D_TRANSPOSE")


class TfliteQuantiser:
    """An fp32 file, ready to be quantised in several ways.

    Args:
        source: The file.

    Attributes:
        layers: Names of the layers that can be quantised, in order.
        joins: Kinds of operators without weights that are there and may be quantised too.
        rest_ways: What can be done to the weights of layers that stay in float, the smallest first.
    """

    rest_ways = ("stored", "half")
    weight_ways = ("dynamic", "stored")

    def __init__(self, source: Path) -> None:
        with quiet("ai-edge-quantizer"):
            from ai_edge_quantizer.utils import tfl_flatbuffer_utils

            self._source = source
            model = tfl_flatbuffer_utils.read_model(str(source))
            graph = model.subgraphs[0]
            self._kinds: dict[str, str] = {}
            self._scopes: dict[str, str] = {}
            self._tensors: set[int] = set()
            joins: set[str] = set()
            for index, each in enumerate(graph.operators):
                # Not all operators are known there, Cast for one.
                known = tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME.get(model.operatorCodes[each.opcodeIndex].builtinCode)
                kind = known.value if known is not None else ""
                weight = each.inputs[1] if len(each.inputs) > 1 else -1
                constant = weight >= 0 and model.buffers[graph.tensors[weight].buffer].data is not None
                if kind in LAYERS and constant:
                    name = f"{kind.lower()}_{index}"
                    self._kinds[name] = kind
                    self._scopes[name] = tfl_flatbuffer_utils.get_op_scope(each, graph.tensors)
                    self._tensors |= {int(each.inputs[0]), *(int(output) for output in each.outputs)}
                elif kind in JOINS:
                    joins.add(kind)
                    self._tensors |= {
                        int(tensor)
                        for tensor in (*each.inputs, *each.outputs)
                        if tensor >= 0 and model.buffers[graph.tensors[tensor].buffer].data is None
                    }
        self.layers: tuple[str, ...] = tuple(self._kinds)
        self.joins: tuple[str, ...] = tuple(sorted(joins))

    def observe(self, feeds: Sequence[Sequence[NDArray[Any]]]) -> dict[str, Observed]:
        """Run the fp32 file and see what the activations around its layers hold.

        Args:
            feeds: One list of inputs for each run, in the file's layout.
        """
        with quiet("ai-edge-litert"):
            from ai_edge_litert.interpreter import Interpreter, OpResolverType

            interpreter = Interpreter(
                str(self._source),
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_preserve_all_tensors=True,
            )
            interpreter.allocate_tensors()
            runner = interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
            names = in_order(runner.get_input_details())
            details = [each for each in interpreter.get_tensor_details() if each["index"] in self._tensors]
            observed = {str(each["name"]): Observed() for each in details}
            for feed in feeds:
                runner(**dict(zip(names, feed, strict=True)))
                for each in details:
                    observed[str(each["name"])].add(interpreter.get_tensor(each["index"]))
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
    ) -> None:
        """Static int8: weights per channel, activations per tensor; float32 inputs and outputs.

        Args:
            path: The file to write.
            ranges: Of each activation, from `observe`.
            only: Layers to quantise; empty for all.
            without: Layers that stay in float.
            joined: Quantise `joins` too.
            rest: Weights of layers that stay in float: ``stored`` in int8, see `write_weights`; in ``half`` precision.
        """
        from ai_edge_quantizer import qtyping
        from ai_edge_quantizer.recipe_manager import RecipeManager

        found = {
            name: {"min": np.array(low, dtype=np.float32), "max": np.array(high, dtype=np.float32)}
            for name, (low, high) in ranges.items()
        }
        rules = RecipeManager()
        chosen = [name for name in only or self.layers if name not in without]
        for name in chosen:
            rules.add_static_config(self._pattern(name), self._operation(name), 8, 8)
        for kind in self.joins if joined else ():
            rules.add_static_config(".*", qtyping.TFLOperationName(kind), 8, 8)
        if rest is not None:
            for name in (each for each in self.layers if each not in chosen):
                self._shrink(rules, name, rest)
        if chosen or rest:
            self._write(path, rules, found)
            _store_terms(path)
        else:
            shutil.copyfile(self._source, path)

    def write_weights(self, path: Path, way: str) -> None:
        """Weights in int8; activations stay in float.

        Only what tflite-runtime 2.14 computes as newer runtimes do: it takes a scale per channel for convolutions with
        ranges found as they run, and for nothing else (it gave wrong scores without a word: cosine 0.04 on ResNet-20).
        Fully connected layers have one scale; depthwise convolutions, which hold few weights and need a scale per
        channel, stay in float.

        Args:
            path: The file to write.
            way: ``dynamic``: the arithmetic is int8, with the range of each activation found as it runs; ``stored``: it
                is that of float, with one scale for each weight.
        """
        from ai_edge_quantizer.recipe_manager import RecipeManager

        rules = RecipeManager()
        for name in self.layers:
            self._shrink(rules, name, way)
        self._write(path, rules, None)

    def write_half(self, path: Path) -> None:
        """Weights in half precision; the arithmetic is that of float, or of half where a delegate has it.

        Args:
            path: The file to write.
        """
        from ai_edge_quantizer import qtyping
        from ai_edge_quantizer.algorithm_manager import AlgorithmName
        from ai_edge_quantizer.recipe_manager import RecipeManager

        rules = RecipeManager()
        for kind in _HALF_LAYERS:
            rules.add_weight_only_config(
                ".*", qtyping.TFLOperationName(kind), num_bits=16, algorithm_key=AlgorithmName.FLOAT_CASTING
            )
        self._write(path, rules, None)

    def _shrink(self, rules: Any, name: str, way: str) -> None:
        """A rule for the weights of one layer: ``dynamic``, ``stored`` or ``half``."""
        from ai_edge_quantizer.algorithm_manager import AlgorithmName
        from ai_edge_quantizer.qtyping import QuantGranularity

        where = (self._pattern(name), self._operation(name))
        kind = self._kinds[name]
        if way == "half":
            rules.add_weight_only_config(*where, num_bits=16, algorithm_key=AlgorithmName.FLOAT_CASTING)
        elif kind != "DEPTHWISE_CONV_2D":
            add = rules.add_dynamic_config if way == "dynamic" else rules.add_weight_only_config
            channels = way == "dynamic" and kind == "CONV_2D"
            granularity = QuantGranularity.CHANNELWISE if channels else QuantGranularity.TENSORWISE
            add(*where, num_bits=8, granularity=granularity)

    def _pattern(self, name: str) -> str:
        return f"^{re.escape(self._scopes[name])}$"

    def _operation(self, name: str) -> Any:
        from ai_edge_quantizer import qtyping

        return qtyping.TFLOperationName(self._kinds[name])

    def _write(self, path: Path, rules: Any, found: dict[str, Any] | None) -> None:
        with quiet("ai-edge-quantizer"):
            from ai_edge_quantizer import quantizer

            tool = quantizer.Quantizer(str(self._source), rules.get_quantization_recipe())
            tool.quantize(found).export_model(str(path), overwrite=True)


def _store_terms(path: Path) -> None:
    """Large constants that are added or multiplied, such as position embeddings: in int8, made float as the file loads.

    ai-edge-quantizer leaves them as they are where it leaves their operator, which computes faster in float.

    Args:
        path: A file with quantised layers; it is written again.
    """
    with quiet("flatbuffers"):
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.read_model(str(path))
        graph, kinds = model.subgraphs[0], schema.BuiltinOperator
        codes = [each.builtinCode for each in model.operatorCodes]
        if kinds.DEQUANTIZE not in codes:
            return
        added = []
        holders = Counter(int(tensor.buffer) for tensor in graph.tensors)
        for index in sorted(
            {int(each) for node in graph.operators if codes[node.opcodeIndex] in _terms(kinds) for each in node.inputs}
        ):
            tensor = graph.tensors[index]
            content = model.buffers[tensor.buffer].data
            if content is None or tensor.type != schema.TensorType.FLOAT32 or len(content) < _LEAST_TERM_BYTES:
                continue
            if holders[int(tensor.buffer)] > 1:
                continue
            values = np.frombuffer(bytes(content), dtype=np.float32)
            scale = float(np.abs(values).max()) / 127
            if not np.isfinite(scale) or not scale:
                continue
            stored = copy.copy(tensor)
            stored.name, stored.type = tensor.name + b"_stored", schema.TensorType.INT8
            stored.quantization = schema.QuantizationParametersT()
            stored.quantization.scale, stored.quantization.zeroPoint = [scale], [0]
            model.buffers[tensor.buffer].data = np.round(values / scale).astype(np.int8).view(np.uint8)
            tensor.buffer = 0  # the empty one
            graph.tensors.append(stored)
            node = schema.OperatorT()
            node.opcodeIndex = codes.index(kinds.DEQUANTIZE)
            node.inputs, node.outputs = [len(graph.tensors) - 1], [index]
            added.append(node)
        if added:
            graph.operators = [*added, *graph.operators]
            flatbuffer_utils.write_model(model, str(path))


def _terms(kinds: Any) -> tuple[int, ...]:
    return kinds.ADD, kinds.SUB, kinds.MUL
