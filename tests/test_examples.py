"""Each example runs as it stands, as its first lines say, and learns what it is about."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgespa.cli import main

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = {
    "digits.py": (r"onnx-int8\s+[\d,]+\s+([\d.]+)%", 90),
    "disc.py": (r"test R2: ([\d.]+)", 0.9),
    "boxes.py": (r"onnx-fp32\s+[\d,]+\s+([\d.]+)%", 30),
    "regions.py": (r"onnx-fp32\s+[\d,]+\s+([\d.]+)%", 85),
    "waves.py": (r"onnx-int8\s+[\d,]+\s+([\d.]+)%", 95),
}


def test_all_are_run() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == set(EXAMPLES)
    named = re.findall(r"python examples/(\w+\.py)", (FOLDER.parent / "README.md").read_text(encoding="utf-8"))
    assert set(named) == set(EXAMPLES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to type commands in, as a clone is one."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "examples").symlink_to(FOLDER)
    return folder


def typed(line: list[str], place: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.more
@pytest.mark.parametrize("name", EXAMPLES)
def test_runs(name: str, place: Path) -> None:
    pattern, least = EXAMPLES[name]
    before = {path.name for path in place.iterdir()}
    shown = typed([sys.executable, f"examples/{name}"], place)
    found = re.search(pattern, shown)
    assert found is not None, shown
    assert float(found[1]) > least
    assert {path.name for path in place.iterdir()} - before == {f"example-{Path(name).stem}"}


@pytest.mark.slow
@pytest.mark.more
def test_the_tutorial_runs_as_it_stands(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (FOLDER.parent / "docs" / "tutorial" / "first-bundle.md").read_text(encoding="utf-8")
    text = text[text.index("## The same by hand") :].replace("\\\n", " ")
    lines = re.findall(r"^(edgespa .*)$", text, re.MULTILINE)
    assert [line.split()[1] for line in lines] == ["inspect", "adapt", "export", "verify", "profile"]
    if not (place / "example-digits").is_dir():
        typed([sys.executable, "examples/digits.py"], place)
    monkeypatch.chdir(place)
    for line in lines:
        # One format is enough here: converting takes longest.
        done = CliRunner().invoke(main, shlex.split(line.replace("--format tflite ", ""))[1:])
        assert done.exit_code == 0, done.stderr
    typed([sys.executable, "bundle/run.py", "--selfcheck", "--variant", "all"], place)


def test_each_says_how_it_is_started() -> None:
    for name in EXAMPLES:
        assert f"\n    python examples/{name} [FOLDER]\n" in (FOLDER / name).read_text(encoding="utf-8")
