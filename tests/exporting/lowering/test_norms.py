"""Batch norms beside linear layers disappear into them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgespa.exporting.lowering import without_batch_norms
from edgespa.graph.trace import trace


class Tokens(nn.Module):
    """A linear layer, a reshape, a norm; its weight is read once more without the norm."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 8, bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        z = self.norm(y.flatten(0, 1)).reshape_as(y)
        return z + self.fc(x * 2) if self.shared else z


class Head(nn.Module):
    """A norm that two linear layers read; with a third reader it must stay."""

    def __init__(self, *, read: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6, affine=False)
        self.first, self.second = nn.Linear(6, 4), nn.Linear(6, 4, bias=False)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z = self.first(y) * self.second(y)
        return z + y.sum(1, keepdim=True) if self.read else z


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y


@pytest.mark.parametrize(
    ("model", "shape", "left"),
    [
        (Tokens(shared=False), (2, 5, 6), 0),
        (Tokens(shared=True), (2, 5, 6), 0),
        (nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU()), (2, 6), 0),
        (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8)), (2, 6), 1),
        (Head(read=False), (2, 6), 0),
        (Head(read=True), (2, 6), 1),
        (Images(), (2, 3, 8, 8), 1),
    ],
)
def test_batch_norms_beside_linear_layers_go(model: nn.Module, shape: tuple[int, ...], left: int) -> None:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            for parameter in module.parameters():
                nn.init.normal_(parameter)
    program = trace(model, (torch.randn(shape),))
    folded = without_batch_norms(program)
    norms = [node for node in folded.graph.nodes if node.target is torch.ops.aten.batch_norm.default]
    assert len(norms) == left
    (x,) = program.example_inputs(3)
    torch.testing.assert_close(folded(x), program(x))
