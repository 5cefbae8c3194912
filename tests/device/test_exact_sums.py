"""Sums of int8 products in ONNX Runtime: the same on every processor."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgespa.device.runner.in_onnxruntime import open_session


def product(shared: bool) -> bytes:
    """``a @ b`` of uint8 and int8, of the same constant twice if it is shared."""
    values = [helper.make_tensor("b", TensorProto.INT8, [8, 16], np.full((8, 16), 127, np.int8).tobytes(), raw=True)]
    outputs = ["y", "z"] if shared else ["y"]
    nodes = [helper.make_node("MatMulInteger", ["a", "b"], [name]) for name in outputs]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [1, 8])],
        [helper.make_tensor_value_info(name, TensorProto.INT32, [1, 16]) for name in outputs],
        values,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def overflows() -> bool:
    """Whether they do on this processor, where nobody asks for another thing."""
    session = onnxruntime.InferenceSession(product(False), providers=["CPUExecutionProvider"])
    return bool((session.run(None, {"a": np.full((1, 8), 255, np.uint8)})[0] != 255 * 127 * 8).any())


def test_they_do_not_overflow() -> None:
    """Two products of 255 and 127 are more than 16 bits hold, which is what processors without VNNI add them up in."""
    session = open_session(onnxruntime, product(False), 1, ["CPUExecutionProvider"])
    (found,) = session.run(None, {"a": np.full((1, 8), 255, np.uint8)})
    assert found.tolist() == [[255 * 127 * 8] * 16]


def test_a_constant_that_several_operators_share_still_loads() -> None:
    """There the runtime fails if it is to be exact."""
    session = open_session(onnxruntime, product(True), 1, ["CPUExecutionProvider"])
    one, two = session.run(None, {"a": np.ones((1, 8), np.uint8)})
    assert one.tolist() == two.tolist() == [[127 * 8] * 16]


def test_a_file_that_is_none_is_refused_as_before() -> None:
    with pytest.raises(Exception, match=r"(?i)protobuf"):
        open_session(onnxruntime, b"none", 1, ["CPUExecutionProvider"])
