"""Other weights and biases for layers of an ONNX file in float32."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespa.exporting.corrections import Correction


def channel_axis(node: Any, rank: int) -> int:
    """The dimension of the weight that counts output channels.

    Args:
        node: A layer.
        rank: Of its weight.
    """
    if node.op_type == "MatMul":
        return rank - 1
    if node.op_type == "Gemm":
        transposed = any(each.name == "transB" and each.i for each in node.attribute)
        return 0 if transposed else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def with_corrections(model: Any, corrections: Mapping[str, Correction]) -> Any:
    """A copy in which some layers have other weights and biases; constants that others read too are left to those.

    Args:
        model: An ``onnx.ModelProto`` in float32 whose nodes have names.
        corrections: By the name of the node.
    """
    model = copy.deepcopy(model)
    change = _Change(model)
    for node in list(model.graph.node):
        if node.name not in corrections:
            continue
        own = corrections[node.name]
        sizes = change.sizes(node.input[1])
        axis = channel_axis(node, len(sizes))
        shape = [sizes[axis], *(size for place, size in enumerate(sizes) if place != axis)]
        change.put(node, 1, np.ascontiguousarray(np.moveaxis(own.rows.reshape(shape), 0, axis)))
        if own.shift.any():
            change.shift(node, own.shift)
    return model


class _Change:
    """Constants of a model that is ours to change."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._constants = {each.name: each for each in model.graph.initializer}
        self._readers = Counter(name for node in model.graph.node for name in node.input)
        self._sums = {name: node for node in model.graph.node if node.op_type == "Add" for name in node.input}

    def sizes(self, name: str) -> list[int]:
        return list(self._constants[name].dims)

    def put(self, node: Any, place: int, values: NDArray[np.float32]) -> None:
        """Values in place of a constant that a node reads."""
        import onnx

        name = node.input[place]
        if self._readers[name] == 1:
            self._constants[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
            return
        node.input[place] = f"{name}_of_{node.name}"
        self._model.graph.initializer.append(onnx.numpy_helper.from_array(values, node.input[place]))

    def shift(self, node: Any, by: NDArray[np.float32]) -> None:
        """Add to the bias of a layer, which a product of matrices has in the sum behind it; if there is none, not."""
        import onnx

        place: int | None = 2
        if node.op_type == "MatMul":
            node = self._sums.get(node.output[0])
            places = enumerate(node.input) if node is not None else ()
            place = next((at for at, each in places if self._is_row(each, len(by))), None)
        elif len(node.input) == 2:
            node.input.append("")
        if node is None or place is None:
            return
        if not node.input[place]:
            node.input[place] = f"{node.name}_bias"
            self._model.graph.initializer.append(onnx.numpy_helper.from_array(by, node.input[place]))
            return
        self.put(node, place, onnx.numpy_helper.to_array(self._constants[node.input[place]]) + by)

    def _is_row(self, name: str, count: int) -> bool:
        return name in self._constants and self.sizes(name) == [count]
