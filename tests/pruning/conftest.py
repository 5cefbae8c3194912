"""Small networks of every kind, as bases, and images for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgespa.config import Preprocess
from edgespa.data import Prepared, load_data, prepare
from edgespa.graph.groups import Slot
from edgespa.pruning import PruneConfig, prune
from edgespa.tasks.base import Base

NETWORKS = """
import torch
from torch import nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self, run, **parts):
        super().__init__()
        torch.manual_seed(0)
        for name, make in parts.items():
            setattr(self, name, make())
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    nn.init.uniform_(tensor, 0.3, 1.2)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def conv(i, o, k=3, **kw):
    return lambda: nn.Conv2d(i, o, k, **{"padding": k // 2, **kw})


def lin(i, o, bias=True):
    return lambda: nn.Linear(i, o, bias)


def bn(n):
    return lambda: nn.BatchNorm2d(n)


def pool(x):
    return x.mean((2, 3))


def plain():
    def run(m, x):
        x = F.relu(m.b1(m.c1(x)))
        x = F.relu(m.b2(m.c2(x)))
        return m.fc(pool(x))
    return Net(run, c1=conv(3, 8), b1=bn(8), c2=conv(8, 12, stride=2, bias=False), b2=bn(12), fc=lin(12, 4))


def flatten():
    def run(m, x):
        x = F.max_pool2d(F.relu(m.c1(x)), 2)
        x = F.relu(m.f1(x.flatten(1)))
        return m.f2(x)
    return Net(run, c1=conv(3, 6), f1=lin(96, 10), f2=lin(10, 4))


def residual():
    def run(m, x):
        x = F.relu(m.b0(m.stem(x)))
        x = F.relu(m.b2(m.c2(F.relu(m.b1(m.c1(x))))) + x)
        x = F.relu(m.b4(m.c4(F.relu(m.b3(m.c3(x))))) + x)
        return m.fc(pool(x))
    return Net(run, stem=conv(3, 8), b0=bn(8), c1=conv(8, 6), b1=bn(6), c2=conv(6, 8), b2=bn(8), c3=conv(8, 6),
               b3=bn(6), c4=conv(6, 8), b4=bn(8), fc=lin(8, 4))


def concat():
    def run(m, x):
        a, b = F.relu(m.a(x)), F.relu(m.b(x))
        x = F.relu(m.c(torch.cat([a, b], 1)))
        return m.fc(pool(x))
    return Net(run, a=conv(3, 6, 1), b=conv(3, 8), c=conv(14, 10), fc=lin(10, 4))


def depthwise():
    def run(m, x):
        x = F.relu6(m.b1(m.expand(x)))
        x = F.relu6(m.b2(m.deep(x)))
        return m.fc(pool(m.project(x)))
    return Net(run, expand=conv(3, 12, 1), b1=bn(12), deep=conv(12, 12, groups=12, stride=2), b2=bn(12),
               project=conv(12, 8, 1), fc=lin(8, 4))


def excite():
    def run(m, x):
        x = F.relu(m.c1(x))
        gate = torch.sigmoid(m.up(F.relu(m.down(x.mean((2, 3), keepdim=True)))))
        return m.fc(pool(F.relu(m.c2(x * gate))))
    return Net(run, c1=conv(3, 8), down=conv(8, 4, 1), up=conv(4, 8, 1), c2=conv(8, 8), fc=lin(8, 4))


def grouped():
    def run(m, x):
        x = F.relu(m.c1(x))
        x = F.relu(m.c2(x))
        return m.fc(pool(x))
    return Net(run, c1=conv(3, 16), c2=conv(16, 12, groups=2, dilation=2, padding=2), fc=lin(12, 4))


def transposed():
    def run(m, x):
        x = F.relu(m.c1(x))
        x = F.relu(m.up(x))
        return m.fc(pool(m.c2(x)))
    up = lambda: nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1)
    return Net(run, c1=conv(3, 8), up=up, c2=conv(6, 6), fc=lin(6, 4))


def grouped_transposed():
    def run(m, x):
        x = F.relu(m.c1(x))
        x = F.relu(m.up(x))
        return m.fc(pool(m.c2(x)))
    up = lambda: nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1, groups=2)
    return Net(run, c1=conv(3, 16), up=up, c2=conv(8, 6), fc=lin(6, 4))


def matmul():
    def run(m, x):
        x = F.relu(x.flatten(1) @ m.w1)
        x = F.relu(torch.addmm(m.bias, x, m.w2))
        return m.fc(x)
    tensor = lambda *s: lambda: nn.Parameter(torch.randn(*s) / s[0] ** 0.5)
    return Net(run, w1=tensor(192, 10), w2=tensor(10, 8), bias=tensor(8), fc=lin(8, 4))


