"""The commands as a user types them: the whole way on a tiny network, and the obvious mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typed import result_of, run

from edgespa.device.runner import read_samples

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1, stride=2)
        self.fc = nn.Linear(24, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv1(x)))
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3)))

class Untraceable(Net):
    def forward(self, x):
        if x.sum() > 0:
            x = x + 1
        return super().forward(x)

def build():
    return Net()

def untraceable():
    return Untraceable()

def broken():
    raise RuntimeError("no luck today")
"""
SHAPE = ("--input-shape", "1,3,8,8")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model file and a data set of three colours; the working directory."""
    (tmp_path / "net.py").write_text(NET)
    generator = np.random.default_rng(0)
    labels = np.arange(180) % 3
    images = generator.integers(0, 80, (180, 8, 8, 3), dtype=np.uint8)
    images[np.arange(180), :, :, labels] += 150
    np.savez(
        tmp_path / "colours.npz", x_train=images[:120], y_train=labels[:120], x_test=images[120:], y_test=labels[120:]
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_whole_way(place: Path) -> None:
    adapted = result_of(
        "adapt", "net.py:build", *SHAPE, "--data", "colours.npz:train", "--eval-data", "colours.npz:test",
        "--density", "0.5", "--epochs", "12", "--batch-size", "16", "--output", "task.spa",
    )  # fmt: skip
    assert adapted["metrics"]["test_accuracy"] > 0.9
    assert 0.3 < adapted["channel_density"] <= 0.5
    assert adapted["size_bytes"] == (place / "task.spa").stat().st_size
    assert not (place / "task.spa.resume").exists()

    seen = result_of("inspect", "task.spa")
    kept = {group["name"]: group["kept"] for group in seen["groups"]}
    assert sum(map(len, kept.values())) == round(adapted["channel_density"] * 40)
    assert seen["task"]["metrics"] == adapted["metrics"]

    manifest = result_of(
        "export", "task.spa", "--format", "onnx", "--precision", "fp32", "--precision", "int8",
        "--calibration", "colours.npz:train", "--eval-data", "colours.npz:test", "--output", "bundle",
    )  # fmt: skip
    assert [variant["name"] for variant in manifest["variants"]] == ["onnx-fp32", "onnx-int8"]
    assert manifest["variants"][0]["parity"]["relative_error"] < 1e-4
    assert manifest["variants"][0]["accuracy"]["value"] == adapted["metrics"]["test_accuracy"]
    assert manifest["provenance"]["proof"]["masked_compacted_inner_error"] < 1e-5
    run("verify", "bundle")
    profile = result_of("profile", "bundle", "--threads", "1", "--runs", "20")
    assert {result["variant"] for result in profile["results"]} == {"onnx-fp32", "onnx-int8"}


def test_inspect_is_enough_to_zero_the_removed_units_by_hand(place: Path) -> None:
    """The JSON of a model and of a task give an outsider all that is needed to check a compact file."""
    run("prune", "net.py:build", *SHAPE, "--density", "0.6", "--output", "cut.spa")
    run("export", "cut.spa", "--format", "onnx", "--output", "cut")
    model = torch.nn.Module()
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # factories are built under seed 0
        model = namespace["build"]().eval()
    state = model.state_dict()
    removed = 0
    for group in result_of("inspect", "cut.spa")["groups"]:
        for unit in set(range(group["units"])) - set(group["kept"]):
            removed += 1
            for slot in group["slots"]:
                state[slot["tensor"]].index_fill_(slot["dim"], torch.tensor(slot["units"][unit]), 0.0)
    assert removed > 0
    recorded = read_samples(place / "cut", json.loads((place / "cut" / "manifest.json").read_text()))
    expected = model(torch.from_numpy(recorded.inputs[0])).detach().numpy()
    assert np.abs(expected - recorded.outputs[0]).max() <= 1e-5 * np.abs(expected).max()


def test_inspect_shows_groups_and_reasons(place: Path) -> None:
    text = run("inspect", "net.py:build", *SHAPE).stdout
    assert "conv1" in text
    assert "conv2" in text
    assert "the network's inputs and outputs (3 slots)" in text
    assert max(map(len, text.splitlines())) <= 110
    values = result_of("inspect", "net.py:build", *SHAPE)
    assert values["prunable"] == {**values["prunable"], "groups": 2, "units": 40, "channels": 40}
    assert values["totals"]["macs"] == 8 * 8 * 16 * 27 + 4 * 4 * 24 * 144 + 72
    slots = {(slot["tensor"], slot["dim"]) for slot in values["groups"][0]["slots"]}
    assert slots == {
        ("conv1.weight", 0), ("conv1.bias", 0), ("norm.weight", 0), ("norm.bias", 0),
        ("norm.running_mean", 0), ("norm.running_var", 0), ("conv2.weight", 1),
    }  # fmt: skip


def test_a_model_is_exported_as_it_is(place: Path) -> None:
    manifest = result_of(
        "export", "net.py:build", *SHAPE, "--format", "onnx", "--device", "jetson-nano", "--output", "plain"
    )
    assert [variant["opset"] for variant in manifest["variants"]] == [15]  # of ONNX Runtime 1.10
    assert manifest["compaction"]["parameters"] == manifest["compaction"]["base_parameters"]
    assert "noise" in manifest["variants"][0]["parity"]["inputs"]


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "wrong path": (("inspect", "nets.py:build", *SHAPE), "net.py"),
    "wrong factory": (("inspect", "net.py:biuld", *SHAPE), "build"),
    "no factory": (("inspect", "net.py", *SHAPE), "build"),
    "factory fails": (("inspect", "net.py:broken", *SHAPE), "no luck today"),
    "no shape": (("inspect", "net.py:build"), "--input-shape"),
    "wrong shape": (("inspect", "net.py:build", "--input-shape", "1,4,8,8"), "takes [N, 3, H, W]"),
    "untraceable": (("inspect", "net.py:untraceable", *SHAPE), "net.py"),
    "weights that do not fit": (("inspect", "net.py:build", *SHAPE, "--weights", "other.safetensors"), "conv1.weight"),
    "no such task": (("export", "nothing.spa", "--output", "out"), "nothing.spa"),
    "a task file that is none": (("export", "bad.spa", "--output", "out"), "bad.spa"),
    "no such data": (
        ("adapt", "net.py:build", *SHAPE, "--data", "colour.npz:train", "--output", "t.spa"), "colours.npz",
    ),
    "no such split": (
        ("adapt", "net.py:build", *SHAPE, "--data", "colours.npz:val", "--output", "t.spa"), "train",
    ),
    "data without classes": (("adapt", "net.py:build", *SHAPE, "--data", "plain.npz", "--output", "t.spa"), "classes"),
    "mean does not fit": (
        ("adapt", "net.py:build", *SHAPE, "--data", "colours.npz:train", "--mean", "0.5,0.5", "--std", "1",
         "--output", "t.spa"),
        "mean",
    ),
    "density out of reach": (
        ("prune", "net.py:build", *SHAPE, "--density", "0.01", "--output", "t.spa"), "the least is",
    ),
    "pattern without a match": (
        ("prune", "net.py:build", *SHAPE, "--density", "0.5", "--keep", "layer9", "--output", "t.spa"), "layer9",
    ),
    "int8 without images": (
        ("export", "net.py:build", *SHAPE, "--precision", "int8", "--output", "out"), "--calibration",
    ),
    "output exists": (("export", "net.py:build", *SHAPE, "--output", "there"), "--overwrite"),
    "task file exists": (("prune", "net.py:build", *SHAPE, "--density", "0.5", "--output", "old.spa"), "--overwrite"),
    "folder missing": (("prune", "net.py:build", *SHAPE, "--density", "0.5", "--output", "no/t.spa"), "folder"),
    "no such bundle": (("verify", "nowhere"), "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(place: Path, name: str) -> None:
    save_file({"other": torch.zeros(3)}, place / "other.safetensors")
    (place / "bad.spa").write_bytes(b"\x00" * 100)
    (place / "old.spa").write_bytes(b"old")
    np.savez(place / "plain.npz", images=np.zeros((20, 8, 8, 3), np.uint8))
    (place / "there").mkdir()
    (place / "there" / "keep.txt").write_text("mine")
    before = {path.name for path in place.iterdir() if path.name != "__pycache__"}
    arguments, said = MISTAKES[name]
    result = run(*arguments, code=1)
    assert result.stderr.startswith("Error: ")
    assert "\nHint: " in result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert {path.name for path in place.iterdir() if path.name != "__pycache__"} == before
    assert (place / "old.spa").read_bytes() == b"old"


def test_an_absent_extra_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxsim" else real(name, *a))
    result = run("export", "net.py:build", *SHAPE, "--format", "onnx", "--output", "out", code=1)
    assert "onnxsim" in result.stderr
    assert "[onnx]" in result.stderr  # of edgespa, or of the folder that it is developed in


def test_interrupt_leaves_a_state_to_resume_from(place: Path) -> None:
    """Ctrl-C in the middle of a real process; the resumed run gives the task file of an uninterrupted one."""
    common = (
        "adapt", "net.py:build", *SHAPE, "--data", "colours.npz:train", "--density", "0.6", "--epochs", "6",
        "--batch-size", "16", "--output",
    )  # fmt: skip
    script = (
        "import edgespa.tasks.checkpoint as c, _thread, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job\n"
        "save = c.Checkpoint.save\n"
        "def stop(self, path):\n"
        "    save(self, path)\n"
        "    if self.facts['epoch'] == 3: _thread.interrupt_main()\n"
        "c.Checkpoint.save = stop\n"
        "from edgespa.cli import main\n"
        "main()\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, *common, "broken.spa"], capture_output=True, text=True, cwd=place, check=False
    )
    assert process.returncode == 130, process.stderr
    assert "--resume" in process.stderr
    assert "Traceback" not in process.stderr
    assert not (place / "broken.spa").exists()
    run(*common, "broken.spa", "--resume")
    run(*common, "whole.spa")
    from edgespa.tasks.task import Task

    broken, whole = Task.load(place / "broken.spa"), Task.load(place / "whole.spa")
    assert all(np.array_equal(broken.kept[name], whole.kept[name]) for name in whole.kept)
    assert broken.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(broken.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert broken.header.metrics == whole.header.metrics


def test_what_calibration_images_went_through_is_recorded(place: Path) -> None:
    """A task that was pruned without data knows no mean and std; the ones that int8 was calibrated with count."""
    run("prune", "net.py:build", *SHAPE, "--density", "0.6", "--output", "cut.spa")
    manifest = result_of(
        "export", "cut.spa", "--format", "onnx", "--precision", "int8", "--calibration", "colours.npz:train",
        "--output", "cut",
    )  # fmt: skip
    assert manifest["preprocessing"] == {
        "height": 8, "width": 8, "channels": 3, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0],
        "background": 255,
    }  # fmt: skip
