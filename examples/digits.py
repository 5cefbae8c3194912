"""A classifier: scikit-learn's handwritten digits, half of the channels, int8, proved and measured.

    python examples/digits.py [FOLDER]

In some twenty seconds: train a network in plain PyTorch, adapt it to the task while channels go, export it to ONNX in
float32 and int8, verify and profile the files. The last lines are the same by hand.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import edgespa as es

SHAPE = (1, 1, 16, 16)
PIXELS = {"mean": 0.3, "std": 0.35}


def build() -> nn.Module:
    """The network, as edgespa asks for it: `examples/digits.py:build`."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after, stride in ((1, 32, 1), (32, 64, 2), (64, 64, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def pretrain(path: Path) -> None:
    """Weights to begin with, by any training that you like."""
    from safetensors.torch import save_file
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images = (nn.functional.interpolate(images, SHAPE[2:], mode="bilinear") - PIXELS["mean"]) / PIXELS["std"]
    labels = torch.as_tensor(digits.target)
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(3):
        for chosen in torch.randperm(1200).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
    save_file(model.state_dict(), path)


def main(folder: Path) -> None:
    """The whole way."""
    folder.mkdir(parents=True, exist_ok=True)
    pretrain(folder / "base.safetensors")
    model, weights = f"{__file__}:build", folder / "base.safetensors"
    print(es.inspect(model, input_shape=SHAPE))
    task = es.adapt(
        model,
        weights=weights,
        input_shape=SHAPE,
        data="digits:train",
        eval_data="digits:test",
        density=0.5,
        epochs=6,
        output=folder / "digits.spa",
        overwrite=True,
        **PIXELS,
    )
    print(task)
    bundle = es.export(
        task,
        output=folder / "digits",
        formats=("onnx",),
        precisions=("fp32", "int8"),
        calibration="digits:train",
        eval_data="digits:test",
        overwrite=True,
    )
    print(bundle)
    print(es.verify(bundle))
    print(es.profile(bundle))
    print(f"by hand: edgespa verify {folder / 'digits'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-digits"))
