"""The same inputs give the same bytes: in another process, folder, time zone, order of hashes, at another time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgespa.errors import ConfigError
from edgespa.system.clock import is_still, made_at

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )
"""
MADE = {
    "cut.spa": (
        "prune net.py:build --input-shape 1,3,8,8 --density 0.5 --round-to 1 --mean 0.4 --std 0.3 --calibration "
        "colours.npz --method asym-in-change --heal --heal-steps 5 --output cut.spa"
    ),
    "fruit.spa": (
        "adapt net.py:build --input-shape 1,3,8,8 --data colours.npz --epochs 2 --batch-size 16 --rank 2 --density 0.6 "
        "--lr 0.01 --round-to 1 --output fruit.spa"
    ),
    "bundle": (
        "export fruit.spa --format onnx --format tflite --format ncnn --format pt2 --format python --precision fp32 "
        "--precision int8 --calibration colours.npz --license MIT --output bundle"
    ),
    "bundle.tar": "pack bundle --output bundle.tar",
    "card.md": "card bundle --output card.md",
}


TYPED = """
import sys
from edgespa.cli import main

if __name__ == "__main__":
    for line in sys.argv[1:]:
        main(line.split(), standalone_mode=False)
"""


def made(folder: Path, number: int) -> dict[str, str]:
    """Digests of all files that a user's commands leave."""
    folder.mkdir(parents=True)
    (folder / "net.py").write_text(NET)
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = random.integers(0, 90, (90, 8, 8, 3), dtype=np.uint8)
    images[np.arange(90), :, :, labels] += 140
    np.savez(folder / "colours.npz", images=images, labels=labels)
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(number),
        "TZ": ("UTC", "Asia/Tokyo")[number % 2],
        "SOURCE_DATE_EPOCH": "1735689600",
        "EDGESPA_CACHE": "off",
        "XDG_STATE_HOME": str(folder / ".state"),
        "TMPDIR": str(folder.parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", TYPED, *MADE.values()], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = [each for each in folder.rglob("*") if each.is_file() and ".state" not in each.parts]
    return {str(each.relative_to(folder)): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


@pytest.mark.more
@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, converters: None) -> None:
    pytest.importorskip("ncnn")
    one = made(tmp_path / "one", 1)
    other = made(tmp_path / "elsewhere" / "other", 2)
    assert set(one) == set(other)
    wanted = {
        "cut.spa", "fruit.spa", "bundle.tar", "card.md", "bundle/manifest.json", "bundle/README.md", "bundle/run.py",
        "bundle/selfcheck.npz", "bundle/labels.txt", "bundle/model.onnx", "bundle/model.tflite",
        "bundle/model.ncnn.param", "bundle/model.ncnn.bin", "bundle/model.pt2", "bundle/model.py",
        "bundle/model.safetensors",
    }  # fmt: skip
    assert wanted <= set(one)
    assert {name for name in one if "int8" in name}
    different = sorted(name for name in one if name != "colours.npz" and one[name] != other[name])
    assert not different


def test_the_time_is_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1735689600")
    assert made_at() == "2025-01-01T00:00:00+00:00"
    assert is_still()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    assert made_at() > "2025-01-01"
    assert not is_still()


@pytest.mark.parametrize("said", ["yesterday", "-1", "1.5", "9" * 40, "١٢", "253402300800"])
def test_what_is_no_time_is_told(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", said)
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH is"):
        made_at()
