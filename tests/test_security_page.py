"""SECURITY.md: every kind of file has a line, and every line names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [line for line in (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")][2:]
KINDS = (
    "file.py", ".pt2", ".safetensors", ".pth", "timm:", "hf:FOLDER", ".spa", ".resume", ".zip", ".npz", "calibration",
    "device profile", "--labels",
    "recipe of a bundle", "recipe of commands", "edgespa.toml", "bundle folder", "packed", "signature",
    "status --selfcheck", "folder of edgespa on a device", "ONNX",
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_every_line_names_tests_that_are_there(row: str) -> None:
    *_, tests = row.strip("| ").split(" | ")
    named = re.findall(r"`(tests/[^`]+)`", tests)
    assert named
    for name in named:
        file, _, function = name.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {function or 'test_'}" in text


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_line(kind: str) -> None:
    assert any(kind in row.split(" | ")[0] for row in ROWS)


def test_the_commands_that_open_task_files_say_so() -> None:
    from edgespa.cli import main

    for name in ("inspect", "export", "ship", "prune", "adapt"):
        command = main.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--trust" in options
        assert "code that" in str(command.help).lower()
