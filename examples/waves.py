"""A signal: which wave a sensor saw, from two channels of 128 numbers that the example makes itself.

    python examples/waves.py [FOLDER]

In some twenty seconds: make signals into an .npz, learn them with half of the channels, export that in float32 and
int8, and ask the bundle about one signal, which needs numpy and one runtime alone.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import edgespa as es

STEPS = 128
KINDS = ("sine", "square", "saw", "pulse")


def build() -> nn.Module:
    """The network, as edgespa asks for it: `examples/waves.py:build`."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((2, 16), (16, 32), (32, 64)):
        layers += [nn.Conv1d(before, after, 5, 2, 2, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, Mean(), nn.Linear(64, len(KINDS))).eval()


class Mean(nn.Module):
    """Over time."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, T] to [N, C]."""
        return x.mean(2)


def make(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Signals [N, 2, 128] in noise, the second channel a quarter of a period behind; and the kind of each."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, len(KINDS), count)
    periods, start = random.uniform(2, 6, (count, 1, 1)), random.uniform(0, 1, (count, 1, 1))
    at = (periods * np.linspace(0, 1, STEPS) + start + np.array([[0.0], [0.25]])) % 1
    waves = (np.sin(2 * np.pi * at), np.sign(0.5 - at), 2 * at - 1, np.where(at < 0.15, 1.7, -0.3))
    signals = np.choose(kinds[:, None, None], waves) + random.normal(0, 0.6, at.shape)
    return signals.astype(np.float32), kinds


def main(folder: Path) -> None:
    """The whole way."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    for split, count, seed in (("train", 2000, 1), ("test", 500, 2)):
        arrays[f"sensor_{split}"], arrays[f"labels_{split}"] = make(count, seed)
    data = folder / "waves.npz"
    np.savez(data, **arrays, classes=np.array(KINDS))
    task = es.adapt(
        f"{__file__}:build",
        input_shape=(1, 2, STEPS),
        data=f"{data}:train",
        eval_data=f"{data}:test",
        adapter="full",
        density=0.5,
        round_to=4,
        epochs=8,
        output=folder / "waves.spa",
        overwrite=True,
    )
    print(task)
    bundle = es.export(
        task,
        output=folder / "waves",
        formats="onnx",
        precisions=("fp32", "int8"),
        calibration=f"{data}:train",
        eval_data=f"{data}:test",
        overwrite=True,
    )
    print(bundle)
    np.savez(folder / "one.npz", sensor=arrays["sensor_test"][:1])
    print("the truth:", KINDS[arrays["labels_test"][0]])
    run = [sys.executable, str(folder / "waves" / "run.py"), "--input", str(folder / "one.npz")]
    print(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-waves"))
