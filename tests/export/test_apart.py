"""Converters and quantisers that crash, fail, or whose export is killed: said, survived, and nothing left."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgespa.base import Base
from edgespa.errors import ExportError, MissingExtraError
from edgespa.export import apart, conversion, onnx_file, tflite_file
from edgespa.export.bundle import ExportConfig
from edgespa.export.cache import Cache
from edgespa.export.conversion import conversions
from edgespa.export.converter import Form
from edgespa.recipes.bundles import export_bundle

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux")


def crash(*_: Any, **__: Any) -> Any:
    faulthandler.disable()  # pytest says where, at length
    os.kill(os.getpid(), signal.SIGSEGV)


def fail(error: Exception) -> Any:
    raise error


def test_results_errors_and_crashes_come_back() -> None:
    assert apart.call(lambda: {"x": os.getpid()}, "it", "")["x"] != os.getpid()
    with pytest.raises(ExportError, match="no such layer") as told:
        apart.call(lambda: fail(ExportError("no such layer", "do this")), "it", "")
    assert told.value.hint == "do this"
    assert "in fail" in str(told.value.__cause__)  # the traceback over there
    with pytest.raises(KeyError, match="name"):
        apart.call(lambda: fail(KeyError("name")), "it", "")
    with pytest.raises(ExportError, match="torch is not installed") as told:
        apart.call(lambda: fail(MissingExtraError("torch", "all")), "it", "")
    with pytest.raises(ExportError, match=r"the tool crashed \(SIGSEGV\)") as told:
        apart.call(crash, "the tool", "do without")
    assert told.value.hint == "do without"
    with pytest.raises(ExportError, match=r"crashed \(exit status 7\)"):
        apart.call(lambda: os._exit(7), "it", "")


def test_stopping_ends_it_at_once() -> None:
    work = apart.Apart(lambda: time.sleep(60))
    began = time.monotonic()
    work.stop()
    assert time.monotonic() - began < 5
    assert not work._process.is_alive()


def test_no_fork_within_a_fork_or_beside_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    assert apart.can_fork()
    assert not apart.call(apart.can_fork, "it", "")
    monkeypatch.setitem(sys.modules, "jax", sys)
    assert apart.can_fork()
    assert not apart.can_fork(with_jax=True)


@pytest.mark.usefixtures("converters")
@pytest.mark.parametrize(("name", "module", "other"), [("onnx", onnx_file, "tflite"), ("tflite", tflite_file, "onnx")])
def test_a_converter_that_crashes_is_told_and_leaves_nothing(
    toy_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: Any, other: str
) -> None:
    monkeypatch.setattr(module, "write_fp32", crash)
    monkeypatch.setattr(conversion, "can_fork", lambda **_: True)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(ExportError, match=rf"the converter to {name} crashed on the program \(SIGSEGV\)") as told:
        export_bundle(toy_base.spec, tmp_path / "out", ExportConfig(formats=(name,)), input_shape=(1, 3, 8, 8))  # type: ignore[arg-type]
    assert f"--format {other}" in str(told.value.hint)
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("converters")
def test_where_there_is_no_fork_a_new_process_converts(
    toy_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "can_fork", lambda **_: False)
    monkeypatch.setattr(onnx_file, "write_fp32", lambda *_: pytest.fail("converted here"))
    with conversions(toy_base.program, Form(), ("onnx",), Cache(None)) as made:
        made.write("onnx", tmp_path / "m.onnx")
        assert (tmp_path / "m.onnx").stat().st_size > 1000
        made.start("onnx")
        made._running["onnx"]._process.kill()  # type: ignore[union-attr]
        with pytest.raises(ExportError, match=r"crashed on the program \(SIGKILL\)"):
            made.write("onnx", tmp_path / "m.onnx")


@pytest.mark.slow
@pytest.mark.usefixtures("converters")
@pytest.mark.parametrize("moment", [0.4, 0.6, 0.8])
def test_no_process_and_no_folder_of_a_killed_export_stays(toy_folder: Path, tmp_path: Path, moment: float) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "edgespa", "export", f"{toy_folder / 'net.py'}:build", "--input-shape", "1,3,8,8"]
    environment = {**os.environ, "TMPDIR": str(temporary)}

    def running() -> list[int]:
        """Processes that have the environment of the export."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"TMPDIR={temporary}\0".encode() in entry.read_bytes():
                    found.append(int(entry.parent.name))
            except OSError:
                continue
        return found

    began = time.monotonic()
    subprocess.run([*command, "--output", str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    whole = time.monotonic() - began
    usual = set(os.listdir(temporary))  # what torch keeps there
    process = subprocess.Popen([*command, "--output", str(tmp_path / "out")], env=environment)
    time.sleep(whole * moment)
    process.kill()
    process.wait()
    last = time.monotonic() + 30
    while (running() or set(os.listdir(temporary)) - usual) and time.monotonic() < last:
        time.sleep(0.1)
    assert running() == []
    assert set(os.listdir(temporary)) <= usual
