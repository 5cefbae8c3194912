"""The whole way on this machine: files of single layers, measured, kept, used again; and what is noticed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import edgespa as es
from edgespa.device.board import load_device
from edgespa.errors import ConfigError
from edgespa.exporting.branches import Shapes, write_branches
from edgespa.graph.kinds import Kind
from edgespa.latency import making
from edgespa.latency.chains import Chain
from edgespa.latency.known import known_latencies
from edgespa.latency.table import load_table, table_path
from edgespa.tasks.base import Base

pytestmark = pytest.mark.slow
Written = list[int]
SMALL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

def build():
    return Net()
"""


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_once: Callable[..., None]) -> Written:
    """How many layers were asked for as files, in each call; with an empty folder for tables, short measurements."""
    found: Written = []

    def write(branches: Sequence[tuple[nn.Module, Shapes]], *arguments: Any) -> None:
        found.extend([1] * sum(isinstance(module, Chain) for module, _ in branches))
        write_once(branches, *arguments)

    monkeypatch.setattr(making, "write_branches", write)
    monkeypatch.setattr(making, "SECONDS", 0.05)
    monkeypatch.setattr(making, "_CHAINS", (2, 6))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return found


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers: few points, where a network of more kinds has dozens."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "net.py").write_text(SMALL)
    return folder


@pytest.fixture(scope="module")
def small_base(small_folder: Path) -> Base:
    """Not to be changed."""
    return Base.open(f"{small_folder / 'net.py'}:build", (1, 3, 8, 8))


def made(folder: Path, variant: str = "onnx-fp32", **more: Any) -> es.Latencies:
    spec = f"{folder / 'net.py'}:build"
    return es.latencies("local", model=spec, input_shape=(1, 3, 8, 8), variants=variant, progress=False, **more)


def test_it_is_measured_once(small_folder: Path, small_base: Base, written: Written) -> None:
    assert es.latencies("local").tables == ()
    first = made(small_folder)
    points = first.tables[0].points
    assert sum(written) == points > 5
    (found,) = first.predictions
    assert found.corrected
    assert 0 < found.latency_ms == found.whole_ms < 50
    assert found.latency_ms == pytest.approx(
        sum(each.latency_ms for each in found.layers) + found.foretold.predictor.fixed_ms
    )
    assert {"conv", "fc"} <= {each.layer for each in found.layers}
    assert "onnxruntime" in first.tables[0].runtime
    assert found.table.seconds > 0
    # The whole was measured, and that is what the sum is corrected by.
    table = load_table(table_path("local", "onnx-fp32", 1))
    assert table is not None
    assert found.latency_ms == pytest.approx(table.wholes[0].measured_ms, rel=0.01)

    written.clear()
    again = made(small_folder)
    assert written == []
    assert again.predictions[0].latency_ms == pytest.approx(found.latency_ms)
    assert known_latencies(small_base, load_device("local"), "onnx-fp32") is not None
    assert known_latencies(small_base, load_device("local"), "onnx-fp32", threads=2) is None
    assert json.loads(json.dumps(again.to_dict()))["predictions"][0]["layers"]
    assert "The slowest layers" not in repr(es.latencies("local"))
    assert "conv" in repr(again)


@pytest.mark.more
def test_a_task_is_foretold_by_what_it_keeps(toy_folder: Path, written: Written, tmp_path: Path) -> None:
    spec = f"{toy_folder / 'net.py'}:build"
    task = es.prune(spec, density=0.5, input_shape=(1, 3, 8, 8), output=tmp_path / "cut.spa", progress=False)
    whole = made(toy_folder).predictions[0]
    (cut,) = es.latencies("local", model=task, progress=False).predictions
    assert cut.whole_ms == pytest.approx(whole.latency_ms)
    assert {each.layer: each.widths for each in cut.layers} != {each.layer: each.widths for each in whole.layers}
    assert cut.latency_ms != whole.latency_ms
    assert 0 < cut.latency_ms < 3 * whole.latency_ms  # of layers of half a microsecond each


