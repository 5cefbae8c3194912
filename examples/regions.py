"""A segmenter: which pixels are disc, which are square, in pictures that the example draws itself.

    python examples/regions.py [FOLDER]

In some thirty seconds: draw pictures and their masks, learn them with half of the multiply-accumulates, export that,
and let the bundle say and draw what it sees in one picture.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import edgespa as es

SIZE = 32


def block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """A convolution with its norm and its activation."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class Net(nn.Module):
    """Two steps down and up again: background, disc and square for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.middle, self.deep = block(3, 16), block(16, 32, 2), block(32, 48, 2)
        self.up, self.top, self.head = block(48, 32), block(32, 16), nn.Conv2d(16, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, 32, 32] to scores [N, 3, 32, 32]."""
        wide = self.wide(images)
        half = self.middle(wide)
        up = nn.functional.interpolate(self.up(self.deep(half)), scale_factor=2, mode="nearest") + half
        return self.head(nn.functional.interpolate(self.top(up), scale_factor=2, mode="nearest") + wide)


def draw(folder: Path, split: str, count: int, seed: int) -> None:
    """Discs and squares of all greys on noise: a picture, and a mask of the classes' numbers, for each."""
    random = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (folder / part / split).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("background\ndisc\nsquare\n")
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for number in range(count):
        picture, mask = random.integers(0, 90, (SIZE, SIZE)), np.zeros((SIZE, SIZE), dtype=np.uint8)
        for kind in (1, 2):
            x, y = random.integers(6, SIZE - 6, 2)
            radius = random.integers(4, 7)
            far = np.stack([abs(columns - x), abs(rows - y)])
            inside = (np.hypot(*far) if kind == 1 else far.max(0)) < radius
            picture[inside], mask[inside] = random.integers(140, 255), kind
        Image.fromarray(np.repeat(picture[..., None], 3, 2).astype(np.uint8)).save(
            folder / "images" / split / f"{number:03}.png"
        )
        Image.fromarray(mask).save(folder / "masks" / split / f"{number:03}.png")


def main(folder: Path) -> None:
    """The whole way."""
    data = folder / "pictures"
    draw(data, "train", 300, 0)
    draw(data, "test", 100, 1)
    task = es.adapt(
        f"{__file__}:Net",
        input_shape=(1, 3, SIZE, SIZE),
        data=f"{data}:train",
        eval_data=f"{data}:test",
        mean=0.3,
        std=0.25,
        adapter="full",
        budget="macs",
        density=0.5,
        round_to=4,
        epochs=12,
        batch_size=16,
        lr=1e-2,
        output=folder / "regions.spa",
        overwrite=True,
    )
    print(task)
    bundle = es.export(task, output=folder / "regions", formats="onnx", eval_data=f"{data}:test", overwrite=True)
    print(bundle)
    seen = str(folder / "seen.png")
    one = str(data / "images" / "test" / "000.png")
    run = [sys.executable, str(folder / "regions" / "run.py"), "--input", one, "--output", seen]
    print(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    print(f"drawn in {seen}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-regions"))
