"""What is known of every value of an ONNX graph without an input: its sizes, its type, and the value itself.

The graph is gone through twice, for two sizes of the batch. What is the same both times is a constant, also where an
exporter has written it as a long calculation with sizes; sizes that differ follow the batch.

Values are computed by onnx's own reference operators, for a list of them that do nothing but arrange and calculate, and
only where what comes out is bounded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespa.errors import ModelError
from edgespa.models.from_onnx.refusals import ONNX_DOMAINS, spoken
from edgespa.system.quiet import first_line

Array = NDArray[Any]

MOST_ELEMENTS = 1 << 31
"""Of one value; as of a saved program."""
MOST_COMPUTED_BYTES = 1 << 30
"""Of all constants that a file has computed, beside four times its own size."""
_TIMES = 4
_COMPUTED = frozenset(
    [
        "Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Min", "Max", "Floor", "Ceil", "Round", "Sqrt", "Reciprocal",
        "Pow", "Exp", "Log", "Sigmoid", "Tanh", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Not",
        "And", "Or", "Where", "Cast", "Identity", "Constant", "ConstantOfShape", "Concat", "Gather", "GatherElements",
        "GatherND", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose", "Expand", "Tile", "Range",
        "Split", "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "Sign", "Trilu", "EyeLike", "Erf",
        "Sin", "Cos", "CumSum", "Pad", "OneHot", "Sum", "Clip", "Relu", "MatMul",
    ]
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Known:
    """Of one value.

    Attributes:
        shape: Its sizes.
        dtype: Its element type, a number of ``onnx.TensorProto``.
        value: The value itself, where no input reaches it but by its sizes.
    """

    shape: tuple[int, ...]
    dtype: int
    value: Array | None = None


class Evaluation:
    """A graph, gone through once.

    Args:
        model: An ``onnx.ModelProto`` with all of its tensors in it.
        spec: Of the file, for messages.
        constants: Its initialisers by name, as arrays.
    """

    def __init__(self, model: Any, spec: str, constants: Mapping[str, Array]) -> None:
        self._model, self._spec = model, spec
        self._constants = constants
        self._opsets = list(model.opset_import)
        self._opset = next(each.version for each in self._opsets if each.domain in ONNX_DOMAINS)
        self._unsized: dict[str, str] = {}
        self._budget = MOST_COMPUTED_BYTES + _TIMES * sum(each.nbytes for each in constants.values())

    @property
    def outputs(self) -> Sequence[Any]:
        """What the graph gives."""
        return list(self._model.graph.output)

    def known(self, inputs: Mapping[str, tuple[tuple[int, ...], int]], batch: int | None) -> dict[str, Known]:
        """All values, by name.

        Args:
            inputs: Sizes and element type of each input.
            batch: The size of the batch that a constant 1 in front of a shape stands for, in a file that was exported
                for one sample; None: it means 1.

        Raises:
            ModelError: A node cannot be taken, by its name; sizes that are no numbers.
        """
        import onnx

        found: dict[str, Known] = {}
        for name, array in self._constants.items():
            found[name] = Known(array.shape, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array)
        for name, (shape, dtype) in inputs.items():
            found[name] = Known(shape, dtype)
        left = self._budget
        for node in self._model.graph.node:
            given = [found.get(name) if name else None for name in node.input]
            for name, each in zip(node.input, given, strict=True):
                if name and each is None:
                    if name in self._unsized:
                        raise ModelError(
                            f"{self._spec}: the sizes of what {self._unsized[name]} gives depend on the values of the "
                            "inputs",
                            "export the network without its post-processing, for fixed sizes: up to its raw outputs",
                        )
                    raise ModelError(
                        f"{self._spec}: {spoken(node)} reads {name!r}, which nothing before it gives", _DAMAGED
                    )
            values = self._values(node, given, left)
            if values is None:
                found.update(self._inferred(node, given, batch))
                continue
            for name, value in zip(node.output, values, strict=False):
                if name:
                    left -= value.nbytes
                    found[name] = Known(value.shape, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value)
        return found

    def _values(self, node: Any, given: Sequence[Known | None], left: int) -> list[Array] | None:
        """What a node gives, where that is known and not too much."""
        if node.op_type in ("Shape", "Size"):
            return [_of_sizes(node, given[0])] if given and given[0] is not None else None
        if node.op_type not in _COMPUTED or any(each is not None and each.value is None for each in given):
            return None
        import onnx
        from onnx.reference import ReferenceEvaluator

        if node.op_type not in ("Constant", "Range"):
            sizes = self._inferred(node, given, None)
            bytes_ = sum(8 * math.prod(each.shape) for each in sizes.values())
            if bytes_ > 2 * left:
                raise ModelError(
                    f"{self._spec}: {spoken(node)} makes a constant of {bytes_ // 8:,} numbers of nothing",
                    "export it with its weights stored in it, or simplify it with onnxsim where you trust it",
                )
        elif node.op_type == "Range":
            ends = [float(each.value.ravel()[0]) for each in given if each is not None and each.value is not None]
            if len(ends) != 3 or not ends[2] or abs((ends[1] - ends[0]) / ends[2]) * 8 > left:
                return None
        names = list(dict.fromkeys(name for name in node.input if name))
        by_name = dict(zip(node.input, given, strict=True))
        graph = onnx.helper.make_graph(
            [node],
            "node",
            [onnx.helper.make_tensor_value_info(name, by_name[name].dtype, None) for name in names],
            [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name],
        )
        single = onnx.helper.make_model(graph, opset_imports=self._opsets, ir_version=self._model.ir_version)
        try:
            with np.errstate(all="ignore"):
                run = ReferenceEvaluator(single).run(None, {name: by_name[name].value for name in names})
        except Exception:  # an operator or a version of it that onnx has no reference of
            return None
        outputs = [np.asarray(each) for each in run]
        filled = iter(outputs)
        return [next(filled) if name else np.zeros(0) for name in node.output]

    def _inferred(self, node: Any, given: Sequence[Known | None], batch: int | None) -> dict[str, Known]:
        """Sizes and types of what a node gives, by onnx's own inference."""
        import onnx

        types = {
            name: onnx.helper.make_tensor_type_proto(each.dtype, each.shape)
            for name, each in zip(node.input, given, strict=True)
            if each is not None
        }
        data = {
            name: onnx.numpy_helper.from_array(_freed(node, index, each, given, batch), name)
            for index, (name, each) in enumerate(zip(node.input, given, strict=True))
            if each is not None
            and each.value is not None
            and each.value.size <= _FEW
            and each.value.dtype.kind in "iufb"
        }
        try:
            schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=self._opset, domain="")
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=self._opsets, ir_version=self._model.ir_version
            )
        except Exception as error:  # whatever onnx makes of a node
            raise ModelError(
                f"{self._spec}: {spoken(node)} does not fit what it reads "
                f"({', '.join(str(list(each.shape)) for each in given if each is not None)}): {first_line(error)}",
                _DAMAGED,
            ) from error
        result = {}
        for name, kind in found.items():
            if not name:
                continue
            dims = list(kind.tensor_type.shape.dim) if kind.HasField("tensor_type") else None
            if dims is None or not kind.tensor_type.HasField("shape") or not all(d.HasField("dim_value") for d in dims):
                self._unsized[name] = spoken(node)
                continue
            shape = tuple(int(each.dim_value) for each in dims)
            if min(shape, default=0) < 0 or math.prod(shape) > MOST_ELEMENTS:
                raise ModelError(f"{self._spec}: {spoken(node)} gives a tensor of sizes {list(shape)}", _DAMAGED)
            result[name] = Known(shape, int(kind.tensor_type.elem_type))
        return result


_FEW = 1 << 16
_DAMAGED = "check the file with onnx.checker.check_model, or export it again"


def _of_sizes(node: Any, given: Known | None) -> Array:
    assert given is not None
    if node.op_type == "Size":
        return np.array(math.prod(given.shape), dtype=np.int64)
    ends = {each.name: each.i for each in node.attribute}
    return np.array(given.shape[ends.get("start", 0) : ends.get("end")], dtype=np.int64)


def _freed(node: Any, index: int, each: Known, given: Sequence[Known | None], batch: int | None) -> Array:
    """A constant, with the batch in the place of the 1 that a file for one sample has in front of a new shape."""
    value = each.value
    assert value is not None
    first = given[0]
    if batch is None or node.op_type != "Reshape" or index != 1 or first is None or value.size == 0:
        return value
    wanted, held = math.prod(int(size) for size in value), math.prod(first.shape)
    if (value[0] == 1 and -1 not in value and 0 not in value and wanted * batch == held) or (
        value[0] == 1 and -1 in value and first.shape[:1] == (batch,)
    ):
        value = value.copy()
        value[0] = batch
    return value
