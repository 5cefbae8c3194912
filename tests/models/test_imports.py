"""Hints for paths that are not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgespa.models.imports import nearest_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("AGENTS.md", "net.py", "notes.txt", "fruit.spa", "digits.npz", ".nets.py"):
        (tmp_path / name).touch()
    for name in ("fruits", "nets", "bundle.v2"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("missing", "meant"),
    [
        ("nots.py", "net.py"),  # neither notes.txt nor a hidden file, and surely not AGENTS.md
        ("nett.py", "net.py"),
        ("net.pyy", "net.py"),
        ("NET.PY", "net.py"),
        ("fruit.sap", "fruit.spa"),
        ("fruit", "fruits"),
        ("digits", "digits.npz"),
        ("bundel.v2", "bundle.v2"),
        ("nest/net.py", "nets"),
        ("fruity/fruit.spa", "fruits"),
        (".nets.pi", ".nets.py"),
    ],
)
def test_what_may_be_meant_is_named(folder: Path, missing: str, meant: str) -> None:
    assert nearest_path(folder / missing) == f"did you mean {folder / meant}?"


def test_what_is_there_and_no_file_is_called_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.spa")
    assert nearest_path(tmp_path / "pipe.spa") == "that is a pipe or a device: copy what comes out of it into a file"
    assert nearest_path(tmp_path) == "that is a folder: name a file"


@pytest.mark.parametrize(
    "missing", ["AGENT.pt2", "notes.spa.resume", "KLIM/net.py", "digitz.zip", "x.d/y", "dates.d", "nothing.toml"]
)
def test_what_cannot_be_meant_is_not(folder: Path, missing: str) -> None:
    assert nearest_path(folder / missing) is None
