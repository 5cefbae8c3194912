"""Files that an ONNX model refers to, wherever in it they are named."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from edgespa.bundle.external import external_files


def tensor(location: str) -> TensorProto:
    found = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[2])
    found.data_location = TensorProto.EXTERNAL
    found.external_data.add(key="offset", value="0")
    found.external_data.add(key="location", value=location)
    return found


def model(**places: list[object]) -> bytes:
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor("branch.bin"))], "inner", [], [])
    nodes = [
        helper.make_node("Constant", [], ["x"], value=tensor("attribute.bin")),
        helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Strange", [], ["z"], many=[tensor("list.bin"), tensor("other.bin")]),
    ]
    graph = helper.make_graph(
        nodes, "outer", [], [], [tensor("weights.bin"), helper.make_tensor("plain", 1, [2], [1, 2])]
    )
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", 1, [1], [1.0]), helper.make_tensor("i", 7, [1], [0]), [3]
    )
    sparse.values.CopyFrom(tensor("../sparse.bin"))
    graph.sparse_initializer.append(sparse)
    made = helper.make_model(graph)
    function = helper.make_function(
        "own", "f", [], [], [helper.make_node("Constant", [], ["k"], value=tensor("/function.bin"))], []
    )
    made.functions.append(function)
    training = made.training_info.add()
    training.algorithm.initializer.append(tensor("training.bin"))
    return bytes(made.SerializeToString())


def test_every_place_is_looked_at() -> None:
    assert sorted(external_files(model())) == sorted(
        [
            *("weights.bin", "attribute.bin", "branch.bin", "list.bin", "other.bin", "../sparse.bin"),
            *("/function.bin", "training.bin"),
        ]
    )


def test_a_model_with_its_weights_inside_refers_to_nothing() -> None:
    graph = helper.make_graph([], "g", [], [], [helper.make_tensor("w", 1, [2], [1, 2])])
    assert external_files(helper.make_model(graph).SerializeToString()) == ()


@pytest.mark.parametrize("cut", [1, 7, 50])
def test_a_damaged_model_is_no_model(cut: int) -> None:
    content = model()
    onnx.load_model_from_string(content)
    with pytest.raises(ValueError, match="cut off"):
        external_files(content[:-cut])
