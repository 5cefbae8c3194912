"""Operators of a real file under the names of their layers, beside a table: of the very kinds that programs have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgespa.device.measure.results import Operator
from edgespa.device.runner import import_runtime
from edgespa.device.runner.layers import operator_times
from edgespa.exporting import onnx_file
from edgespa.exporting.converter import Form
from edgespa.latency.by_layer import by_layer
from edgespa.latency.predict import needed
from edgespa.latency.table import LatencyTable, Origin
from edgespa.models.interface import with_plain_outputs
from edgespa.tasks.base import Base

ORIGIN = Origin(
    device="board", machine="aarch64", cpu_model=None, runtime="onnxruntime 1.2.3", variant="onnx-fp32", threads=1
)


@pytest.fixture(scope="module")
def file(toy_base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "model.onnx"
    onnx_file.write_fp32(with_plain_outputs(toy_base.program), path, Form())
    return path


@pytest.fixture(scope="module")
def operators(file: Path) -> tuple[Operator, ...]:
    found = operator_times(file, {"format": "onnx"}, import_runtime("onnx")[0], 1)
    assert found is not None
    return tuple(Operator.parse(row, "runner") for row in found)


def test_layers_have_their_names_and_times(toy_base: Base, file: Path, operators: tuple[Operator, ...]) -> None:
    points = [(kind, at, 1.0 + float(np.prod(at))) for kind, own in needed(toy_base.layers).items() for at in own]
    table = LatencyTable(origin=ORIGIN, created="now").with_points(points)
    rows = by_layer(operators, file, table)
    assert len(rows) == len(operators)
    assert sum(row.measured_ms for row in rows) == pytest.approx(sum(each.us for each in operators) / 1e3)
    found = {row.layer: row for row in rows}
    for layer in toy_base.layers.layers:
        if layer.kind.operator in ("conv", "depthwise", "linear"):
            row = found[layer.name]
            widths = tuple(dim.count() for dim in layer.dims)
            assert row.widths == widths
            assert row.kind == str(layer.kind)
            assert row.table_ms == pytest.approx((1 + np.prod(widths)) / 1e3)


def test_layers_say_how_much_they_compute(toy_base: Base, file: Path, operators: tuple[Operator, ...]) -> None:
    rows = by_layer(operators, file, None)
    assert sum(row.macs for row in rows) == toy_base.whole_cost.macs
    assert (
        sum(layer.kind.macs([dim.count() for dim in layer.dims]) for layer in toy_base.layers.layers)
        == toy_base.whole_cost.macs
    )
    row = next(row for row in rows if row.macs)
    assert row.gmacs_per_s == pytest.approx(row.macs / (row.measured_ms / 1e3) / 1e9)


def test_channels_beside_the_block_and_changes_of_layout_are_told(file: Path, operators: tuple[Operator, ...]) -> None:
    found = by_layer([*operators, Operator(name="reorder", op="ReorderInput", us=3.0)], file, None)
    assert (found[-1].remark or "").startswith("a change of layout")
    table = LatencyTable(origin=ORIGIN, created="now", step=16)
    rows = by_layer(operators, file, table)
    first = next(row for row in rows if row.layer == "conv2")
    assert first.widths == (16, 24)
    for factor in (1, 100):  # all layers compute as fast; then one of them does not
        even = [
            each.model_copy(update={"us": max(row.macs, 1) / 1e3 * (factor if row.layer == first.layer else 1)})
            for row, each in zip(rows, operators, strict=True)
        ]
        told = [row for row in by_layer(even, file, table) if "no multiple of" in (row.remark or "")]
        assert [row.layer for row in told] == [first.layer] * (factor == 100)
        assert all("24 channels are no multiple of 16" in (row.remark or "") for row in told)
        assert not [row for row in by_layer(even, file, None) if "no multiple of" in (row.remark or "")]


def test_openvino_tells_too(toy_base: Base, file: Path) -> None:
    pytest.importorskip("openvino")
    program = """
import json, sys
from pathlib import Path
from edgespa.device.runner import import_runtime
from edgespa.device.runner.layers import operator_times
spec = {"name": sys.argv[2], "shape": ["batch", 3, 8, 8], "dtype": "float32", "layout": "NCHW"}
output = {"name": sys.argv[3], "shape": ["batch", 4], "dtype": "float32", "layout": "other"}
variant = {"name": "n", "format": "onnx", "inputs": [spec], "outputs": [output]}
print(json.dumps(operator_times(Path(sys.argv[1]), variant, import_runtime("onnx", "openvino")[0], 1)))
"""
    model = onnx.load(file)
    names = [model.graph.input[0].name, model.graph.output[0].name]
    done = subprocess.run(
        [sys.executable, "-c", program, str(file), *names], check=True, capture_output=True, text=True
    )
    rows = by_layer([Operator.parse(row, "runner") for row in json.loads(done.stdout)], file, None)
    weighed = {layer.name for layer in toy_base.layers.layers if layer.kind.macs([1, 1][: layer.kind.axes])}
    assert {row.layer for row in rows if row.macs} == weighed
    assert all(row.measured_ms >= 0 for row in rows)


def test_sizes_of_maps_come_from_the_float32_file(file: Path, operators: tuple[Operator, ...], tmp_path: Path) -> None:
    model = onnx.load(file)
    del model.graph.value_info[:]
    bare = tmp_path / "bare.onnx"
    onnx.save(model, bare)
    whole = by_layer(operators, file, None)
    assert [row.layer for row in by_layer(operators, bare, None)] == [row.layer for row in whole]
    assert sum(row.macs for row in by_layer(operators, bare, None)) < sum(row.macs for row in whole)
    assert by_layer(operators, bare, None, file) == whole


def test_without_a_table_or_a_file_that_can_be_read(
    file: Path, operators: tuple[Operator, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert all(row.table_ms is None for row in by_layer(operators, file, None))
    odd = tmp_path / "odd.onnx"
    odd.write_bytes(b"\x08\x01nothing")
    rows = by_layer(operators, odd, None)
    assert [row.layer for row in rows] == [each.name for each in operators]
    assert "cannot be read" in caplog.text


def test_other_runtimes_do_not_tell(file: Path) -> None:
    assert operator_times(file, {"format": "tflite"}, None, 1) is None
    assert operator_times(file, {"format": "onnx", "weights": [1]}, None, 1) is None
