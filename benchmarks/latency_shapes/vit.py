"""A small vision transformer, trained here: no pretrained one comes with the data.

    EDGESPA_DATA=../shared/data OMP_NUM_THREADS=1 .venv/bin/python benchmarks/latency_shapes/vit.py

Six blocks of two heads, on 64 tokens of a 32 x 32 image; 20,000 images of JPEG-CIFAR, 12 epochs, one seed: some half an
hour of one core. The weights are kept in out/, and are in no commit.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("EDGESPA_DATA", HERE.parents[2] / "shared" / "data"))
WEIGHTS = HERE / "out" / "vit.pt"
SIZE, HEADS, BLOCKS, INNER = 64, 2, 6, 192
IMAGES, EPOCHS, BATCH, LR = 20_000, 12, 128, 2e-3


class Block(nn.Module):
    """Attention and two matrices, each behind a norm and added to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(SIZE), nn.LayerNorm(SIZE)
        self.qkv, self.proj = nn.Linear(SIZE, 3 * SIZE), nn.Linear(SIZE, SIZE)
        self.fc1, self.fc2 = nn.Linear(SIZE, INNER), nn.Linear(INNER, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        query, key, value = (
            self.qkv(self.norm1(x)).reshape(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, tokens, SIZE)
        x = x + self.proj(attended)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    """Logits of ten classes from an image, ``[N, 3, 32, 32]``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem1 = nn.Conv2d(3, SIZE // 2, 3, 2, 1)
        self.stem2 = nn.Conv2d(SIZE // 2, SIZE, 3, 2, 1)
        self.position = nn.Parameter(0.02 * torch.randn(1, 64, SIZE))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(SIZE), nn.Linear(SIZE, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem2(F.gelu(self.stem1(x))).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


def vit() -> nn.Module:
    """The trained network, for ``vit.py:vit``."""
    if not WEIGHTS.exists():
        raise SystemExit(f"{WEIGHTS} is absent: train it first ({Path(__file__).name})")
    network = Vit()
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return network.eval()


def _pixels(split: str, count: int) -> tuple[Tensor, Tensor]:
    from edgespa.config import Preprocess
    from edgespa.data import load_data, prepare

    how = Preprocess(height=32, width=32, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    data = load_data(f"{DATA}/cifar10_jpeg.zip:{split}")
    chosen = np.random.default_rng(0).permutation(len(data))[:count]
    parts = list(prepare(data.subset(sorted(chosen)), how).batches(500))
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def main() -> None:
    """Train it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network, (images, labels) = Vit(), _pixels("train", IMAGES)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.05)
    steps = EPOCHS * (IMAGES // BATCH)
    warm = steps // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(step / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    for epoch in range(EPOCHS):
        network.train()
        for own in torch.randperm(IMAGES).split(BATCH)[: IMAGES // BATCH]:
            batch = images[own]
            batch = torch.where(torch.rand(len(own), 1, 1, 1) < 0.5, batch.flip(3), batch)
            batch = F.pad(batch, (4, 4, 4, 4))
            top, left = torch.randint(0, 9, (2,)).tolist()
            loss = F.cross_entropy(network(batch[:, :, top : top + 32, left : left + 32]), labels[own])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {float(loss):.3f}", flush=True)
    WEIGHTS.parent.mkdir(exist_ok=True)
    torch.save(network.state_dict(), WEIGHTS)
    network.eval()
    with torch.no_grad():
        test, wanted = _pixels("test", 10_000)
        right = sum(
            int((network(own).argmax(1) == each).sum())
            for own, each in zip(test.split(500), wanted.split(500), strict=True)
        )
    print(f"accuracy on {len(wanted)} test images: {right / len(wanted):.2%}")


if __name__ == "__main__":
    main()
