"""Networks that adapters are tried on: every kind of layer that one can meet."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa.adapters.adapted import AdaptedProgram, Plan, plan
from edgespa.adapters.base import Adapter, Place
from edgespa.adapters.insertion import without_inserted
from edgespa.adapters.kinds import kind_named, options_of
from edgespa.graph.groups import Groups, Kept, find_groups
from edgespa.graph.program import Program
from edgespa.graph.surgery import head_tensors
from edgespa.graph.trace import trace


class Convolutions(nn.Module):
    """Plain, strided, grouped, depthwise and transposed convolutions, a residual stream, batch norms, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 24, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.back = nn.Conv2d(24, 16, (1, 3), padding=(0, 1), bias=False)
        self.down = nn.Conv2d(16, 20, 2, 2)
        self.up = nn.ConvTranspose2d(20, 12, 2, 2)
        self.wide = nn.Linear(12, 40, bias=False)
        self.head = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        stream = torch.relu(self.norm(self.stem(x)))
        stream = stream + self.back(torch.relu(self.depthwise(torch.relu(self.grouped(stream)))))
        image = torch.relu(self.up(torch.relu(self.down(stream))))
        return self.head(torch.relu(self.wide(image.mean((2, 3)))))


class Tokens(nn.Module):
    """A vision transformer in small: raw attention projections, a class token, layer norms, a matrix from the left."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, size, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, size))
        self.position = nn.Parameter(torch.randn(1, 17, size))
        self.norm1 = nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(size, 4, batch_first=True)
        self.cross = nn.MultiheadAttention(size, 4, batch_first=True)
        self.norm2 = nn.LayerNorm(size)
        self.one = nn.Linear(size, 2 * size)
        self.two = nn.Linear(2 * size, size, bias=False)
        self.mix = nn.Parameter(torch.randn(size, 24) * 0.2)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1) + self.position
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        tokens = tokens + self.cross(tokens * 0.5, normed, normed, need_weights=False)[0]
        tokens = tokens + self.two(torch.nn.functional.gelu(self.one(self.norm2(tokens))))
        return self.head(torch.relu(tokens[:, 0] @ self.mix))


class Recurrent(nn.Module):
    """Two recurrent layers over the rows of an image, and one step of another."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Linear(24, 20, bias=False)
        self.rnn = nn.LSTM(20, 16, 2, batch_first=True)
        self.step = nn.GRUCell(16, 24)
        self.state = nn.Linear(20, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.relu(self.front(x.permute(0, 2, 1, 3).flatten(2)))
        return self.head(self.step(self.rnn(rows)[0].mean(1), self.state(rows[:, 0])))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": Convolutions,
    "tokens": Tokens,
    "recurrent": Recurrent,
}


def randomised(model: nn.Module) -> nn.Module:
    """Norms and statistics that are not the identity, so that a wrong channel shows."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if "norm" in name and tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with the adapters of one kind."""

    kind: str
    options: dict[str, object]
    base: Program
    program: Program
    groups: Groups
    plan: Plan

    def fresh(self) -> AdaptedProgram:
        return AdaptedProgram(self.program, self.plan.adapters, self.plan.trained, self.plan.shared)

    def perturbed(self, scale: float = 0.2, seed: int = 1) -> AdaptedProgram:
        """Everything that is trained moved at random: adapters, shared and inserted tensors."""
        generator = torch.Generator().manual_seed(seed)
        model = self.fresh()
        with torch.no_grad():
            for parameter in (p for p in model.parameters() if p.requires_grad):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
        return model

    def random_kept(self, seed: int = 0) -> Kept:
        random = np.random.default_rng(seed)
        kept = {name: random.random(len(group)) < 0.6 for name, group in self.groups.groups.items()}
        for mask in kept.values():
            mask[0] = True
        return kept


OPTIONS: dict[str, dict[str, object]] = {
    "splora": {"rank": 4},
    "splora full kernel": {"rank": 4, "kernel": "full"},
    "lora": {"rank": 4, "alpha": 6.0},
    "mixing": {"rank": 4},
    "ssf": {},
    "repadapter": {"rank": 2, "groups": 1, "scale": 0.7},
    "repadapter in groups": {"rank": 4, "groups": 2},
    "convpass": {"dim": 6, "scale": 0.5},
    "splopa": {"block": 8, "prototypes": 3},
    "splopa full kernel, masked": {"block": 8, "prototypes": 3, "kernel": "full", "mask": "movement"},
}


CASES = [
    pytest.param(f"{name}: {network}", marks=[pytest.mark.more] if network == "recurrent" and name != "splora" else [])
    for name in OPTIONS
    for network in NETWORKS
    if (name, network) != ("convpass", "recurrent")  # it has no place for it
]


@functools.cache
def traced(network: str, dtype: torch.dtype) -> Program:
    torch.manual_seed(0)
    return trace(randomised(NETWORKS[network]()).to(dtype), (torch.randn(2, 3, 8, 8, dtype=dtype),))


def make_case(name: str, network: str, dtype: torch.dtype = torch.float32) -> Case:
    kind = name.split(" ")[0]
    base = traced(network, dtype)
    options = options_of(kind, OPTIONS[name])
    program = kind_named(kind).extended(base, options)
    generator = torch.Generator().manual_seed(0)
    made = plan(program, kind, options, head_tensors(program), generator)
    return Case(kind, options, base, program, without_inserted(find_groups(program)), made)


@pytest.fixture(scope="session")
def make() -> Callable[..., Case]:
    """`make_case`."""
    return make_case


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind with options, and the adapter of one convolution weight."""

    name: str
    cls: type[Adapter]
    options: dict[str, object]

    def adapter(self, weight: Tensor) -> Adapter:
        generator = torch.Generator().manual_seed(0)
        place = Place(shared={n: nn.Parameter(t) for n, t in self.cls.shared(self.options, generator).items()})
        adapter = self.cls.for_weight(weight, self.options, generator, place)
        assert adapter is not None
        return adapter


@pytest.fixture(params=list(OPTIONS))
def kind(request: pytest.FixtureRequest) -> Kind:
    """Every kind with every set of options."""
    found = kind_named(request.param.split(" ")[0])
    return Kind(request.param, found, options_of(found.kind, OPTIONS[request.param]))


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Every kind on every network. Not to be changed."""
    name, _, network = request.param.partition(": ")
    return make_case(name, network)
