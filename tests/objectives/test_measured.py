"""What is said of an accuracy: its kind, and on how many images; and whether those were seen before."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edgespa.adaptation.config import AdaptConfig
from edgespa.api import overlap
from edgespa.api.options import DataOptions
from edgespa.api.overlap import tell_overlap, tell_trained_on
from edgespa.api.tasks import adapt_to_file
from edgespa.cli import main
from edgespa.config import Preprocess
from edgespa.data import ImageData, load_data, prepare
from edgespa.data.arrays import ArraySource
from edgespa.objectives.measured import measured

HOW = Preprocess(height=8, width=8, channels=3, mean=(0.4,) * 3, std=(0.3,) * 3)


def test_words() -> None:
    found = measured(
        {
            "validation_accuracy": 0.925, "validation_accuracy_fp32": 0.93, "validation_images": 40.0,
            "test_r2": 0.5, "base_test_r2": 0.25, "uncut_test_accuracy": 1.0, "test_images": 1.0,
            "bypassed_cut_error": 0.1, "mean_reconstruction_error": 0.2,
        }
    )  # fmt: skip
    assert [each.name for each in found] == [
        "validation accuracy", "validation accuracy in fp32", "test R2", "base test R2", "uncut test accuracy",
    ]  # fmt: skip
    assert [str(each) for each in found] == [
        "92.50% (40 images)", "93.00% (40 images)", "0.5000 (1 image)", "0.2500 (1 image)", "100.00% (1 image)",
    ]  # fmt: skip
    (part,) = measured({"test_accuracy": 0.5, "test_images": 200.0, "test_seen": 0.25})
    assert str(part) == "50.00% (200 images, 25% seen before)"
    (old,) = measured({"test_accuracy": 0.5})
    assert str(old) == "50.00% (number of images not recorded)"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "edgespa")
    return lambda: [record.getMessage() for record in caplog.records]


def pictures(count: int, seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def data(pixels: np.ndarray, name: str = "made") -> ImageData:
    return ImageData(ArraySource(pixels), np.arange(len(pixels)) % 2, ["a", "b"], name)


class TestOverlap:
    @pytest.mark.parametrize("shared", [0, 1, 7, 20])
    @pytest.mark.parametrize("cached", [True, False])
    def test_counts(self, told: Callable[[], list[str]], shared: int, cached: bool) -> None:
        one, other = pictures(30, 0), pictures(20, 1)
        other[:shared] = one[10 : 10 + shared]
        seen = prepare(data(one, "one"), HOW, cache_bytes=2 << 30 if cached else 0)
        tell_overlap(data(other, "other"), {"--data": seen})
        if not shared:
            assert told() == []
            return
        (line,) = told()
        assert f"--eval-data other has the very images of --data one ({shared} of 20)" in line
        assert ("says nothing about new images" in line) == (shared == 20)

    def test_the_same_picture_in_another_file(self, told: Callable[[], list[str]], tmp_path: Path) -> None:
        """A PNG in a zip and an array in an .npz, before and after it is turned."""
        pixels = pictures(4, 2)
        np.savez(tmp_path / "a.npz", images=pixels, labels=[0, 1, 0, 1])
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            for index, image in enumerate(pixels):
                exif = Image.Exif()
                exif[0x0112] = 3
                buffer = io.BytesIO()
                Image.fromarray(image[::-1, ::-1].copy()).save(buffer, "PNG", exif=exif)
                archive.writestr(f"{'ab'[index % 2]}/{index}.png", buffer.getvalue())
        seen = prepare(load_data(str(tmp_path / "a.npz")), HOW)
        tell_overlap(load_data(str(tmp_path / "b.zip")), {"--calibration": seen})
        assert "(4 of 4)" in told()[0]

    def test_of_many_a_part_is_looked_at(self, told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(overlap, "LOOKED_AT", 10)
        pixels = pictures(40, 3)
        tell_overlap(data(pixels), {"--data": prepare(data(pixels), HOW, cache_bytes=0)})
        assert "(10 of 10 looked at)" in told()[0]

    @pytest.mark.parametrize(
        ("name", "trained_on", "said"),
        [
            ("fashion:train, 10 of 20", "fashion:train, 9 of 20", True),
            ("fashion:test", "fashion:train", False),
            ("x", None, False),
        ],
    )
    def test_by_name(self, told: Callable[[], list[str]], name: str, trained_on: object, said: bool) -> None:
        tell_trained_on(data(pictures(2, 0), name), trained_on)
        assert bool(told()) == said


def test_the_screen(toy_folder: Path, tmp_path: Path, told: Callable[[], list[str]]) -> None:
    """One task through adapt, prune, tasks and export: kinds, counts, and the warning."""
    images = str(toy_folder / "colours.npz")
    spec = f"{toy_folder / 'net.py'}:build"
    common = ["--mean", "0.4", "--std", "0.3", "--eval-data", images]
    shape = ["--input-shape", "1,3,8,8"]

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(main, list(arguments))
        assert done.exit_code == 0, done.output
        return done.output

    task, bundle, cut = (str(tmp_path / name) for name in ("t.spa", "b", "p.spa"))
    learn = ["--data", images, "--epochs", "1", "--lr", "0.01", "--batch-size", "16"]
    text = run("adapt", spec, *shape, *common, *learn, "--output", task)
    assert "validation accuracy (10 images)" in text
    assert "test accuracy (96 images, all seen before)" in text
    assert "has the very images of --data" in text
    text = run("inspect", task)
    assert "  validation accuracy: " in text
    assert "(10 images)" in text
    assert "(96 images, all seen before)" in text
    assert "test seen" not in text
    text = run("tasks", str(tmp_path))
    (heading,) = (line for line in text.splitlines() if line.startswith("task "))
    assert heading.split()[-2:] == ["validation", "test"]
    assert {"10", "96,", "seen"} <= set(text.split())  # the columns are narrow: cells are wrapped
    text = run("export", task, "--eval-data", images, "--format", "onnx", "--output", bundle)
    assert "test accuracy: on 96 images of colours" in text
    assert "the task was learned on data of the name" in text
    card = (tmp_path / "b" / "README.md").read_text()
    assert "(96 images, all seen before)" in card
    assert "Test accuracy is on colours, 96 samples" in card
    (toy_folder / "three.py").write_text("from net import Net\ndef build():\n    return Net(3)\n")
    text = run(
        "prune", f"{toy_folder / 'three.py'}:build", *shape, *common, "--calibration", images, "--method",
        "asym-in-change", "--density", "0.9", "--output", cut,
    )  # fmt: skip
    assert "test accuracy (96 images, all seen before)" in text
    assert "has the very images of --calibration" in text


def test_a_rounded_task_has_both(toy_folder: Path, toy_data: ImageData, tmp_path: Path) -> None:
    config = AdaptConfig(epochs=1, batch_size=16, lr=0.01, store="int8")
    task = adapt_to_file(
        f"{toy_folder / 'net.py'}:build", str(toy_folder / "colours.npz"), tmp_path / "t.spa", config,
        input_shape=(1, 3, 8, 8), options=DataOptions((0.4,), (0.3,)),
    )  # fmt: skip
    assert [each.name for each in measured(task.header.metrics)] == [
        "validation accuracy", "validation accuracy in fp32",
    ]  # fmt: skip
