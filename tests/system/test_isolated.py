"""Processes of our own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgespa.system.isolated import own_module


def test_it_is_this_edgespa_that_runs_where_none_is_installed(tmp_path: Path) -> None:
    (tmp_path / "runpy.py").write_text("raise RuntimeError('of the current folder')\n")
    python, *rest = own_module("edgespa.system.isolated")
    assert python == sys.executable
    done = subprocess.run([python, "-S", *rest], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
