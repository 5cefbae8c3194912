"""A detector of one's own, with a loss of one's own: that of the example, from drawn boxes to files that find them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from edgespa.adaptation.config import AdaptConfig
from edgespa.api.bundles import export_bundle
from edgespa.api.options import DataOptions
from edgespa.api.tasks import adapt_to_file
from edgespa.bundle import read_manifest
from edgespa.device.runner.model import Opened
from edgespa.errors import ConfigError
from edgespa.exporting.config import ExportConfig
from edgespa.tasks.task import Task

SIDE = 32
EXAMPLE = Path(__file__).parents[2] / "examples" / "boxes.py"


def draw(folder: Path, count: int, seed: int) -> None:
    spec = importlib.util.spec_from_file_location("example_boxes", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.draw(folder, count, seed)


OPTIONS = DataOptions(objective=f"{EXAMPLE}:Cells")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file beside its data."""
    pytest.importorskip("pycocotools", reason="PYCOCOTOOLS ABSENT: mean average precision was not measured")
    folder = tmp_path_factory.mktemp("cells")
    draw(folder / "train", 96, 0)
    draw(folder / "test", 32, 1)
    found = adapt_to_file(
        f"{EXAMPLE}:Net",
        str(folder / "train"),
        folder / "cells.spa",
        AdaptConfig(epochs=6, batch_size=8, lr=1e-2, density=0.8, adapter="full", augment=()),
        input_shape=(1, 3, SIDE, SIDE),
        options=OPTIONS,
        evaluation=str(folder / "test"),
    )
    assert found.header.metrics["test_map50"] > 0.2
    assert found.header.classes == ("bright", "dark")
    return folder / "cells.spa"


@pytest.mark.slow
@pytest.mark.parametrize("decode", ["outside", pytest.param("in-graph", marks=pytest.mark.more)])
def test_files_find_what_the_program_finds(task: Path, tmp_path: Path, decode: Literal["outside", "in-graph"]) -> None:
    config = ExportConfig(formats=("onnx",), decode=decode)
    test = task.parent / "test"
    manifest = export_bundle(str(task), tmp_path / "bundle", config, options=OPTIONS, evaluation=str(test))
    assert manifest.learns == "cells"
    (variant,) = manifest.variants
    assert variant.accuracy is not None
    assert variant.accuracy.of.title == "mAP@50:95"
    assert variant.accuracy.value == pytest.approx(Task.load(task).header.metrics["test_map"], abs=2e-3)
    assert manifest.decoding is not None
    assert (manifest.decoding.overlap is None) == (decode == "in-graph")
    command = [
        sys.executable,
        str(tmp_path / "bundle" / "run.py"),
        "--input",
        str(test / "images" / "000.png"),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.more
def test_classes_and_their_count_are_whole_numbers_in_int8(task: Path, tmp_path: Path) -> None:
    """Readers cut off what is behind the point: MediaPipe and the Task Library do."""
    config = ExportConfig(formats=("tflite",), precisions=("int8",), int8_max_loss=1.0, decode="in-graph")
    test, train = str(task.parent / "test"), str(task.parent / "train")
    export_bundle(str(task), tmp_path / "b", config, options=OPTIONS, evaluation=test, calibration=train)
    manifest = read_manifest(tmp_path / "b")
    opened = Opened(tmp_path / "b", manifest.model_dump(mode="json"), manifest.variants[0].model_dump(mode="json"), 1)
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        (found,) = opened.take([random.normal(0, 2, (1, 3, SIDE, SIDE)).astype(np.float32)])
        _, classes, scores, count = found.outputs
        assert (classes == classes.round()).all()
        assert count == (scores > 0).sum()
        seen |= set(classes[: int(count)].tolist())
    assert seen == {0.0, 1.0}


@pytest.mark.slow
@pytest.mark.more
def test_mediapipe_finds_what_is_found(task: Path, tmp_path: Path) -> None:
    absent = "MEDIAPIPE ABSENT: its object detector was not asked"
    mediapipe: Any = pytest.importorskip("mediapipe", reason=absent)
    tasks: Any = pytest.importorskip("mediapipe.tasks.python", reason=absent)
    config = ExportConfig(formats=("tflite",), decode="in-graph", preprocess="in-graph")
    manifest = export_bundle(
        str(task), tmp_path / "b", config, options=OPTIONS, evaluation=str(task.parent / "test")
    ).model_dump(mode="json")
    opened = Opened(tmp_path / "b", manifest, manifest["variants"][0], least=0.5)
    options = tasks.vision.ObjectDetectorOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(tmp_path / "b" / "model.tflite")), score_threshold=0.5
    )
    same, count = 0, 0
    with tasks.vision.ObjectDetector.create_from_options(options) as detector:
        for path in sorted((task.parent / "test" / "images").iterdir()):
            pixels = np.ascontiguousarray(Image.open(path).convert("RGB"))
            ours = opened.see(pixels)["boxes"]
            seen = detector.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels))
            for each in seen.detections:
                count += 1
                (category,), box = each.categories, each.bounding_box
                sides = np.array([box.origin_x, box.origin_y, box.origin_x + box.width, box.origin_y + box.height])
                same += any(
                    row["label"] == category.category_name
                    and abs(row["score"] - category.score) < 0.1
                    and np.abs(sides - row["box"]).max() < 3
                    for row in ours
                )
    assert count > 10
    assert same >= 0.9 * count


def test_without_the_objective_nobody_knows(task: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not known") as caught:
        export_bundle(str(task), tmp_path / "none", ExportConfig(formats=("onnx",), decode="in-graph"))
    assert "--objective" in str(caught.value.hint)
