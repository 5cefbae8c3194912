"""``edgespa prune --method sls``, as a user types it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typed import result_of, run

from edgespa.cli import _depth
from edgespa.selection.depth import METRICS

NET = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.mix = nn.Linear(16, 16)

    def forward(self, x):
        y = self.norm(x)
        y = self.mix(y.transpose(1, 2)).transpose(1, 2) if y.shape[1] == 16 else y
        return x + self.down(torch.relu(self.up(y)))


class Net(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 2, 2)
        self.blocks = nn.Sequential(*(Block() for _ in range(depth)))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.blocks(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


def build():
    torch.manual_seed(0)
    return Net(5)


def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
"""
MODEL = ("net.py:build", "--input-shape", "1,3,8,8")
SLS = ("--method", "sls", "--data", "colours.npz", "--metric", "calinski-harabasz", "--score-images", "60")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = random.integers(0, 110, (90, 8, 8, 3)).astype(np.uint8)
    images[np.arange(90), :, :, labels] += 120
    np.savez(tmp_path / "colours.npz", images=images, labels=labels)
    np.savez(tmp_path / "bare.npz", images=images)
    np.savez(tmp_path / "noise.npz", images=random.integers(0, 255, images.shape).astype(np.uint8), labels=labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.more
def test_from_a_task_to_a_bundle(place: Path) -> None:
    common = ("--epochs", "2", "--batch-size", "16")
    tested = ("--eval-data", "colours.npz")
    run("adapt", *MODEL, "--data", "colours.npz", "--adapter", "lora", *common, "-o", "task.spa")
    found = result_of("prune", "task.spa", *SLS, "--alpha", "0.9", "-o", "cut.spa")
    depth = found["depth"]
    assert depth["images"] == 60
    assert list(depth["scores"]) == [f"blocks.{number}" for number in range(5)]
    kept = depth["stages"]["blocks"]["kept"]
    assert found["kept_blocks"] == (f"{kept} of 5" if kept < 5 else None)
    by_hand = result_of("prune", "task.spa", "--method", "sls", "--keep-depth", "2", *tested, "-o", "two.spa")
    metrics = by_hand["metrics"]
    for file, metric in (("task.spa", "uncut_test_accuracy"), ("two.spa", "test_accuracy")):
        made = result_of("export", file, "--format", "onnx", *tested, "--output", f"{file}-bundle")
        assert metrics[metric] == made["variants"][0]["accuracy"]["value"]
    assert metrics["uncut_test_accuracy"] != metrics["test_accuracy"], "else nothing tells them apart"
    assert by_hand["depth"]["removed"] == ["blocks.2", "blocks.3", "blocks.4"]
    assert (place / "two.spa").stat().st_size < (place / "task.spa").stat().st_size
    tuned = result_of("adapt", "--from", "two.spa", "--data", "colours.npz", *common, "-o", "tuned.spa")
    assert tuned["kept_blocks"] == "2 of 5"
    listed = run("tasks", ".").stdout
    assert "2 of 5" in listed
    shown = run("inspect", "tuned.spa").stdout
    assert "removed blocks: blocks.2, blocks.3, blocks.4" in shown
    manifest = result_of("export", "tuned.spa", "--format", "onnx", "--output", "bundle")
    assert manifest["variants"][0]["parity"]["relative_error"] < 1e-4
    assert manifest["compaction"]["macs"] < 0.6 * manifest["compaction"]["base_macs"]


def test_a_model_itself_is_cut_and_the_table_says_what_was_seen() -> None:
    text = run("prune", *MODEL, *SLS, "--alpha", "0.01", "-o", "cut.spa").stdout
    assert "of 5 blocks are kept" in text
    assert "threshold" in text
    assert "removed" in text
    assert "next: edgespa adapt --from cut.spa" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.more
def test_the_picture(place: Path) -> None:
    pytest.importorskip("matplotlib")
    run("prune", *MODEL, *SLS, "--keep-depth", "3", "--plot", "seen.svg", "-o", "cut.spa")
    drawing = (place / "seen.svg").read_text()
    assert "blocks.4" in drawing
    again = run("prune", *MODEL, *SLS, "--keep-depth", "3", "--plot", "seen.svg", "-o", "more.spa", code=1)
    assert "seen.svg exists already" in again.stderr
    assert not (place / "more.spa").exists()


@pytest.mark.law(5)
@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("--method", "sls"), "needs labelled images", 1),
        (("--method", "sls", "--data", "bare.npz"), "no classes", 1),
        (("--method", "sls", "--data", "nowhere.npz"), "nowhere.npz does not exist", 1),
        (("--method", "sls", "--data", "noise.npz", "--metric", "silhouette"), "not apart at the last block", 1),
        (("--method", "sls", "--keep-depth", "5"), "removes nothing", 1),
        (("--method", "sls", "--keep-depth", "9"), "removes nothing", 1),
        (("--method", "sls", "--keep-depth", "2,2"), "2 depths are given for 1 stages", 1),
        (("--method", "sls", "--keep-depth", "0"), "not a number of blocks", 2),
        (("--method", "sls", "--keep-depth", "2", "--plot", "a.png"), "for a plot", 1),
        (("--method", "sls", "--data", "colours.npz", "--plot", "a.pdf"), "SVG or PNG", 1),
        (("--method", "sls", "--density", "0.5", "--keep-depth", "2"), "--density is for removing channels", 2),
        (("--method", "l1", "--density", "0.5", "--alpha", "0.2"), "--alpha is for --method sls", 2),
        (("--method", "l1"), "--density", 2),
        (("--method", "sls", "--data", "colours.npz", "--alpha", "1.5"), "1.5", 2),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], said: str, code: int, place: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("prune", *MODEL, *arguments, "-o", "cut.spa", code=code)
    assert said in result.stderr
    assert not (place / "cut.spa").exists()


def test_a_network_without_blocks_is_refused() -> None:
    arguments = ("net.py:plain", "--input-shape", "1,3,8,8", "--method", "sls", "--keep-depth", "1")
    assert "no residual block" in run("prune", *arguments, "-o", "cut.spa", code=1).stderr


@pytest.mark.more
def test_channels_of_a_task_are_removed_by_adapt() -> None:
    run("prune", *MODEL, "--method", "sls", "--keep-depth", "3", "-o", "cut.spa")
    refused = run("prune", "cut.spa", "--method", "l1", "--density", "0.5", "-o", "less.spa", code=1)
    assert "edgespa adapt --from cut.spa --data DATA --density 0.5" in refused.stderr
    common = ("--data", "colours.npz", "--epochs", "2", "--batch-size", "16", "--density", "0.5", "--round-to", "1")
    found = result_of("adapt", "--from", "cut.spa", *common, "-o", "less.spa")
    assert found["kept_blocks"] == "3 of 5"
    assert found["channel_density"] <= 0.5


def test_the_choices_are_those_of_the_library() -> None:
    assert set(_depth.METRICS) == set(METRICS)
