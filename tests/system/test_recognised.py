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
    (tmp_path / "my layout" / "blobs" / "sha256").mkdir(parents=True)
    for name in ("oci-layout", "index.json", "blobs/sha256/00"):
        (tmp_path / "my layout" / name).write_text("{}")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "index.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


LAYOUT = "edgespa unpack 'my layout' --output DIR"
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
    ("my layout", LAYOUT),
    ("my layout/index.json", LAYOUT),
    ("my layout/blobs/sha256/00", LAYOUT),
    ("half", "the folder that `edgespa export` wrote"),
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
        ("my layout", LAYOUT),
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


@pytest.mark.parametrize(
    "words",
    [
        ["push", "{}", "oci://localhost:1/a:1"],
        ["push", "{}", "hf://ann/a"],
        ["ship", "{}", "--to", "there", "--unsigned"],
        ["ship", "{}", "--device", "pi-5"],
        ["evaluate", "{}", "--eval-data", "d.npz"],
        ["adapt", "{}", "--data", "d.npz", "-o", "y.spa"],
    ],
)
def test_a_layout_of_a_registry_is_unpacked_first(words: list[str], folder: Path) -> None:
    (folder / "d.npz").write_bytes(b"")
    result = CliRunner().invoke(main, [word.format("my layout") for word in words])
    assert result.exit_code == 1, result.output
    assert LAYOUT in result.stderr.partition("Hint: ")[2], result.stderr


@pytest.mark.parametrize("layout", ["oci", "tar"])
def test_a_layout_of_files_is_none_of_images(layout: str, folder: Path) -> None:
    result = CliRunner().invoke(main, ["export", "net.py:build", "--layout", layout, "-o", "y"])
    assert result.exit_code == 2
    assert "edgespa pack BUNDLE --layout=oci --output FOLDER" in " ".join(result.stderr.split())
    result = CliRunner().invoke(main, ["export", "net.py:build", "--layout", "nhcw", "-o", "y"])
    assert "pack" not in result.stderr


@pytest.mark.parametrize("option", ["--checkpoint-key", "--weights-key", "--checkpoint-ky"])
@pytest.mark.parametrize("command", ["export", "inspect", "adapt", "verify", "tasks"])
def test_a_key_stands_behind_the_file(option: str, command: str) -> None:
    result = CliRunner().invoke(main, [command, "net.py:build", option, "ema", "-o", "y"])
    assert result.exit_code == 2
    assert f"No such option '{option}'" in result.stderr
    known = option != "--checkpoint-ky" and command not in ("verify", "tasks")
    assert ("--weights FILE:KEY" in result.stderr) is known


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
