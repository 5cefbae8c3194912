"""A line that is printed can be typed: the program, the Python and the way to an extra, as they are here."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from edgespa.system import started


def _program(folder: Path, name: str = "edgespa") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_program_on_the_path_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _program(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(path)])
    assert started.program() == "edgespa"


@pytest.mark.parametrize("folder", [".venv/bin", "my env/bin", "."])
def test_one_that_is_not_has_the_way_to_it(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _program(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    for typed in (str(path), os.path.relpath(path)):
        monkeypatch.setattr(sys, "argv", [typed])
        (word,) = shlex.split(started.program())
        assert os.sep in word
        assert not os.path.isabs(word)
        assert Path(word).samefile(path)


def test_another_edgespa_on_the_path_is_not_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _program(tmp_path / "here")
    monkeypatch.setenv("PATH", str(_program(tmp_path / "other").parent))
    monkeypatch.setattr(sys, "argv", [str(path)])
    assert started.program() == str(path)


def test_a_module_is_started_by_its_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(Path(started.__file__).parents[1] / "__main__.py")])
    assert started.program() == f"{started.python()} -m edgespa"


@pytest.mark.parametrize("argv", [["pytest"], ["-c"], [""], [], ["/no/such/edgespa"]])
def test_from_a_script_it_has_its_name(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert started.program() == "edgespa"


def test_python_by_name_only_where_that_is_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _program(tmp_path / "my env" / "bin", "python3")
    monkeypatch.setattr(sys, "executable", str(path))
    monkeypatch.setenv("PATH", str(path.parent))
    assert started.python() == "python3"
    monkeypatch.setenv("PATH", str(_program(tmp_path / "other", "python").parent))
    monkeypatch.chdir(tmp_path)
    assert started.python() == "'my env/bin/python3'"


class TestExtras:
    def _source(self, monkeypatch: pytest.MonkeyPatch, root: Path, torch: str = "2.13.0+cpu") -> None:
        monkeypatch.setattr(started, "__file__", str(root / "edgespa" / "system" / "started.py"))
        monkeypatch.setattr(started, "python", lambda: "python")
        monkeypatch.setattr(started, "_torch", lambda: torch)
        monkeypatch.chdir(root)

    def _checkout(self, root: Path, torch: str = "2.13.0") -> None:
        (root / "pyproject.toml").write_text("")
        (root / "constraints.txt").write_text(f"torch-pruning==1.0\ntorch=={torch}\n")

    def test_in_a_checkout_by_its_constraints(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._source(monkeypatch, tmp_path)
        self._checkout(tmp_path)
        assert started.installing("onnx,tflite") == "python -m pip install -c constraints.txt -e '.[onnx,tflite]'"
        (tmp_path / "inner").mkdir()
        monkeypatch.chdir(tmp_path / "inner")
        words = shlex.split(started.installing("onnx"))
        assert words[-3:] == [str(tmp_path / "constraints.txt"), "-e", f"{tmp_path}[onnx]"]

    def test_constraints_for_another_torch_would_replace_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._source(monkeypatch, tmp_path, "2.12.1")
        self._checkout(tmp_path)
        assert started.installing("onnx") == "python -m pip install 'edgespa[onnx]' torch==2.12.1"

    def test_installed_the_torch_that_is_there_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._source(monkeypatch, tmp_path)
        assert started.installing("onnx") == "python -m pip install 'edgespa[onnx]' torch==2.13.0"
        assert "/whl/cpu 'edgespa[timm]' torch==2.13.0" in started.installing("timm")
        monkeypatch.setattr(started, "_torch", lambda: "2.13.0")
        assert started.installing("timm") == "python -m pip install 'edgespa[timm]' torch==2.13.0"
        monkeypatch.setattr(started, "_torch", lambda: "")
        assert started.installing("timm") == "python -m pip install 'edgespa[timm]'"

    def test_without_pip_by_uv(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._source(monkeypatch, tmp_path)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert started.installing("onnx") == "uv pip install --python python 'edgespa[onnx]' torch==2.13.0"

    def test_is_found_in_a_hint(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._source(monkeypatch, tmp_path, "")
        text = started.with_extras("install a runtime (pip install 'edgespa[onnx]'), or pass --no-run")
        assert text == "install a runtime (python -m pip install 'edgespa[onnx]'), or pass --no-run"
