"""Latency tables over a real sshd: files go over once, are measured there, and what comes back is not believed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgespa.device.link.reach import connect
from edgespa.errors import ConfigError, DeviceError
from edgespa.graph.layers import Layers
from edgespa.latency import making
from edgespa.latency.making import make_table
from edgespa.latency.predict import Predictor
from edgespa.latency.table import load_table, table_path
from edgespa.tasks.base import Base

pytestmark = pytest.mark.slow


@pytest.fixture
def few(toy_base: Base, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Layers:
    """The convolutions of the toy network, and an empty folder for tables."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(making, "SECONDS", 0.05)
    layers = tuple(each for each in toy_base.layers.layers if each.name in ("conv2", "depthwise"))
    return dataclasses.replace(toy_base.layers, layers=layers)


def test_the_whole_way(sshd: Any, few: Layers, toy_base: Base) -> None:
    device = sshd.device("board")
    with connect(device) as connection:
        table = make_table(connection, few, "onnx-fp32")
        assert 1000 < table.bytes_sent <= connection.bytes_sent
        sent = connection.bytes_sent
        assert make_table(connection, few, "onnx-fp32") == table
        assert connection.bytes_sent - sent < 2000  # the question what runtime is there
    assert table.origin.device == "board"
    assert load_table(table_path("board", "onnx-fp32", 1)) == table
    assert set(table.kinds) == {str(layer.kind) for layer in few.layers}
    assert Predictor(few, toy_base.groups, table).latency_ms() > 0


@pytest.mark.parametrize("answer", [{"us": -1.0}, {"us": 1e12}, {"file": "another.onnx"}, {"nodes": 0}, {"more": 1}])
def test_what_a_device_says_is_checked(
    sshd: Any, few: Layers, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    ask = making.decode

    def odd(*arguments: Any) -> dict[str, Any]:
        found = ask(*arguments)
        return {**found, "layers": [{**row, **answer} for row in found["layers"]]}

    monkeypatch.setattr(making, "decode", odd)
    one = dataclasses.replace(few, layers=few.layers[1:])
    with connect(sshd.device("odd")) as connection, pytest.raises((DeviceError, ConfigError)):
        make_table(connection, one, "onnx-fp32")
    assert load_table(table_path("odd", "onnx-fp32", 1)) is None
