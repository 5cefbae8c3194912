"""A regression: where a disc is, and how large. Three numbers from a picture that the example draws itself.

    python examples/disc.py [FOLDER]

In some twenty seconds: draw pictures into an .npz, learn the task with half of the channels, export it, and ask the
bundle about one picture, which needs numpy and one runtime alone.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import edgespa as es

SIZE = 24


def build() -> nn.Module:
    """The network, as edgespa asks for it: `examples/disc.py:build`. Its head gives x, y and radius."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * (SIZE // 4) ** 2, 3)).eval()


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [N, H, W, 1] in uint8, and what is to be learned [N, 3], in pixels."""
    random = np.random.default_rng(seed)
    truth = np.stack([*random.uniform(6, SIZE - 6, (2, count)), random.uniform(2, 6, count)], 1).astype(np.float32)
    x, y, radius = (truth[:, i, None, None] for i in range(3))
    rows, columns = np.mgrid[:SIZE, :SIZE]
    inside = np.clip(radius - np.hypot(columns - x, rows - y) + 0.5, 0, 1)
    noise = random.normal(0, 10, inside.shape)
    return np.clip(255 * inside + noise, 0, 255).astype(np.uint8)[..., None], truth


def main(folder: Path) -> None:
    """The whole way."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for split, count, seed in (("train", 1500, 1), ("test", 300, 2)):
        arrays[f"x_{split}"], arrays[f"targets_{split}"] = draw(count, seed)
    np.savez(folder / "discs.npz", **arrays, classes=np.array(["x", "y", "radius"]))
    data = folder / "discs.npz"
    task = es.adapt(
        f"{__file__}:build",
        input_shape=(1, 1, SIZE, SIZE),
        data=f"{data}:train",
        eval_data=f"{data}:test",
        mean=0.2,
        std=0.4,
        adapter="full",
        density=0.5,
        epochs=8,
        output=folder / "disc.spa",
        overwrite=True,
    )
    print(task)
    bundle = es.export(task, output=folder / "disc", formats=("onnx",), eval_data=f"{data}:test", overwrite=True)
    print(bundle)
    Image.fromarray(arrays["x_test"][0, :, :, 0]).save(folder / "one.png")
    print("the truth:", dict(zip(("x", "y", "radius"), arrays["targets_test"][0].tolist(), strict=True)))
    run = [sys.executable, str(folder / "disc" / "run.py"), "--input", str(folder / "one.png")]
    print(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-disc"))
