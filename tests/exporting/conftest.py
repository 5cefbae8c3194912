"""Small networks that hold what converters meet."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgespa.exporting.cache import Cache, key_of, program_parts
from edgespa.exporting.conversion import CONVERTERS
from edgespa.exporting.converter import Form
from edgespa.graph.program import Program
from edgespa.graph.trace import trace

NEEDED = ("onnxsim", "onnxscript", "onnxruntime", "litert_torch")


class Plain(nn.Module):
    """As VGG: what is flattened has height and width, then dropout and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.fc1 = nn.Linear(6 * 8 * 8, 20)
        self.fc2 = nn.Linear(20, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(torch.relu(self.bn(self.conv(x))), 2)
        return self.fc2(torch.relu(self.fc1(F.dropout(torch.flatten(x, 1), training=self.training))))


class Residual(nn.Module):
    """As a CIFAR ResNet: shortcuts by slices and padded channels, a mean over height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 16, 3, 2, 1)
        self.bn2 = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(self.bn2(self.down(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        return self.fc(x.mean((2, 3)))


class Gated(nn.Module):
    """As EfficientNet: depthwise, SiLU, squeeze and excitation, average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze = nn.Conv2d(12, 4, 1)
        self.excite = nn.Conv2d(4, 12, 1)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.depthwise(F.silu(self.expand(x))))
        x = x * torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Dense(nn.Module):
    """As DenseNet: concatenations, batch norms before convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)
        self.fc = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(torch.relu(self.bn1(x)))], 1)
        x = torch.cat([x, self.conv2(torch.relu(self.bn2(x)))], 1)
        return self.fc(torch.amax(x, (2, 3)))


class Next(nn.Module):
    """As ConvNeXt: depthwise, layer norm and linear layers over channels last, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.mix = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        inner = self.norm(self.mix(x).permute(0, 2, 3, 1))
        x = x + self.down(F.gelu(self.up(inner))).permute(0, 3, 1, 2)
        return self.fc(x.mean((2, 3)))


class Attention(nn.Module):
    """As a vision transformer: patches, a class token, one block of attention with layer norms."""

    def __init__(self, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        batch, count, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, count, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width)
        x = x + self.out(mixed)
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x[:, 0])


NETWORKS = {each.__name__: each for each in (Plain, Residual, Gated, Dense, Next, Attention)}


@pytest.fixture(scope="module", autouse=True)
def _nothing_was_converted_before() -> Iterator[None]:
    """Here conversions are what is tested, with parts of them replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESPA_CACHE", "off")
        yield


@pytest.fixture(scope="module")
def converted_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For tests of what comes after: a program that was converted before, with the same form, is not again."""
    own = tmp_path_factory.getbasetemp()
    cache = Cache((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "converted once")
    with pytest.MonkeyPatch.context() as patch:
        for name, module in CONVERTERS.items():
            patch.setattr(module, "write_fp32", functools.partial(_once, cache, name, module.write_fp32))
        yield


def _once(cache: Cache, name: str, write: Callable[..., None], program: Program, path: Path, form: Form) -> None:
    key = key_of(name, form, *program_parts(program))
    if cache.restore(key, path) is None:
        write(program, path, form)
        cache.store(key, path, {})


@pytest.fixture(scope="session")
def converters() -> None:
    """Skips where they are not installed."""
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        pytest.skip("needs edgespa[onnx,tflite]")


@pytest.fixture(scope="session")
def program_of() -> Callable[[str], Program]:
    """A small network by its name, traced. Not to be changed."""
    return _program


def _program(name: str) -> Program:
    """What a test draws next does not depend on whether it is the first to ask."""
    program = _traced(name)
    torch.manual_seed(0)
    return program


@functools.cache
def _traced(name: str) -> Program:
    """A network with batch norms that do something, traced for images of 3 x 16 x 16."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
    return trace(model, (torch.randn(2, 3, 16, 16),))


@pytest.fixture(scope="module", params=list(NETWORKS))
def network(request: pytest.FixtureRequest) -> tuple[str, Program]:
    """Each of the small networks."""
    return request.param, _program(request.param)
