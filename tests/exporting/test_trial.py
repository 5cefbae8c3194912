"""A runtime that crashes on a file: said, and survived."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgespa.bundle import TensorSpec
from edgespa.errors import ParityError
from edgespa.exporting import trial
from edgespa.exporting.parity import File

SPEC = TensorSpec(name="input", shape=("batch", 3), dtype="float32", layout="other")
VARIANT: dict[str, Any] = {
    "name": "onnx-fp32",
    "file": "model.onnx",
    "format": "onnx",
    "inputs": [SPEC.model_dump()],
    "outputs": [SPEC.model_dump()],
}
RUNTIME = """
__version__ = "9.9"
class SessionOptions: pass
class InferenceSession:
    def __init__(self, model, options, providers):
        import os, signal
        text = open(model).read()
        if text == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if text == "exit":
            os._exit(7)
        raise RuntimeError(text)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "onnxruntime.py").write_text(RUNTIME)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    trial.end()
    yield tmp_path
    trial.end()


def test_says_what_killed_the_process(folder: Path) -> None:
    for content, expected in (("refused", None), ("crash", "SIGSEGV"), ("refused", None), ("exit", "exit status 7")):
        (folder / "model.onnx").write_text(content)
        assert trial.crash_of(folder, VARIANT, 1) == expected


def test_a_folder_is_found_wherever_the_process_was_started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    (folder / "model.onnx").write_text("crash")
    with trial.trials():
        trial._process()
        monkeypatch.chdir(folder.parent)
        assert trial.crash_of(Path(folder.name), VARIANT, 1) == "SIGSEGV"


def test_one_process_tries_all_files_of_an_export_and_ends_with_it(folder: Path) -> None:
    (folder / "model.onnx").write_text("refused")
    with trial.trials():
        trial.crash_of(folder, VARIANT, 1)
        process = trial._process()
        trial.crash_of(folder, VARIANT, 1)
        assert trial._process() is process
    assert process.poll() is not None


def test_file_that_crashes_its_runtime_is_no_file_to_ship(folder: Path) -> None:
    (folder / "model.onnx").write_text("crash")
    with pytest.raises(ParityError, match=r"onnx-fp16: the runtime crashes on the file \(SIGSEGV\)"):
        File(folder / "model.onnx", "onnx-fp16", "onnx", (SPEC,), (SPEC,), 1)


def test_a_process_that_does_not_start_is_no_fault_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.onnx").write_text("refused")
    monkeypatch.setattr(trial, "own_module", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    assert trial.crash_of(folder, VARIANT, 1) is None
