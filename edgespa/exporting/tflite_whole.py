"""TFLite files whose every operator, input and output is in int8, as accelerators take them (Coral's Edge TPU, NPUs).

Such files have no layers in float: what int8 loses is lost, and a file that is too far off is none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgespa.errors import ExportError
from edgespa.exporting.corrections import Correction
from edgespa.exporting.tflite_packed import packed
from edgespa.exporting.tflite_quant import NOTHING, TfliteQuantiser
from edgespa.quantisation.fitness import Part
from edgespa.quantisation.ranges import Observed, Range

_MIDDLE = 128


class WholeTfliteQuantiser(TfliteQuantiser):
    """An fp32 file, ready to be quantised as a whole.

    Args:
        source: The file.
        numbers: Of its inputs and outputs.
    """

    whole = True

    def __init__(self, source: Path, numbers: Literal["int8", "uint8"]) -> None:
        super().__init__(source)
        self._numbers = numbers

    def write_static(
        self,
        path: Path,
        ranges: Mapping[str, Range],
        *,
        only: Collection[str] = (),
        without: Collection[str] = (),
        joined: bool = False,
        rest: str | None = None,
        terms: bool = False,
        corrections: Mapping[str, Correction] = NOTHING,
    ) -> None:
        """All in int8, whatever else is asked for; inputs and outputs too.

        Args:
            path: The file to write.
            ranges: Of each activation, from `observe`.
            only: For nothing here, as what follows.
            without: See there.
            joined: See there.
            rest: See there.
            terms: See there.
            corrections: Weights and biases in place of their own.

        Raises:
            ExportError: Something of it cannot be in int8.
        """
        from ai_edge_quantizer import recipe

        self._write_calibrated(path, recipe.static_wi8_ai8(), tuple(self._operators), ranges, corrections)
        _require_whole(path)
        if self._numbers == "uint8":
            path.write_bytes(_in_uint8(path.read_bytes()))

    def _unfit(self, parts: list[Part], observed: dict[str, Observed]) -> dict[str, str]:
        """Nothing: there is no other place for it."""
        return {}

    def _seen(self, details: list[dict[str, Any]]) -> set[str]:
        """All but constants."""
        from ai_edge_quantizer.utils import tfl_flatbuffer_utils

        model = tfl_flatbuffer_utils.read_model(str(self._source))
        constants = {
            str(tfl_flatbuffer_utils.get_tensor_name(tensor))
            for tensor in model.subgraphs[0].tensors
            if model.buffers[tensor.buffer].data is not None
        }
        return {str(each["name"]) for each in details} - constants


def _require_whole(path: Path) -> None:
    """The quantiser leaves what it does not know in float, between conversions."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    model = tfl_flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    left = set()
    for node in graph.operators:
        taken = [graph.tensors[each].type for each in (*node.inputs, *node.outputs) if each >= 0]
        if schema.TensorType.FLOAT32 in taken:
            left.add(names[model.operatorCodes[node.opcodeIndex].builtinCode])
    left -= {"QUANTIZE", "DEQUANTIZE"}
    if left:
        raise ExportError(
            f"not all of it can be in int8: {', '.join(sorted(left))} stay in float",
            "leave out --int8-io: then layers are in int8, and the rest is in float",
        )


def _in_uint8(content: bytes) -> bytes:
    """The same file with inputs and outputs in uint8: levels 128 higher, and an operator that converts."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    model = tfl_flatbuffer_utils.read_model(content)
    graph = model.subgraphs[0]
    code: Any = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    code.version = 2
    model.operatorCodes.append(code)

    def beside(place: int) -> int:
        """A tensor like one, in uint8."""
        old, new = graph.tensors[place], schema.TensorT()
        vars(new).update(vars(old))
        new.name = bytes(old.name) + b"_uint8"
        new.type = schema.TensorType.UINT8
        new.quantization = schema.QuantizationParametersT()
        new.quantization.scale = old.quantization.scale
        new.quantization.zeroPoint = np.asarray(old.quantization.zeroPoint, np.int64) + _MIDDLE
        graph.tensors.append(new)
        return len(graph.tensors) - 1

    def converting(into: int, out_of: int) -> Any:
        node: Any = schema.OperatorT()
        node.opcodeIndex = len(model.operatorCodes) - 1
        node.inputs, node.outputs = np.array([into], np.int32), np.array([out_of], np.int32)
        node.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
        node.builtinOptions = schema.QuantizeOptionsT()
        return node

    before: list[Any] = []
    after: list[Any] = []
    renamed: dict[tuple[bool, int], int] = {}
    for places, nodes in ((graph.inputs, before), (graph.outputs, after)):
        for at, place in enumerate(places):
            if graph.tensors[place].type != schema.TensorType.INT8:
                continue
            new = beside(place)
            nodes.append(converting(new, place) if nodes is before else converting(place, new))
            places[at] = renamed[nodes is before, int(place)] = new
    graph.operators = [*before, *graph.operators, *after]
    for signature in model.signatureDefs or ():
        for maps, is_input in ((signature.inputs, True), (signature.outputs, False)):
            for each in maps:
                each.tensorIndex = renamed.get((is_input, int(each.tensorIndex)), each.tensorIndex)
    return packed(model)
