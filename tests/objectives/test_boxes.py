"""A detector of one's own, with a loss of one's own: from drawn boxes to files that find them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgespa.adaptation.config import AdaptConfig
from edgespa.api.bundles import export_bundle
from edgespa.api.options import DataOptions
from edgespa.api.tasks import adapt_to_file
from edgespa.errors import ConfigError
from edgespa.exporting.config import ExportConfig

SIDE = 32
CODE = '''
import torch
from torch import nn
from edgespa.bundle.decoding import Columns, Decoding
from edgespa.objectives.boxes import Boxes

CELLS = 8


class Net(nn.Module):
    """Each cell says a box about it, and how sure it is of each class: [N, 4 + classes, 64], in fractions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                  nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
                  nn.Conv2d(32, 32, 5, 1, 2, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Conv2d(32, 6, 1)
        middles = (torch.arange(CELLS) + 0.5) / CELLS
        self.register_buffer("cells", torch.stack(torch.meshgrid(middles, middles, indexing="xy")).flatten(1))

    def forward(self, images):
        found = self.head(self.body(images)).flatten(2)
        middles = self.cells + (found[:, :2].sigmoid() - 0.5) / CELLS
        return {"seen": torch.cat([middles, found[:, 2:4].sigmoid(), found[:, 4:]], 1)}


class Cells(Boxes):
    name = "cells"

    @property
    def decoding(self):
        return Decoding(
            size=(32, 32), scores=Columns(output=0, first=4, rows=True), boxes=Columns(output=0, count=4, rows=True),
            activation="sigmoid", coding="centres", unit="input", threshold=0.1, overlap=0.4,
        )

    def loss(self, outputs, targets, weights=None, smoothing=0.0):
        seen, total = outputs["seen"], 0.0
        for image, objects in zip(seen, targets):
            middle = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 64
            place = (middle * CELLS).long().clamp(0, CELLS - 1)
            cell = place[:, 1] * CELLS + place[:, 0]
            sure = torch.zeros_like(image[4:])
            sure[objects.labels, cell] = 1.0
            box = torch.cat([middle, (objects.boxes[:, 2:] - objects.boxes[:, :2]) / 32], 1)
            total = total + 20 * (image[:4, cell].T - box).abs().sum()
            total = total + nn.functional.binary_cross_entropy_with_logits(
                image[4:], sure, pos_weight=torch.tensor(8.0), reduction="sum")
        return total / len(targets)


def make():
    return Net()
'''


def write(folder: Path, count: int, seed: int) -> None:
    """Bright and dark rectangles on grey, as YOLO has them."""
    random = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    (folder / "classes.txt").write_text("bright\ndark\n")
    for number in range(count):
        picture = random.integers(100, 130, (SIDE, SIDE, 3)).astype(np.uint8)
        lines = []
        for label in random.integers(0, 2, random.integers(1, 3)):
            width, height = random.integers(8, 16, 2)
            x, y = random.integers(0, SIDE - width), random.integers(0, SIDE - height)
            picture[y : y + height, x : x + width] = (20, 235)[1 - label]
            lines.append(f"{label} {(x + width / 2) / SIDE} {(y + height / 2) / SIDE} {width / SIDE} {height / SIDE}")
        Image.fromarray(picture).save(folder / "images" / f"{number}.png")
        (folder / "labels" / f"{number}.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocotools", reason="PYCOCOTOOLS ABSENT: mean average precision was not measured")
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(CODE)
    write(Path("train"), 96, 0)
    write(Path("test"), 32, 1)
    options = DataOptions(objective="own.py:Cells")
    task = adapt_to_file(
        "own.py:make",
        "train",
        Path("cells.spa"),
        AdaptConfig(epochs=12, batch_size=8, lr=1e-2, density=0.8, adapter="full", augment=()),
        input_shape=(1, 3, SIDE, SIDE),
        options=options,
        evaluation="test",
    )
    assert task.header.metrics["test_map50"] > 0.3
    assert task.header.classes == ("bright", "dark")
    for decode in ("outside", "in-graph"):
        config = ExportConfig(formats=("onnx",), decode=decode)
        manifest = export_bundle("cells.spa", Path(decode), config, options=options, evaluation="test")
        assert manifest.learns == "cells"
        (variant,) = manifest.variants
        assert variant.accuracy is not None
        assert variant.accuracy.of.title == "mAP@50:95"
        assert variant.accuracy.value == pytest.approx(task.header.metrics["test_map"], abs=2e-3)
        assert manifest.decoding is not None
        done = subprocess.run(
            [sys.executable, str(Path(decode, "run.py")), "--input", "test/images/0.png", "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)
    with pytest.raises(ConfigError, match="not known"):
        export_bundle("cells.spa", Path("none"), ExportConfig(formats=("onnx",), decode="in-graph"))
