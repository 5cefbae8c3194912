"""What README shows of the public interface runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.mark.slow
def test_the_example_of_readme_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr[-2000:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits", "digits.spa"]
    accuracy = re.search(r"onnx-int8 .*?([\d.]+)%", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 85
    assert "passed" in done.stdout
    assert "p50" in done.stdout
