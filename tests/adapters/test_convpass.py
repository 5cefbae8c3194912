"""Convpass: what is inserted where, against the module that the paper draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgespa.adapters.convpass import Convpass
from edgespa.adapters.insertion import INSERTED, inserted_tensors
from edgespa.errors import AdapterError
from edgespa.graph.groups import find_groups
from edgespa.graph.program import Program
from edgespa.graph.proof import prove
from edgespa.graph.surgery import compact
from edgespa.graph.trace import trace
from edgespa.tasks.base import Base


class Block(nn.Module):
    """One residual MLP on tokens of a 4 x 4 image with a class token."""

    def __init__(self, bypass: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.norm = nn.LayerNorm(12)
        self.mlp = nn.Linear(12, 12)
        self.head = nn.Linear(12, 3)
        self.bypass = bypass
        if bypass:
            self.down, self.conv, self.up = nn.Linear(12, 5), nn.Conv2d(5, 5, 3, padding=1), nn.Linear(5, 12)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1)
        normed = self.norm(tokens)
        result = tokens + torch.relu(self.mlp(normed))
        if self.bypass:
            result = result + 0.3 * self.beside(normed)
        return self.head(result[:, 0] + result.mean(1))

    def beside(self, x: Tensor) -> Tensor:
        def act(value: Tensor) -> Tensor:
            return value * torch.sigmoid(1.702 * value)

        inner = act(self.down(x))
        image = self.conv(inner[:, 1:].transpose(1, 2).reshape(-1, 5, 4, 4)).flatten(2).transpose(1, 2)
        token = self.conv(inner[:, :1].transpose(1, 2).reshape(-1, 5, 1, 1)).flatten(2).transpose(1, 2)
        return self.up(act(torch.cat([token, image], 1)))


def test_it_is_the_module_of_the_paper() -> None:
    torch.manual_seed(0)
    reference = Block(bypass=True).eval()
    plain = Block()
    plain.load_state_dict({k: v for k, v in reference.state_dict().items() if k in plain.state_dict()})
    program = Convpass.extended(trace(plain, (torch.randn(2, 3, 8, 8),)), {"dim": 5, "scale": 0.3})
    own = reference.state_dict()
    state = {name: own[name.removeprefix(f"{INSERTED}.convpass.0.")] for name in inserted_tensors(program)}
    assert len(state) == 6
    inputs = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(program.with_state(state)(inputs), reference(inputs))


def branches(program: Program) -> int:
    return len({name.split(".")[2] for name in inserted_tensors(Convpass.extended(program, {"dim": 4, "scale": 1.0}))})


def test_each_residual_branch_gets_one(make: Callable[..., Any], toy_base: Base) -> None:
    assert branches(make("splora", "tokens").base) == 3  # not the additions of the position and of biases
    assert branches(make("splora", "convolutions").base) == 1
    assert branches(toy_base.program) == 1


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 2, 2)
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        image = self.patch(x).permute(0, 2, 3, 1)
        return self.head((image + self.mlp(self.norm(image))).mean((1, 2)))


def test_images_with_channels_last() -> None:
    program = trace(ChannelsLast(), (torch.randn(2, 3, 8, 8),))
    result = Convpass.extended(program, {"dim": 4, "scale": 1.0})
    shapes = {name.rpartition("convpass.0.")[2]: tuple(t.shape) for name, t in result.tensors() if "convpass" in name}
    assert shapes["down.weight"] == (4, 8)
    assert shapes["conv.weight"] == (4, 4, 3, 3)
    state = {n: torch.randn(t.shape) for n, t in result.tensors() if n in inserted_tensors(result)}
    inputs = program.example_inputs(batch=3)
    with torch.no_grad():
        assert not torch.allclose(result.with_state(state)(*inputs), program(*inputs))


def test_a_network_without_residual_branches_is_refused() -> None:
    program = trace(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (torch.randn(2, 3, 2, 2),))
    with pytest.raises(AdapterError, match="no residual branch") as caught:
        Convpass.extended(program, {"dim": 4, "scale": 1.0})
    assert caught.value.hint


def test_inserted_operators_follow_the_channels_and_are_not_pruned(toy_base: Base) -> None:
    """Law 1 on the extended program: masked = compacted, inner activations too; the inner width stays."""
    base = toy_base.extended("convpass", {"dim": 4, "scale": 0.5})
    assert set(base.groups.groups) == set(toy_base.groups.groups)
    assert {n: (len(g), g.channels) for n, g in base.groups.groups.items()} == {
        n: (len(g), g.channels) for n, g in toy_base.groups.groups.items()
    }
    generator = torch.Generator().manual_seed(0)
    state = {n: torch.randn(t.shape, generator=generator) for n, t in base.program.tensors() if INSERTED in n}
    program = base.program.with_state(state)
    kept = base.groups.all_kept()
    for mask in kept.values():
        mask[::3] = False
    compacted = compact(program, base.groups, kept)
    prove(program, base.groups, kept, compacted, program.example_inputs()).require()
    shapes = {name: tuple(tensor.shape) for name, tensor in compacted.tensors()}
    stream = int(kept["conv1"].sum())
    assert shapes[f"{INSERTED}.convpass.0.down.weight"] == (4, stream, 1, 1)
    assert shapes[f"{INSERTED}.convpass.0.up.weight"] == (stream, 4, 1, 1)
    assert base.extended("convpass", {"dim": 4, "scale": 0.5}) is base
    assert set(find_groups(program).groups) > set(base.groups.groups)
