"""The LeNet of the paper's code: two 3 x 3 convolutions of 6 and 16 channels, then 400-120-84-10; 60,074 parameters."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


def lenet() -> nn.Module:
    """The weights are in the file that LENET_WEIGHTS names; without it they are random."""
    model = LeNet()
    if path := os.environ.get("LENET_WEIGHTS"):
        model.load_state_dict(load_file(Path(path)))
    return model


def train(model: nn.Module, images: Tensor, labels: Tensor, seed: int, epochs: int = 8) -> None:
    """Adam on normalised images, learning rate falling to zero along a half cosine."""
    generator = torch.Generator().manual_seed(seed)
    size = 128
    steps = epochs * (len(images) // size)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images) - size + 1, size):
            chosen = order[start : start + size]
            loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
