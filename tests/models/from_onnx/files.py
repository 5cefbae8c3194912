"""Small ONNX files, written by hand and by torch's two exporters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn


def made(
    nodes: Sequence[Any],
    tensors: dict[str, Any] | None = None,
    *,
    shape: Sequence[int | str] = ("batch", 3, 8, 8),
    out: Sequence[Any] | None = None,
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
) -> Any:
    """A model of some nodes, from ``x`` to ``y``."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info("y", kind, out)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (tensors or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(model: Any, folder: Path, name: str = "net.onnx") -> str:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return str(path)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def lively(model: nn.Module) -> nn.Module:
    """With random norms and biases, in evaluation form."""
    generator = torch.Generator().manual_seed(1)
    for name, value in (*model.named_buffers(), *model.named_parameters()):
        if name.endswith("running_var"):
            value.data.uniform_(0.5, 1.5, generator=generator)
        elif value.dim() == 1 and value.is_floating_point():
            value.data.add_(0.1 * torch.randn(value.shape, generator=generator))
    return model.eval()


def exported(model: nn.Module, path: Path, shape: Sequence[int], *, dynamo: bool, free: bool = True) -> str:
    """By torch.onnx, in the newer or the older way."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            dims = ({0: torch.export.Dim("batch", min=1)},) if free else None
            x = torch.randn(2 if free else 1, *shape[1:])
            torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False, dynamic_shapes=dims)
        else:
            axes = {"x": {0: "batch"}, "y": {0: "batch"}} if free else None
            torch.onnx.export(
                model, (torch.randn(*shape),), path, dynamo=False, input_names=["x"], output_names=["y"],
                dynamic_axes=axes, opset_version=14,
            )  # fmt: skip
    assert onnx.load(path).graph.node
    return str(path)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


class Residual(nn.Module):
    """Convolutions, norms, two residual blocks and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.blocks = nn.Sequential(Block(16), Block(16))
        self.act, self.pool, self.fc = nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.blocks(self.act(self.stem(x)))).flatten(1))


class Attention(nn.Module):
    """Patches, a token of its own, and an attention with heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 1, 16))
        self.norm, self.qkv, self.proj = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm2, self.up, self.down, self.fc = (
            nn.LayerNorm(16),
            nn.Linear(16, 32),
            nn.Linear(32, 16),
            nn.Linear(16, 5),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(n, t, c))
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return self.fc(x[:, 0])
