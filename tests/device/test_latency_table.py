"""Latency tables over a real sshd: files go over once, are measured there, and what comes back is not believed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
def few(toy_base: Base, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_once: Callable[..., None]) -> Layers:
    """The convolutions of the toy network, and an empty folder for tables."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(making, "SECONDS", 0.05)
    monkeypatch.setattr(making, "_CHAINS", (2, 6))
    monkeypatch.setattr(making, "write_branches", write_once)
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


WRONG: tuple[dict[str, Any], ...] = ({"us": -1.0}, {"us": 1e12}, {"file": "another.onnx"}, {"nodes": 0}, {"more": 1})


def test_what_a_device_says_is_checked(sshd: Any, few: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It measures once; what it said is changed on the way."""
    one, decode, said = dataclasses.replace(few, layers=few.layers[1:]), making.decode, dict[str, Any]()
    with connect(sshd.device("odd")) as connection:
        ask = connection.ask

        def once(what: str, request: Any = None, **options: Any) -> Any:
            if what != "execute":
                return ask(what, request, **options)
            argv = str(request["argv"])
            if argv not in said:
                said[argv] = ask(what, request, **options)
            return said[argv]

        monkeypatch.setattr(connection, "ask", once)
        for wrong in WRONG:

            def odd(*arguments: Any, wrong: dict[str, Any] = wrong) -> dict[str, Any]:
                found = decode(*arguments)
                return {**found, "layers": [{**row, **wrong} for row in found["layers"]]}

            monkeypatch.setattr(making, "decode", odd)
            with pytest.raises((DeviceError, ConfigError)):
                make_table(connection, one, "onnx-fp32")
            assert load_table(table_path("odd", "onnx-fp32", 1)) is None
        monkeypatch.setattr(making, "decode", decode)
        make_table(connection, one, "onnx-fp32")
        assert load_table(table_path("odd", "onnx-fp32", 1)) is not None
        assert len(said) == 2  # what runtime is there, and the layers
