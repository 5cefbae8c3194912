"""``edgespa prune`` with calibration images, as a user types it."""

from __future__ import annotations

import re
from pathlib import Path

import click.testing
import numpy as np
import pytest
from typed import result_of, run

from edgespa.cli.prune import METHODS, command
from edgespa.pruning.config import ALLOCATIONS, TABLE

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

def build():
    return Net()
"""
MODEL = ("net.py:build", "--input-shape", "1,3,8,8")
DATA = ("--calibration", "noise.npz", "--mean", "0.5", "--std", "0.25")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (80, 8, 8, 3)).astype(np.uint8)
    np.savez(tmp_path / "noise.npz", images=images)
    np.savez(tmp_path / "labelled.npz", images=images, labels=np.arange(80) % 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_unlabelled_images_are_enough_and_export_takes_the_task(place: Path) -> None:
    found = result_of(
        "prune",
        *MODEL,
        *DATA,
        "--method",
        "asym-in-change",
        "--density",
        "0.5",
        "--round-to",
        "4",
        "--output",
        "cut.spa",
    )
    assert found["channel_density"] == 0.5
    assert found["calibration"] == {"data": "noise", "images": 80}
    assert set(found["reconstruction_error"]) == {"conv2", "fc"}
    assert set(found["curves"]) == {"conv1", "conv2"}
    assert found["stored_parameters"] > 0
    assert not (place / "cut.spa.resume").exists()
    manifest = result_of("export", "cut.spa", "--format", "onnx", "--output", "bundle")
    assert manifest["variants"][0]["parity"]["relative_error"] < 1e-4
    assert manifest["provenance"]["proof"]["masked_compacted_inner_error"] < 1e-5


def test_the_tables_for_people() -> None:
    text = run(
        "prune", *MODEL, *DATA, "--method", "layer-in-change", "--density", "0.5", "-o", "cut.spa", "--eval-data",
        "labelled.npz",
    ).stdout  # fmt: skip
    assert re.search(r"test accuracy \(\d+ images[^)]*\) +\d+\.\d\d% +\d+\.\d\d%", text)
    assert "base test accuracy" not in text
    assert "reconstruction error" in text
    assert "conv2" in text
    assert "next: edgespa export cut.spa" in text


def test_labels_and_accuracy() -> None:
    found = result_of(
        "prune", *MODEL, "--calibration", "labelled.npz", "--eval-data", "labelled.npz", "--eval-limit", "60",
        "--method", "act-grad", "--density", "0.5", "--bn-reestimate", "-o", "cut.spa",
    )  # fmt: skip
    assert 0 <= found["metrics"]["test_accuracy"] <= 1
    assert found["metrics"]["test_images"] == 60
    original = result_of(
        "export", *MODEL, "--format", "onnx", "--eval-data", "labelled.npz", "--eval-limit", "60", "--output", "whole"
    )
    assert found["metrics"]["base_test_accuracy"] == original["variants"][0]["accuracy"]["value"]
    shared = result_of(
        "prune", *MODEL, *DATA, "--held-out", "labelled.npz", "--allocation", "equal-accuracy", "--method",
        "layer-in-change", "--density", "0.6", "-o", "even.spa",
    )  # fmt: skip
    assert shared["channel_density"] <= 0.6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--method", "asym-in-change"), "give --calibration"),
        (("--method", "l1", "--reweight"), "give --calibration"),
        (("--method", "act-grad", "--calibration", "noise.npz"), "has no classes"),
        (("--method", "layer-in-change", *DATA, "--limit", "1"), "too few calibration images"),
        (("--method", "layer-in-change", *DATA, "--allocation", "equal-accuracy"), "--held-out"),
        (("--method", "layer-in-change", *DATA, "--allocation", "global"), "cannot be global"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], said: str, place: Path) -> None:
    result = run("prune", *MODEL, "--density", "0.5", *arguments, "-o", "cut.spa", code=1)
    assert said in result.stderr
    assert not (place / "cut.spa").exists()


def test_the_choices_are_those_of_the_library() -> None:
    assert set(METHODS) == {*TABLE, "sls"}  # which removes blocks, and has its own configuration
    assert [name for name in METHODS if name in TABLE and not TABLE[name].needs_data] == list(METHODS[:8])
    options = {option.name: option for option in command.params}
    allocation = options["allocation"].type
    assert isinstance(allocation, click.Choice)
    assert tuple(allocation.choices) == ALLOCATIONS


def test_adapting_from_a_pruned_task_needs_no_model() -> None:
    run("prune", *MODEL, *DATA, "--method", "layer-in-change", "--density", "0.5", "--round-to", "4", "-o", "cut.spa")
    task = ("--data", "labelled.npz", "--epochs", "1", "--batch-size", "8", "--head", "new")
    found = result_of("adapt", "--from", "cut.spa", *task, "-o", "task.spa")
    assert found["channel_density"] == 0.5
    again = result_of("adapt", *MODEL, "--from", "cut.spa", *task, "-o", "again.spa")
    assert again["metrics"] == found["metrics"]
    assert "name a MODEL" in run("adapt", *task, "-o", "no.spa", code=1).stderr
    run("export", "task.spa", "--format", "onnx", "--output", "bundle")
