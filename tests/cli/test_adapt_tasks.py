"""``edgespa adapt`` with its options, killed and resumed; ``edgespa tasks``."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import onnx
import pytest
from typed import result_of, run

from edgespa.adaptation.rates import Found
from edgespa.adapters.kinds import KINDS
from edgespa.cli import main
from edgespa.cli._kinds import CRITERIA, Named, Setting, Words
from edgespa.selection.criteria import CRITERIA as KNOWN_CRITERIA
from edgespa.tasks.task import Task

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv1(x)))
        return self.fc((x + self.conv2(x)).mean((2, 3)))

def build():
    torch.manual_seed(0)
    return Net()
"""
UNRANKED = (
    "adapt",
    "net.py:build",
    "--input-shape",
    "1,3,8,8",
    "--data",
    "colours.npz",
    "--batch-size",
    "16",
)
ADAPT = (*UNRANKED, "--rank", "2")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model file and a data set of three colours; the working directory."""
    (tmp_path / "net.py").write_text(NET)
    random = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = random.integers(0, 90, (120, 8, 8, 3), dtype=np.uint8)
    images[np.arange(120), :, :, labels] += 140
    np.savez(tmp_path / "colours.npz", images=images, labels=labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_time(path: Path) -> dict[str, Any]:
    header = Task.load(path).header.model_dump(mode="json")
    del header["created"]
    return header


@pytest.mark.more
def test_a_run_that_is_killed_goes_on_to_the_same_task_file(place: Path) -> None:
    """SIGKILL at any moment after the second epoch; the file of the resumed run is that of an uninterrupted one."""
    common = (
        *ADAPT, "--density", "0.6", "--epochs", "40", "--augment", "flip,crop,colour", "--label-smoothing", "0.1",
        "--lr-restart", "--accumulate", "2", "--output",
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "edgespa", *common, "broken.spa", "--log", "log.jsonl"],
        cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    log = place / "log.jsonl"
    while not (log.exists() and log.read_text().count('"epoch"') > 20) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (place / "broken.spa").exists()
    assert (place / "broken.spa.resume").exists()
    run(*common, "broken.spa", "--resume", "--log", "log.jsonl")
    run(*common, "whole.spa")
    broken, whole = Task.load(place / "broken.spa"), Task.load(place / "whole.spa")
    assert without_time(place / "broken.spa") == without_time(place / "whole.spa")
    same_time = whole.header.model_copy(update={"created": broken.header.created})
    whole = Task(same_time, whole.kept, whole.adapters, whole.tensors, whole.shared)
    assert whole.to_bytes() == (place / "broken.spa").read_bytes()
    epochs = [json.loads(line)["epoch"] for line in log.read_text().splitlines() if '"event": "epoch"' in line]
    assert epochs == list(range(1, 41))
    assert not (place / "broken.spa.resume").exists()


def test_options_reach_the_task(place: Path) -> None:
    settings = ("--adapter", "lora", "--adapter-option", "alpha=4", "--criterion", "geometric-median")
    result = result_of(
        *ADAPT, *settings, "--density", "0.7", "--epochs", "2", "--schedule", "stepwise", "--prune-fraction", "0.1",
        "--class-weights", "balanced", "--freeze-norms", "--store", "int8", "--output", "t.spa",
    )  # fmt: skip
    header = Task.load(place / "t.spa").header
    assert header.adapter is not None
    assert header.adapter.options == {"rank": 2, "alpha": 4.0}
    assert header.adapter.store == "int8"
    config: Any = header.provenance["config"]
    assert config["criterion"] == "geometric-median"
    assert config["freeze_norms"]
    assert config["prune_fraction"] == 0.1
    assert "validation_accuracy_fp32" in result["metrics"]
    assert result["frozen"]["norm.weight"] == "norms are frozen"


def test_distilling_from_an_unpruned_task(place: Path) -> None:
    run(*ADAPT, "--epochs", "3", "--output", "teacher.spa")
    run(*ADAPT, "--epochs", "2", "--density", "0.5", "--distill", "teacher.spa", "--output", "student.spa")
    assert str(Task.load(place / "student.spa").header.provenance["teacher"]).startswith("teacher.spa sha256:")
    text = run("tasks", ".").stdout
    assert "student.spa" in text
    assert "teacher.spa" in text
    assert "together with the base" in text
    (family,) = result_of("tasks", ".")
    assert [entry["file"] for entry in family["entries"]] == ["student.spa", "teacher.spa"]
    # Where there is one measure it is named below; where there are several, each figure has its own.
    assert "validation, test: accuracy, and of how many images" in text
    task = Task.load(place / "student.spa")
    header = task.header.model_copy(update={"metrics": {"test_miou": 0.25, "test_images": 12.0}})
    dataclasses.replace(task, header=header).save(place / "street.spa")
    both = " ".join(run("tasks", ".").stdout.split())
    assert "validation, test: accuracy, mIoU, and of how many images" in both
    assert "mIoU" in both.partition("validation, test:")[0]
    (place / "street.spa").unlink()
    assert family["shared_bytes"] == family["base_bytes"] + sum(entry["size_bytes"] for entry in family["entries"])
    (place / "torn.spa").write_bytes((place / "teacher.spa").read_bytes()[:-1])
    torn = run("tasks", ".", code=1)
    assert "student.spa" in torn.stdout
    assert "Error: torn.spa: not a task file, or damaged" in torn.stderr
    text = run("tasks", "diff", "student.spa", "teacher.spa").stdout
    assert "provenance.config.density" in text
    found = result_of("tasks", "diff", "teacher.spa", "teacher.spa")
    assert found["same"]
    assert found["fields"] == {}


def test_operators_that_an_adapter_inserts_are_exported(place: Path) -> None:
    """Law 4: the bundle of a pruned Convpass task is only written if its file computes what the program does."""
    run(*UNRANKED, "--adapter", "convpass", "--density", "0.5", "--epochs", "2", "--output", "t.spa")
    manifest = result_of("export", "t.spa", "--format", "onnx", "--output", "bundle")
    assert [variant["parity"]["relative_error"] < 1e-4 for variant in manifest["variants"]] == [True]
    assert manifest["provenance"]["proof"]["merged_unmerged_error"] == 0


def test_a_learning_rate_that_was_lowered_is_told_of(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(first: float, *_: object) -> Found:
        return Found(first / 5, {first: 9.0, first / 5: 1.0})

    short = (*ADAPT[1:], "--epochs", "1", "--output", "t.spa", "--overwrite")
    monkeypatch.setattr("edgespa.adaptation.rates.find_rate", found)
    assert "learning rate: 0.004, for a few steps at 0.02 did harm" in run("adapt", *short).stdout
    given = result_of("adapt", *short, "--lr", "0.004")
    assert (given["lr"], given["lowered_lr_from"]) == (0.004, None)


def test_norms_that_are_added_are_told_of_and_exported(place: Path) -> None:
    result = run(*ADAPT, "--norms", "add", "--density", "0.5", "--epochs", "2", "--output", "t.spa")
    assert "batch norms added: 1, behind" in result.stdout
    manifest = result_of("export", "t.spa", "--format", "onnx", "--output", "bundle")
    assert [variant["parity"]["relative_error"] < 1e-4 for variant in manifest["variants"]] == [True]
    operators = {node.op_type for node in onnx.load(place / "bundle" / "model.onnx").graph.node}
    assert "Conv" in operators
    assert "BatchNormalization" not in operators
    assert result_of("adapt", *ADAPT[1:], "--epochs", "1", "--output", "u.spa")["added_norms"] == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--adapter", "lora9"), "splora, lora"),
        (("--criterion", "l3"), "geometric-median"),
        (("--adapter-option", "alpha"), "KEY=VALUE"),
        (("--augment", "flip,turn"), "'turn'"),
    ],
)
def test_wrong_usage_says_what_there_is(place: Path, arguments: tuple[str, ...], text: str) -> None:
    assert text in run(*ADAPT, *arguments, "--output", "t.spa", code=2).stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--adapter-option", "alpha=3"), "no option alpha"),
        (("--recovery-epochs", "1", "--density", "0.1", "--schedule", "stepwise", "--epochs", "2"), "recovery"),
        (("--distill", "nothing.spa"), "nothing.spa"),
        (("--adapter", "splopa", "--adapter-option", "mask=some"), "'some'"),
        (("--norms", "add", "--freeze-norms"), "have to be trained"),
    ],
)
def test_what_cannot_be_done_says_why(place: Path, arguments: tuple[str, ...], text: str) -> None:
    result = run(*(UNRANKED if "splopa" in arguments else ADAPT), *arguments, "--output", "t.spa", code=1)
    assert text in result.stderr
    assert "Hint: " in result.stderr
    assert not (place / "t.spa").exists()


def test_tasks_wants_a_folder_or_two_files(place: Path) -> None:
    assert "diff A.spa B.spa" in run("tasks", "a", "b", code=2).stderr
    assert "no task files" in run("tasks", ".", code=1).stderr


def test_the_words_of_the_command_line_are_those_of_the_library() -> None:
    """The command file may not import torch, so it has lists of its own."""
    adapter = next(p for p in main.get_command(click.Context(main), "adapt").params if p.name == "adapter")  # type: ignore[union-attr]
    assert isinstance(adapter.type, Named)
    assert set(adapter.type.known) == {*KINDS, "full"}
    assert set(CRITERIA) == set(KNOWN_CRITERIA)


def test_settings_and_words() -> None:
    setting, words = Setting(), Words(("flip", "crop"))
    read = [setting.convert(text, None, None) for text in ("a=3", "b=0.5", "c=word", "d=1e-3", " e = -2 ")]
    assert read == [("a", 3), ("b", 0.5), ("c", "word"), ("d", 1e-3), ("e", -2)]
    assert words.convert("crop, flip", None, None) == ("crop", "flip")
    assert words.convert("", None, None) == ()
