"""Latency tables as files: what is written is read, and what somebody else may have written is not believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgespa.errors import ConfigError
from edgespa.graph.kinds import Kind
from edgespa.latency.table import (
    LatencyTable,
    Off,
    Origin,
    Whole,
    load_table,
    remove_tables,
    save_table,
    saved_tables,
    table_path,
)

CONV = Kind.parse("conv k3x3 p1x1 @8x8 +relu")
ORIGIN = Origin(
    device="board", machine="aarch64", cpu_model="a core", runtime="onnxruntime 1.2.3", variant="onnx-fp32", threads=1
)


@pytest.fixture
def table() -> LatencyTable:
    plain = LatencyTable(origin=ORIGIN, created="2026-01-02T03:04:05+00:00", step=8, node_us=1.5)
    found = plain.with_points([(CONV, (8, 16), 12.5), (CONV, (16, 16), 20.25), (Kind("add"), (4096,), 3.0)])
    off = Off(family="conv", axis=1, divisor=4, factor=1.25)
    return found._with(off=(off,)).with_whole(Whole(digest="d", predicted_ms=2.0, measured_ms=3.0))


def test_what_is_written_is_read(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "onnx-fp32-1.json"
    assert load_table(path) is None
    save_table(table, path)
    assert load_table(path) == table
    assert table.points(CONV) == {(8, 16): 12.5, (16, 16): 20.25}
    assert table.factors(CONV) == ({}, {4: 1.25})
    assert (table.scale("d"), table.scale("another"), table.scale()) == (1.5, 1.5, 1.5)


def test_points_are_replaced_and_wholes_are_the_newest(table: LatencyTable) -> None:
    again = table.with_points([(CONV, (8, 16), 99.0)]).with_whole(Whole(digest="d", predicted_ms=2.0, measured_ms=8.0))
    assert again.points(CONV) == {(8, 16): 99.0, (16, 16): 20.25}
    assert [each.measured_ms for each in again.wholes] == [8.0]
    assert table.points(CONV)[8, 16] == 12.5


def _kinds(values: dict[str, Any], found: Any) -> None:
    values["kinds"] = found


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no number": lambda v: _kinds(v, {str(CONV): [[8, 16, "fast"]]}),
    "not finite": lambda v: _kinds(v, {str(CONV): [[8, 16, float("inf")]]}),
    "NaN": lambda v: _kinds(v, {str(CONV): [[8, 16, float("nan")]]}),
    "negative": lambda v: _kinds(v, {str(CONV): [[8, 16, -1.0]]}),
    "width 0": lambda v: _kinds(v, {str(CONV): [[0, 16, 1.0]]}),
    "width too large": lambda v: _kinds(v, {str(CONV): [[1 << 40, 16, 1.0]]}),
    "one width too few": lambda v: _kinds(v, {str(CONV): [[16, 1.0]]}),
    "one width too many": lambda v: _kinds(v, {str(CONV): [[16, 16, 16, 1.0]]}),
    "empty row": lambda v: _kinds(v, {str(CONV): [[]]}),
    "twice the same": lambda v: _kinds(v, {str(CONV): [[8, 16, 1.0], [8, 16, 2.0]]}),
    "no kind": lambda v: _kinds(v, {"conv; rm -rf": [[8, 16, 1.0]]}),
    "a kind written otherwise": lambda v: _kinds(v, {"conv k3x3 s1x1 p1x1 @8x8 +relu": [[8, 16, 1.0]]}),
    "kinds are a list": lambda v: _kinds(v, [1, 2]),
    "too many kinds": lambda v: _kinds(v, {f"mean @{i}x1": [[1, 1.0]] for i in range(5000)}),
    "too many points": lambda v: _kinds(v, {"add": [[i + 1, 1.0] for i in range(2000)]}),
    "odd step": lambda v: v.update(step=7),
    "odd factor": lambda v: v["off"][0].update(factor=1e9),
    "odd class": lambda v: v["off"][0].update(divisor=3),
    "odd axis": lambda v: v["off"][0].update(axis=9),
    "odd scale": lambda v: v["wholes"][0].update(predicted_ms=0.0),
    "unknown key": lambda v: v.update(more=1),
    "another version": lambda v: v.update(version=2),
    "control characters": lambda v: v["origin"].update(device="a\x1b[31m"),
    "odd variant": lambda v: v["origin"].update(variant="onnx-fp8"),
    "no origin": lambda v: v.pop("origin"),
    "huge seconds": lambda v: v.update(seconds=1e300),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_table_is_refused(name: str, table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "onnx-fp32-1.json"
    save_table(table, path)
    values = json.loads(path.read_text())
    HOSTILE[name](values)
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError) as caught:
        load_table(path)
    assert "measure again" in str(caught.value.hint)
    assert len(caught.value.message) < 600


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"kinds": {}}', b" " * (9 << 20)]
)
def test_what_is_no_json_of_a_table_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "onnx-fp32-1.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="onnx-fp32-1"):
        load_table(path)


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    import os

    path = tmp_path / "onnx-fp32-1.json"
    os.mkfifo(path)
    with pytest.raises(ConfigError):
        load_table(path)


def test_what_times_belong_to_is_compared() -> None:
    for change in ({"runtime": "onnxruntime 2"}, {"threads": 4}, {"cpu_model": None}, {"machine": "x86_64"}):
        assert len(ORIGIN.differences(ORIGIN.model_copy(update=change))) == 1
    assert ORIGIN.differences(ORIGIN) == ()


def test_tables_of_a_device(
    table: LatencyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for variant, threads in (("onnx-fp32", 1), ("onnx-fp32", 4), ("tflite-int8", 1)):
        origin = ORIGIN.model_copy(update={"variant": variant, "threads": threads})
        save_table(table._with(origin=origin), table_path("board", variant, threads))
    path = table_path("board", "tflite-fp32", 1)
    path.write_text("{")
    (path.parent / "notes.json").write_text("mine")
    assert [(each.origin.variant, each.origin.threads) for each in saved_tables("board")] == [
        ("onnx-fp32", 1), ("onnx-fp32", 4), ("tflite-int8", 1),
    ]  # fmt: skip
    assert "tflite-fp32-1.json is left out" in caplog.text
    assert saved_tables("another") == ()
    assert [each.name for each in remove_tables("board", "onnx-fp32", 4)] == ["onnx-fp32-4.json"]
    assert len(remove_tables("board")) == 3
    assert [each.name for each in path.parent.iterdir()] == ["notes.json"]
