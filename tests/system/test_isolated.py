"""Processes of our own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgespa.system import isolated
from edgespa.system.isolated import NoAnswerError, answer_of, own_module


def told(monkeypatch: pytest.MonkeyPatch, script: str, asked: Any = None) -> Any:
    """What comes of a process that runs a script."""
    monkeypatch.setattr(isolated, "own_module", lambda *_: [sys.executable, "-c", script])
    return answer_of("any", asked=asked)


def test_the_last_line_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import json, sys; print('a runtime greets'); print(json.dumps([json.load(sys.stdin), 'é']))"
    assert told(monkeypatch, script, {"a": 1}) == [{"a": 1}, "é"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import sys; print('[1]'); sys.exit('first\\nwhat is wrong')", "what is wrong"),
        ("import os; print('[1]', flush=True); os.kill(os.getpid(), 9)", "status -9"),
        ("print('no answer of ours')", "no answer"),
        ("pass", "no answer"),
        ("import sys; print('[' * 200000); sys.stderr.write('x' * 99999)", "x" * 300),
    ],
)
def test_anything_else_is_no_answer(monkeypatch: pytest.MonkeyPatch, script: str, words: str) -> None:
    with pytest.raises(NoAnswerError) as caught:
        told(monkeypatch, script)
    assert str(caught.value) == words


def test_an_answer_beyond_bounds_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "MOST_ANSWERED", 50)
    assert told(monkeypatch, "print('x' * 1000); print('[1, 2]')") == [1, 2]
    with pytest.raises(NoAnswerError):
        told(monkeypatch, "print([1] * 100)")


def test_it_is_this_edgespa_that_runs_where_none_is_installed(tmp_path: Path) -> None:
    (tmp_path / "runpy.py").write_text("raise RuntimeError('of the current folder')\n")
    python, *rest = own_module("edgespa.system.isolated")
    assert python == sys.executable
    done = subprocess.run([python, "-S", *rest], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
