"""How an image becomes an input, from the command line to run.py on the device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import edgespa
from edgespa.bundle import read_manifest
from edgespa.cli import main
from edgespa.config import Preprocess
from edgespa.data import load_data, prepare
from edgespa.device import runner
from edgespa.errors import ConfigError
from edgespa.tasks.task import Task

SAID = (
    "--resize", "letterbox", "--resize-to", "10", "--padding", "9,8,7", "--interpolation", "bicubic", "--no-antialias",
    "--scale", "-1-1", "--channel-order", "bgr", "--mean", "0.1", "--std", "0.5",
)  # fmt: skip
WANTED = Preprocess(
    height=8, width=8, channels=3, mean=(0.1,) * 3, std=(0.5,) * 3, resize="letterbox", resize_to=(10, 10),
    padding=(9, 8, 7), interpolation="bicubic", antialias=False, scale="-1-1", channel_order="bgr",
)  # fmt: skip


def edgespa_does(*words: str | Path) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three classes and odd sizes, some grey, some with alpha, some turned."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(24):
        height, width = random.integers(3, 40, 2)
        pixels = random.integers(0, 100, (height, width, 3)).astype(np.uint8)
        pixels[:, :, number % 3] += 120
        image = Image.fromarray(pixels)
        image = image.convert("RGBA") if number % 5 == 0 else image.convert("L") if number % 7 == 0 else image
        (folder / "rgb"[number % 3]).mkdir(exist_ok=True)
        image.save(folder / "rgb"[number % 3] / f"{number:02}.png", exif=exif if number % 2 else None)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, toy_folder: Path, photographs: Path) -> Path:
    """A task that was learned like that, and two bundles of it: files that take inputs, and files that take pixels."""
    folder = tmp_path_factory.mktemp("made")
    net = f"{toy_folder / 'net.py'}:build"
    edgespa_does(
        "adapt", net, "--input-shape", "1,3,8,8", "--data", photographs, "--eval-data", photographs, *SAID,
        "--epochs", "1", "--batch-size", "8", "--lr", "0.01", "--output", folder / "task.spa",
        "--save-recipe", folder / "recipe.toml",
    )  # fmt: skip
    for place in ("outside", "in-graph"):
        edgespa_does(
            "export", folder / "task.spa", "--format", "onnx", "--preprocess", place, "--precision", "fp32",
            "--precision", "int8", "--calibration", photographs, "--eval-data", photographs, "--output", folder / place,
        )  # fmt: skip
    return folder


@pytest.mark.more
def test_it_is_recorded_once(made: Path) -> None:
    assert Task.load(made / "task.spa").header.preprocess == WANTED
    manifest = read_manifest(made / "outside")
    assert manifest.preprocessing == WANTED
    assert [variant.preprocess for variant in manifest.variants] == [None, None]
    inside = read_manifest(made / "in-graph")
    assert [variant.preprocess for variant in inside.variants] == [WANTED] * 2
    card = " ".join((made / "outside" / "README.md").read_text().split())
    for step in (
        "resized until it just fits into 10 x 10 (bicubic, not antialiased), of that the middle 8 x 8, the rest of "
        "8 x 8 filled with 9, 8, 7",
        "given 3 channel(s): blue, green, red",
        "divided by 127.5, less 1, less mean [0.1, 0.1, 0.1], divided by [0.5, 0.5, 0.5]",
    ):
        assert f"- it is {step}" in card


def test_what_is_checked_is_made_of_pixels(made: Path) -> None:
    assert "pixels_0" in np.load(made / "outside" / "selfcheck.npz")
    for place in ("outside", "in-graph"):
        rows = json.loads(run(made / place, "--selfcheck", "--variant", "all", "--json"))
        assert [row["status"] for row in rows["selfcheck"]] == ["passed"] * 2


def run(bundle: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, bundle / "run.py", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("place", ["outside", "in-graph"])
def test_run_py_sees_what_training_saw(made: Path, photographs: Path, place: str) -> None:
    """The probabilities of run.py on a photograph are those of the program on what training would make of it."""
    data = prepare(load_data(str(photographs)), WANTED)
    names = sorted(photographs.rglob("*.png"))
    manifest = json.loads((made / place / "manifest.json").read_text())
    (fp32,) = [each for each in manifest["variants"] if each["precision"] == "fp32"]
    model = runner.open_model(made / place, fp32, 1, runner.import_runtime("onnx")[0])
    for index in range(0, len(names), 5):
        (scores,) = runner.infer(model, [data.tensor([index]).numpy()])
        wanted = runner.interpret(scores[0], "classes", list("bgr"), 3)["top"]
        answer = json.loads(run(made / place, "--input", str(names[index]), "--variant", "onnx-fp32", "--json"))
        assert [row["label"] for row in answer["top"]] == [row["label"] for row in wanted]
        np.testing.assert_allclose(
            [row["probability"] for row in answer["top"]], [row["probability"] for row in wanted], rtol=1e-5
        )


def test_a_recipe_says_the_same(made: Path) -> None:
    text = (made / "recipe.toml").read_text()
    assert 'resize = "letterbox"' in text
    assert "antialias = false" in text
    edgespa_does("run", made / "recipe.toml", "--dry-run", "--overwrite", "--trust")


def test_in_python(made: Path, toy_folder: Path, photographs: Path, tmp_path: Path) -> None:
    """The same words; a task that is started from brings them."""
    said: dict[str, Any] = {
        "resize": "letterbox", "resize_to": 10, "padding": [9, 8, 7], "interpolation": "bicubic", "antialias": False,
        "scale": "-1-1", "channel_order": "bgr", "mean": 0.1, "std": 0.5,
    }  # fmt: skip
    common: dict[str, Any] = {"data": photographs, "epochs": 1, "batch_size": 8, "lr": 0.01, "progress": False}
    model = f"{toy_folder / 'net.py'}:build"
    edgespa.adapt(model, output=tmp_path / "a.spa", input_shape=(1, 3, 8, 8), **said, **common)
    edgespa.adapt(start=tmp_path / "a.spa", output=tmp_path / "b.spa", **common)
    cut = {"density": 0.5, "method": "l1", "calibration": photographs, **said}
    edgespa.prune(model, output=tmp_path / "c.spa", input_shape=(1, 3, 8, 8), **cut)
    for name in "abc":
        assert Task.load(tmp_path / f"{name}.spa").header.preprocess == WANTED
    with pytest.raises(ConfigError, match="images: resize"):
        edgespa.adapt(model, output=tmp_path / "d.spa", input_shape=(1, 3, 8, 8), resize="squeeze", **common)


def test_a_calibration_spec_has_it(photographs: Path, tmp_path: Path) -> None:
    edgespa_does("calibration", "make", "--data", photographs, *SAID, "--output", tmp_path / "own.toml")
    from edgespa.data.calibration import require_spec

    spec = require_spec(str(tmp_path / "own.toml")).spec
    fields = {name: getattr(WANTED, name) for name in spec.said()}
    assert spec.said() == fields
    assert len(fields) == 7
