"""Operators of a real file under the names of their layers, beside a table: of the very kinds that programs have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
