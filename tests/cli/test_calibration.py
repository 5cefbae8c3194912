"""``edgespa calibration``, and its names where images are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typed import result_of, run

NET = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
"""
MODEL = ("net.py:build", "--input-shape", "1,1,8,8")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_and_show() -> None:
    assert "digits-256" in run("calibration", "list").stdout
    assert {spec["name"] for spec in result_of("calibration", "list")} >= {"digits-256", "mnist-512"}
    assert 'source = "digits:train"' in run("calibration", "show", "digits-256").stdout
    assert result_of("calibration", "show", "digits-256")["count"] == 256
    assert "nearest: digits-256" in run("calibration", "show", "digits-25", code=1).stderr


def test_make_check_and_notice_a_change(place: Path) -> None:
    random = np.random.default_rng(0)
    np.savez(place / "d.npz", images=random.integers(0, 256, (40, 8, 8)).astype(np.uint8), labels=np.arange(40) % 4)
    made = ("calibration", "make", "--data", "d.npz", "--count", "20", "--mean", "0.5", "--std", "0.5")
    spec = result_of(*made, "-o", "mine.toml")
    assert spec["digest"].startswith("sha256:")
    assert spec["source"] == str(place / "d.npz")
    assert "as recorded" in run("calibration", "check", "mine.toml").stdout
    assert "exists already" in run(*made, "-o", "mine.toml", code=1).stderr
    assert "ends in .toml" in run(*made, "-o", "mine", code=1).stderr
    np.savez(place / "d.npz", images=random.integers(0, 256, (40, 8, 8)).astype(np.uint8), labels=np.arange(40) % 4)
    assert "not the images" in run("calibration", "check", "mine.toml", code=1).stderr


def test_the_same_name_in_prune_and_export(place: Path) -> None:
    found = result_of(
        "prune", *MODEL, "--calibration", "digits-256", "--method", "layer-in-change", "--density", "0.5", "-o", "c.spa"
    )
    assert found["calibration"]["images"] == 256
    manifest = result_of(
        "export", *MODEL, "--format", "onnx", "--precision", "int8", "--calibration", "digits-256", "-o", "bundle"
    )
    assert manifest["preprocessing"]["mean"] == [0.0]