def attention():
    def run(m, x):
        x = m.patch(x).flatten(2).transpose(1, 2)
        n, t, _ = x.shape
        q, k, v = m.qkv(m.n1(x)).reshape(n, t, 3, 4, 4).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 16)
        x = x + m.out(a)
        x = x + m.down(F.gelu(m.up(m.n2(x))))
        return m.fc(x.mean(1))
    norm = lambda: nn.LayerNorm(12)
    return Net(run, patch=conv(3, 12, 2, stride=2, padding=0), n1=norm, qkv=lin(12, 48), out=lin(16, 12), n2=norm,
               up=lin(12, 20), down=lin(20, 12, bias=False), fc=lin(12, 4))
"""
NAMES = (
    "plain", "flatten", "residual", "concat", "depthwise", "excite", "grouped", "transposed", "grouped_transposed",
    "matmul", "attention",
)  # fmt: skip
PREPROCESS = Preprocess(height=8, width=8, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture(scope="session")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("networks") / "networks.py"
    path.write_text(NETWORKS, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def network(network_file: Path) -> Callable[[str], Base]:
    """A base by the name of its factory. Not to be changed."""
    known: dict[str, Base] = {}

    def build(name: str) -> Base:
        if name not in known:
            known[name] = Base.open(f"{network_file}:{name}", (1, 3, 8, 8))
        return known[name]

    return build


@pytest.fixture(scope="session")
def twins(network: Callable[[str], Base]) -> Callable[[str], Base]:
    """The same, but the second half of every group does exactly what the first half does."""

    def build(name: str) -> Base:
        base = network(name)
        state = {key: tensor.clone() for key, tensor in base.program.state().items()}
        for group in base.groups.groups.values():
            half = len(group) // 2
            for slot, indices in group.slots.items():
                if slot not in group.readers and slot != Slot("w2", 0):
                    for unit in range(half):
                        values = state[slot.tensor].index_select(slot.dim, torch.from_numpy(indices[unit]))
                        state[slot.tensor].index_copy_(slot.dim, torch.from_numpy(indices[half + unit]), values)
        program = base.program.with_state(state)
        return Base(base.spec, base.weights, base.input_shape, base.digest, program, base.groups)

    return build


def images_of(folder: Path, count: int = 160, seed: int = 0, *, labelled: bool = True) -> Prepared:
    random = np.random.default_rng(seed)
    path = folder / f"images-{count}-{seed}-{labelled}.npz"
    images = random.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    np.savez(path, images=images, **({"labels": np.arange(count) % 4} if labelled else {}))
    return prepare(load_data(str(path), labelled=False), PREPROCESS)


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch) -> Callable[[Base, PruneConfig, Prepared, Path], None]:
    """Prunes until there is a state, and is interrupted then."""

    def left(base: Base, config: PruneConfig, data: Prepared, state: Path) -> None:
        seen: list[str] = []

        def interrupt(done: float, total: float | None, text: str) -> None:
            seen.append(text)
            if state.exists() or len(seen) > 200:
                raise KeyboardInterrupt

        monkeypatch.setattr("edgespa.pruning.resume.SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            prune(base, config, state.parent, data=data, checkpoint=state, progress=interrupt)
        assert state.exists()

    return left


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """For the networks of `attention_networks`."""
    path = tmp_path_factory.mktemp("heads") / "noise.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 255, (32, 16, 16, 3)).astype(np.uint8))
    pixels = Preprocess(height=16, width=16, channels=3, mean=(0.5,) * 3, std=(0.3,) * 3)
    return prepare(load_data(str(path), labelled=False), pixels)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return images_of(tmp_path_factory.mktemp("images"))


BLOCKS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width, scale):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        with torch.no_grad():
            self.conv2.weight.mul_(scale)
            self.conv2.bias.mul_(scale)

    def forward(self, x):
        return torch.relu(x + self.conv2(torch.relu(self.norm(self.conv1(x)))))


class Net(nn.Module):
    def __init__(self, scales):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.blocks = nn.Sequential(*(Block(16, scale) for scale in scales))
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def build():
    return Net([1.0, 1e-3, 0.5, 1.0])
"""


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Four residual blocks of a width, the second of which does next to nothing. Not to be changed."""
    path = tmp_path_factory.mktemp("blocks") / "net.py"
    path.write_text(BLOCKS)
    return Base.open(f"{path}:build", (1, 3, 8, 8))
