"""A device on which one runtime ends every process that imports it: the other is measured, and the reason is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgespa.device.board import Device
from edgespa.device.inventory import try_providers
from edgespa.device.link.here import LocalConnection
from edgespa.device.measure.profile import profile
from edgespa.device.measure.settings import Settings
from edgespa.device.shipment.ready import _require_runtime
from edgespa.device.shipment.ship import require_passed, self_check
from edgespa.errors import DeviceError


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalConnection:
    """A device whose Python finds an ONNX Runtime that is built for another processor."""
    folder = tmp_path / "dying"
    folder.mkdir()
    (folder / "onnxruntime.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for room in ("profile", "site"):
        monkeypatch.setattr(f"edgespa.device.measure.{room}.runtime_python", lambda *_: [str(python)], raising=False)
    values = {"name": "pi", "title": "board", "connection": {"folder": str(tmp_path / "kept")}}
    return LocalConnection(Device.parse(values, "pi"))


@pytest.mark.more
def test_the_other_runtime_is_measured(board: LocalConnection, full_bundle: Path) -> None:
    with board:
        found = profile(full_bundle, board, Settings(runs=10))
    assert [each.variant for each in found.results] == ["tflite-fp32"]
    (skipped,) = found.skipped
    assert skipped.variant == "onnx-fp32"
    assert "onnxruntime" in skipped.reason
    assert "(SIGILL): it was built for processors that have more instructions" in skipped.reason


def test_what_is_asked_for_and_dies_is_no_broken_connection(board: LocalConnection, full_bundle: Path) -> None:
    with board, pytest.raises(DeviceError) as caught:
        profile(full_bundle, board, Settings(variants=("onnx-fp32",), runs=10))
    assert "SIGILL" in caught.value.message
    assert "broke" not in caught.value.message


def test_the_other_runtime_can_be_shipped_to(board: LocalConnection, full_bundle: Path, tmp_path: Path) -> None:
    python = [str(tmp_path / "python")]
    with board:
        _require_runtime(board, python, ("onnx", "tflite"), load=True)
        with pytest.raises(DeviceError, match="its import is ended by signal 4"):
            _require_runtime(board, python, ("onnx",), load=True)
        checks = {each.name: each for each in self_check(board, str(full_bundle), python)}
    assert checks["tflite-fp32"].status == "passed"
    assert checks["onnx-fp32"].status == "not run"
    assert "SIGILL" in checks["onnx-fp32"].failures[0]
    require_passed(board, "shapes", list(checks.values()))


def test_each_runtime_is_tried_in_a_process_of_its_own(board: LocalConnection, tmp_path: Path) -> None:
    found = {each.runtime: each for each in try_providers(board, [str(tmp_path / "python")])}
    assert found["ai_edge_litert"].works
    assert not found["onnxruntime"].works
    assert str(found["onnxruntime"].hint).startswith("edgespa devices setup pi --runtime onnxruntime==")
