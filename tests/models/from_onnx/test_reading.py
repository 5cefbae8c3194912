"""ONNX files of one who means harm: no file elsewhere is read, nothing fills the memory, damage is told."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgespa.errors import EdgespaError, ModelError
from edgespa.models.from_onnx.opened import open_onnx
from edgespa.models.from_onnx.reading import read
from edgespa.models.from_onnx.wire import MOST_FIELDS, count_fields
from edgespa.models.trust import question

_SPEC = importlib.util.spec_from_file_location("onnx_files", Path(__file__).with_name("files.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
files: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["onnx_files"] = files
_SPEC.loader.exec_module(files)
WEIGHT = files.normal(4, 3, 1, 1)


def beside(folder: Path, location: str, **entries: str) -> str:
    """A model whose weight is said to lie somewhere."""
    model = files.made([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": WEIGHT})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return str(files.saved(model, folder))


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "w.bin").write_bytes(b"1234" + WEIGHT.tobytes())
    found = open_onnx(beside(tmp_path, "parts/w.bin", offset="4", length=str(WEIGHT.nbytes)), ())
    (weight,) = found.module.parameters()
    assert np.array_equal(weight.detach().numpy(), WEIGHT)


@pytest.mark.parametrize(
    "location", ["../w.bin", "/etc/passwd", "a/../../w.bin", "link.bin", "folder/w.bin", "", "a\\b"]
)
def test_no_file_elsewhere_is_read(location: str, tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    for folder in (tmp_path, other):
        (folder / "w.bin").write_bytes(WEIGHT.tobytes())
    (home / "link.bin").symlink_to(other / "w.bin")
    (home / "folder").symlink_to(other)
    with pytest.raises(ModelError) as caught:
        read(beside(home, location))
    assert "folder of the ONNX file alone" in str(caught.value.hint)


def test_a_pipe_beside_it_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.bin")
    with pytest.raises(ModelError, match="are said to be in"):
        read(beside(tmp_path, "w.bin"))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"offset": "8"}, "bytes, and"),
        ({"length": "1000000"}, "are named beside it"),
        ({"offset": "-4"}, "begins or ends at"),
        ({"offset": "9" * 30}, "begins or ends at"),
    ],
)
def test_parts_of_a_file_that_are_not_there(entries: dict[str, str], words: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(ModelError, match=words):
        read(beside(tmp_path, "w.bin", **entries))


def test_a_file_that_is_missing_beside_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="which is not there"):
        read(beside(tmp_path, "gone.bin"))


@pytest.mark.parametrize("dims", [[1 << 40], [1 << 20, 1 << 20], [-1], [5, 3, 1, 1]])
def test_sizes_that_are_claimed(dims: list[int], tmp_path: Path) -> None:
    model = files.made([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": WEIGHT})
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    with pytest.raises(ModelError, match=r"claims sizes|with sizes"):
        read(files.saved(model, tmp_path))


def test_parts_without_an_end(tmp_path: Path) -> None:
    graph = b"\x0a\x00" * (MOST_FIELDS + 10)  # nodes without anything
    size, length = len(graph), b""
    while size >= 128:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    content = b"\x3a" + length + bytes([size]) + graph
    assert count_fields(content) > MOST_FIELDS
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="which no network has"):
        read(str(path))


@pytest.mark.parametrize("content", [b"", b"\x00" * 50, b"PK\x03\x04" + bytes(60), b"\x3a\xff\xff\xff\x7f"])
def test_what_is_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"not a whole ONNX file|there is no graph"):
        read(str(path))


def test_sizes_in_the_graph_that_fill_the_memory(tmp_path: Path) -> None:
    model = files.made(
        [helper.make_node("Tile", ["x", "n"], ["t"]), helper.make_node("Relu", ["t"], ["y"])],
        {"n": np.array([1, 1 << 20, 1 << 10, 1 << 10])},
    )
    with pytest.raises(ModelError, match="gives a tensor of sizes"):
        open_onnx(files.saved(model, tmp_path), ())


def test_damage_anywhere_is_an_error_of_ours(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[0, 0, 0, 0]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "to"], ["y"]),
    ]  # fmt: skip
    content = files.made(nodes, {"w": WEIGHT, "to": np.array([0, -1])}).SerializeToString()
    random_, tried = random.Random(0), 0
    for _ in range(120):
        broken = bytearray(content)
        for _ in range(random_.randint(1, 3)):
            broken[random_.randrange(len(broken))] = random_.randrange(256)
        path = tmp_path / "net.onnx"
        path.write_bytes(broken)
        try:
            model = read(str(path))
            from edgespa.models.from_onnx.refusals import require_takeable

            require_takeable(model, "net.onnx")
        except EdgespaError:
            tried += 1
    assert tried


def test_it_is_opened_without_a_word() -> None:
    assert question("somewhere/net.onnx") is None


def test_the_runtime_has_limits_of_its_own() -> None:
    code = (
        "import resource; from edgespa.models.from_onnx.running import limit; limit(1000, 1000, 60);"
        "print(resource.getrlimit(resource.RLIMIT_DATA)[0]); import numpy as np\n"
        "try:\n    np.ones(1 << 29).sum()\nexcept MemoryError:\n    print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[0]) < 3 << 30
    assert "refused" in done.stdout


def test_what_was_read_names_no_file(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    model = read(beside(tmp_path, "w.bin"))
    assert not any(each.external_data for each in model.graph.initializer)
    assert onnx.numpy_helper.to_array(model.graph.initializer[0]).tobytes() == WEIGHT.tobytes()