def test_a_table_of_another_runtime_is_not_used(
    small_folder: Path, small_base: Base, written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    made(small_folder)
    path = table_path("local", "onnx-fp32", 1)
    path.write_text(path.read_text().replace('"runtime": "onnxruntime 1.', '"runtime": "onnxruntime 0.'))
    with caplog.at_level(logging.WARNING):
        assert known_latencies(small_base, load_device("local"), "onnx-fp32") is None
    assert "is not used; measure again (with" in caplog.text
    written.clear()
    caplog.clear()
    made(small_folder)
    assert "measured anew: it was of another runtime: onnxruntime 0." in caplog.text
    assert len(written) > 5


def test_an_interrupted_run_goes_on(small_folder: Path, written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "AT_ONCE", 2)
    measure, done = making._Site.measure, []

    def stop(self: Any, files: Any, whole: Any, folder: Any = None) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        if files:
            done.append(len(files))
        return measure(self, files, whole, folder)

    monkeypatch.setattr(making._Site, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        made(small_folder)
    table = load_table(table_path("local", "onnx-fp32", 1))
    assert table is not None
    kept = sum(map(len, table.kinds.values()))
    assert kept == 4
    monkeypatch.setattr(making._Site, "measure", measure)
    written.clear()
    assert made(small_folder).tables[0].points == kept + len(written)


@pytest.mark.parametrize(
    "variant",
    [
        "tflite-int8",
        pytest.param("onnx-int8", marks=pytest.mark.more),
        pytest.param("tflite-fp32", marks=pytest.mark.more),
    ],
)
def test_other_files(small_folder: Path, written: Written, variant: str) -> None:
    (found,) = made(small_folder, variant).predictions
    assert found.corrected
    assert all(each.latency_ms >= 0 for each in found.layers)
    assert sum(each.latency_ms for each in found.layers) > 0
    assert [each.name for each in es.latencies("local", variants=variant, remove=True).removed] == [f"{variant}-1.json"]
    assert es.latencies("local").tables == ()


@pytest.mark.parametrize(
    ("name", "precision"), [("onnx", "fp32"), ("onnx", "int8"), ("tflite", "fp32"), ("tflite", "int8")]
)
def test_a_file_has_its_own_layer_alone(tmp_path: Path, name: str, precision: str) -> None:
    """Taken apart, no file has more than its layer: nothing of its neighbours, of its size what its widths say."""
    kinds = [("conv k3x3 p1x1 @8x8 +relu", (16, 32)), ("depthwise k3x3 p1x1 @8x8", (32,)), ("linear @1", (64, 48))]
    chains = [Chain(Kind.parse(text), widths).eval() for text, widths in kinds]
    paths = [tmp_path / f"{number}.{name}" for number in range(len(chains))]
    write_branches([(chain, chain.shapes) for chain in chains], paths, name, precision)
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in paths]
    if name == "onnx":
        import onnx

        for path, count in zip(paths, (16 * 32 * 9 + 32, 32 * 9 + 32, 64 * 48 + 48), strict=True):
            graph = onnx.load(path).graph
            assert len(graph.input) == len(graph.output) == 1
            layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
            assert len(layers) == 1
            # With scales and zero points in int8, besides the weights and the bias.
            held = sum(int(np.prod(each.dims)) for each in graph.initializer)
            assert held == count if precision == "fp32" else count <= held < count + 4 * 48 + 8
        return
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    for path, kind in zip(paths, ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), strict=True):
        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = Interpreter(str(path), experimental_op_resolver_type=plain)
        interpreter.allocate_tensors()
        assert [each["op_name"] for each in interpreter._get_ops_details()] == [kind]
        assert interpreter.get_input_details()[0]["dtype"].__name__ == ("int8" if precision == "int8" else "float32")


def test_what_does_not_go_together(toy_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no latency tables of 'onnx-fp8'"):
        es.latencies("local", variants="onnx-fp8")
    with pytest.raises(ConfigError, match="measures nothing"):
        made(toy_folder, remove=True)
    with pytest.raises(ConfigError, match="is for a model"):
        es.latencies("local", again=True)
    with pytest.raises(ConfigError, match="at least 1"):
        es.latencies("local", threads=0)
