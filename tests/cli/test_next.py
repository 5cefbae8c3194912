"""What is printed to be typed next can be: in the folder where it was printed, whatever a former run has left there."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from typed import run

from edgespa.cli import main

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    body = nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(128, 2))
"""
PRUNE = ("prune", "net.py:build", "--input-shape", "1,1,8,8", "--density", "0.5", "--round-to", "1")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my work"
    folder.mkdir()
    (folder / "net.py").write_text(NET)
    random = np.random.default_rng(0)
    labels = np.arange(24) % 2
    images = random.integers(0, 120, (24, 8, 8, 1)).astype(np.uint8) + (labels * 120)[:, None, None, None]
    np.savez(folder / "d.npz", images=images.astype(np.uint8), labels=labels)
    monkeypatch.chdir(folder)
    return folder


def next_line(said: str) -> list[str]:
    (line,) = [line for line in said.splitlines() if line.startswith("next: ")]
    return shlex.split(line)


def runs(words: list[str]) -> list[str]:
    """The words of the command; it gets as far as it can be checked."""
    command = words[words.index(next(word for word in words if word in main.table)) :]  # type: ignore[attr-defined]
    result = CliRunner().invoke(main, [*command, "--dry-run"])
    assert result.exit_code == 0, result.output
    return command


@pytest.mark.parametrize(("output", "there"), [("my cut.spa", ["my cut", "my cut-2"]), ("cut", []), ("new.spa", [])])
def test_after_prune(output: str, there: list[str]) -> None:
    for name in there:
        Path(name).mkdir()
        Path(name, "manifest.json").touch()
    command = runs(next_line(run(*PRUNE, "--output", output).stdout))
    assert command[:2] == ["export", output]
    assert not Path(command[-1]).exists()


def test_after_adapt_and_again(place: Path) -> None:
    words = (
        "adapt",
        "net.py:build",
        "--input-shape",
        "1,1,8,8",
        "--data",
        "d.npz",
        "--epochs",
        "1",
        "--batch-size",
        "8",
    )
    for _ in range(2):
        command = runs(next_line(run(*words, "--output", "a.spa", "--overwrite").stdout))
        Path(command[-1]).mkdir()
    assert command[-1] == "a-2/"


def test_of_a_recipe_the_last_step_says_it_and_its_paths_hold_here(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = 'model = "net.py:build"\ninput-shape = "1,1,8,8"\nround-to = 1\n'
    text = f'version = 1\n\n[prune]\n{shape}density = 0.5\noutput = "a.spa"\n'
    (place / "r.toml").write_text(f'{text}\n[more]\ncommand = "prune"\n{shape}density = 0.25\noutput = "b.spa"\n')
    monkeypatch.chdir(place.parent)
    said = run("run", "my work/r.toml", "--trust").stdout
    command = runs(next_line(said))
    assert command[1] == str(place / "b.spa")
