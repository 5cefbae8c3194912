"""What is given in the wrong place is recognised, and what is offered instead can be typed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgespa.cli import main

TENSORS = (8).to_bytes(8, "little") + b"{}      "


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    bundle = tmp_path / "my bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text(json.dumps({"schema_version": 1, "edgespa_version": "0.1.0"}))
    (bundle / "model.onnx").write_bytes(b"\x08\x07")
    (tmp_path / "fruit.spa").write_bytes(TENSORS)
    (tmp_path / "weights.bin").write_bytes(TENSORS)
    (tmp_path / "loose.onnx").write_bytes(b"\x08\x07")
    (tmp_path / "w.pth").write_bytes(b"x")
    (tmp_path / "net.py").write_text("def build():\n    return None\n")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "a.spa").write_bytes(TENSORS)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


BUNDLES = [
    ("fruit.spa", "edgespa export fruit.spa --output DIR"),
    ("weights.bin", "edgespa export weights.bin --output DIR"),
    ("net.py", "edgespa export net.py:NAME --output DIR"),
    ("net.py:build", "edgespa export net.py:build --output DIR"),
    ("prog.pt2", "edgespa export prog.pt2 --output DIR"),
    ("my bundle/model.onnx", "give 'my bundle'"),
    ("my bundle/manifest.json", "give 'my bundle'"),
    ("loose.onnx", "the folder that `edgespa export` wrote"),
    (".", "bundles in there: my bundle"),
    ("my bundl", "did you mean my bundle?"),
]


@pytest.mark.parametrize(("given", "hint"), BUNDLES)
@pytest.mark.parametrize("line", ["verify {}", "pack {} -o x.tar", "profile {}", "card {}", "unpack {} -o y"])
def test_no_bundle(line: str, given: str, hint: str, folder: Path) -> None:
    if line.startswith("unpack") and (given.endswith("bundl") or not (folder / given).is_file()):
        pytest.skip("a folder, or nothing there: told by the system")
    result = CliRunner().invoke(main, [word.format(given) for word in line.split()])
    assert result.exit_code == 1
    assert hint in result.stderr.partition("Hint: ")[2]
    assert "pack the bundle again" not in result.stderr


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("my bundle", "edgespa verify 'my bundle'"),
        ("my bundle/model.onnx", "the PyTorch model that it was made of"),
        ("loose.onnx", "the PyTorch model that it was made of"),
        ("w.pth", "MODEL --weights w.pth"),
        ("tasks", "edgespa tasks tasks"),
        ("hub", "write hf:hub"),
        ("fruit.sp", "did you mean fruit.spa?"),
        ("nonsense", "write path/file.py:factory"),
    ],
)
@pytest.mark.parametrize("line", ["inspect {}", "export {} -o y", "prune {} --density 0.5 -o y.spa"])
def test_no_model(line: str, given: str, hint: str, folder: Path) -> None:
    if line.startswith("inspect") and given == "my bundle":  # it shows what a bundle says; this one is damaged
        hint = "the bundle was damaged"
    result = CliRunner().invoke(main, [word.format(given) for word in line.split()])
    assert result.exit_code == 1
    assert hint in result.stderr.partition("Hint: ")[2]
    if given != "hub":
        assert "hf:" not in result.stderr or given == "nonsense" or given == "fruit.sp"


def test_a_task_is_gone_on_with(folder: Path) -> None:
    (folder / "d.npz").write_bytes(b"")
    result = CliRunner().invoke(main, ["adapt", "fruit.spa", "--data", "d.npz", "-o", "y.spa"])
    assert "edgespa adapt --from fruit.spa" in result.stderr


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("fruit.spa", "edgespa inspect fruit.spa"),
        ("my bundle", "edgespa card 'my bundle'"),
        ("task", "did you mean tasks?"),
        ("hub", "make one with: edgespa adapt"),
    ],
)
def test_no_folder_of_tasks(given: str, hint: str, folder: Path) -> None:
    result = CliRunner().invoke(main, ["tasks", given])
    assert result.exit_code == 1
    assert hint in result.stderr
    assert not re.search(r"did you mean (\S+)\?", result.stderr) or given == "task"
