"""A detector of one's own: which rectangles are where, in pictures that the example draws itself.

    python examples/boxes.py [FOLDER]

In some forty seconds: draw pictures with boxes as YOLO has them, learn to find them with the loss that is written here
and 80% of the channels, export it, and let the bundle draw what it sees. It needs pycocotools, which counts the mean
average precision: pip install 'edgespa[detection]'.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import edgespa as es
from edgespa.bundle.decoding import Columns, Decoding
from edgespa.data.boxes import Objects
from edgespa.objectives.boxes import Boxes

SIZE, CELLS = 32, 8


class Net(nn.Module):
    """Each of 8 x 8 cells says a box about it, in fractions of the picture, and how sure it is of each class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for before, after, kernel, stride in ((3, 16, 3, 2), (16, 32, 3, 2), (32, 32, 5, 1)):
            layers += [
                nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.body, self.head = nn.Sequential(*layers), nn.Conv2d(32, 6, 1)
        middles = (torch.arange(CELLS) + 0.5) / CELLS
        self.register_buffer("cells", torch.stack(torch.meshgrid(middles, middles, indexing="xy")).flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, 32, 32] to [N, 4 + classes, 64]."""
        found = self.head(self.body(images)).flatten(2)
        middles = self.cells + (found[:, :2].sigmoid() - 0.5) / CELLS
        return torch.cat([middles, found[:, 2:4].sigmoid(), found[:, 4:]], 1)


class Cells(Boxes):
    """What is learned, as edgespa asks for it: `examples/boxes.py:Cells`."""

    name = "cells"

    @property
    def decoding(self) -> Decoding:
        """How boxes are read off the outputs: measured by it here, done by it in ``run.py``."""
        return Decoding(
            size=(SIZE, SIZE),
            scores=Columns(output=0, first=4, rows=True),
            boxes=Columns(output=0, count=4, rows=True),
            activation="sigmoid",
            coding="centres",
            unit="input",
            threshold=0.1,
            overlap=0.4,
        )

    def loss(
        self, outputs: Tensor, targets: list[Objects], weights: Tensor | None = None, smoothing: float = 0
    ) -> Tensor:
        """The cell in the middle of each object is to say its box and its class, and no other cell anything."""
        total = outputs.sum() * 0
        for found, objects in zip(outputs, targets, strict=True):
            middle = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / (2 * SIZE)
            place = (middle * CELLS).long().clamp(0, CELLS - 1)
            cell = place[:, 1] * CELLS + place[:, 0]
            box = torch.cat([middle, (objects.boxes[:, 2:] - objects.boxes[:, :2]) / SIZE], 1)
            sure = torch.zeros_like(found[4:])
            sure[objects.labels, cell] = 1
            total = total + 20 * (found[:4, cell].T - box).abs().sum()
            total = total + nn.functional.binary_cross_entropy_with_logits(
                found[4:], sure, pos_weight=found.new_tensor(8), reduction="sum"
            )
        return total / len(targets)


def draw(folder: Path, count: int, seed: int) -> None:
    """Bright and dark rectangles on grey: a picture and a text file for each."""
    random = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("bright\ndark\n")
    for number in range(count):
        picture = random.integers(100, 130, (SIZE, SIZE, 3)).astype(np.uint8)
        lines = []
        for label in random.integers(0, 2, random.integers(1, 3)):
            width, height = random.integers(8, 16, 2)
            x, y = random.integers(0, SIZE - width), random.integers(0, SIZE - height)
            picture[y : y + height, x : x + width] = (235, 20)[label]
            lines.append(f"{label} {(x + width / 2) / SIZE} {(y + height / 2) / SIZE} {width / SIZE} {height / SIZE}\n")
        Image.fromarray(picture).save(folder / "images" / f"{number:03}.png")
        (folder / "labels" / f"{number:03}.txt").write_text("".join(lines))


def main(folder: Path) -> None:
    """The whole way."""
    draw(folder / "train", 160, 0)
    draw(folder / "test", 60, 1)
    task = es.adapt(
        f"{__file__}:Net",
        input_shape=(1, 3, SIZE, SIZE),
        objective=f"{__file__}:Cells",
        data=folder / "train",
        eval_data=folder / "test",
        adapter="full",
        density=0.8,
        epochs=12,
        batch_size=8,
        lr=1e-2,
        output=folder / "boxes.spa",
        overwrite=True,
    )
    print(task)
    bundle = es.export(
        task,
        output=folder / "boxes",
        objective=f"{__file__}:Cells",
        formats="onnx",
        eval_data=folder / "test",
        overwrite=True,
    )
    print(bundle)
    seen = ["--input", str(folder / "test" / "images" / "000.png"), "--output", str(folder / "seen.png"), "--overwrite"]
    run = [sys.executable, str(folder / "boxes" / "run.py"), *seen]
    print(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-boxes"))
