"""The zoo of small networks, and what the graph tests do with a network: randomise, trace, select, prove."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa.graph.groups import Groups, Kept, find_groups
from edgespa.graph.program import Program
from edgespa.graph.trace import trace


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"edgespa_graph_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


ZOO: dict[str, Any] = _load("zoo").ZOO


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of unit gain, and norms and biases far from their initial values, so that every channel counts."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    with torch.no_grad():
        for name, tensor in tensors:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var") or (tensor.dim() == 1 and "bias" not in name and "mean" not in name):
                noise = 0.5 + noise.abs()
            elif tensor.dim() > 1:
                noise = noise * tensor[0].numel() ** -0.5
            tensor.copy_(noise)
    return model


def random_kept(groups: Groups, seed: int, density: float = 0.5) -> Kept:
    """A random part of every group, at least one unit of each."""
    generator = np.random.default_rng(seed)
    kept = {}
    for name, group in groups.groups.items():
        mask = generator.random(len(group)) < density
        mask[generator.integers(len(group))] = True
        kept[name] = mask
    return kept


class Traced:
    """A network of the zoo, traced and labelled."""

    def __init__(self, case: Any) -> None:
        self.case = case
        torch.manual_seed(0)
        self.model, self.inputs = case.build()
        if case.randomised:
            randomise(self.model)
        self.model.eval()
        self.program: Program = trace(self.model, self.inputs)
        self.groups: Groups = find_groups(self.program)

    def batch(self, size: int, seed: int = 3) -> tuple[Tensor, ...]:
        """Inputs of another batch size (of the same, where the network fixes it)."""
        if not self.program.dynamic_batch:
            return self.inputs
        generator = torch.Generator().manual_seed(seed)
        result = []
        for tensor in self.inputs:
            if tensor.is_floating_point():
                result.append(torch.randn(size, *tensor.shape[1:], generator=generator).to(tensor.dtype))
            else:
                result.append(torch.randint(0, 9, (size, *tensor.shape[1:]), generator=generator))
        return tuple(result)


@pytest.fixture(scope="session")
def traced_cases() -> dict[str, Traced]:
    return {}


@pytest.fixture(params=list(ZOO))
def traced(request: pytest.FixtureRequest, traced_cases: dict[str, Traced]) -> Traced:
    """Every network of the zoo, one after the other."""
    return _cached(traced_cases, request.param)


def _cached(cases: dict[str, Traced], name: str) -> Traced:
    if name not in cases:
        cases[name] = Traced(ZOO[name])
    return cases[name]


@pytest.fixture
def zoo(traced_cases: dict[str, Traced]) -> Callable[[str], Traced]:
    """One network of the zoo by name."""
    return lambda name: _cached(traced_cases, name)


@pytest.fixture(scope="session")
def select() -> Callable[..., Kept]:
    return random_kept


@pytest.fixture(scope="session")
def randomised() -> Callable[..., nn.Module]:
    return randomise
