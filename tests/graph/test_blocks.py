"""Residual blocks: which are found, and that removing some is replacing their modules by the identity."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgespa.errors import GraphError
from edgespa.graph.blocks import Block, Bypassed, find_blocks, without_blocks
from edgespa.graph.groups import find_groups
from edgespa.graph.program import Program
from edgespa.graph.streams import channel_dim, reads_class_token
from edgespa.graph.surgery import compact
from edgespa.graph.trace import from_exported, trace
from edgespa.models.interface import output_tensors


def _load() -> Any:
    spec = importlib.util.spec_from_file_location(
        "edgespa_graph_block_networks", Path(__file__).with_name("block_networks.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


networks = _load()
NETWORKS = networks.NETWORKS
WITH_BLOCKS = [name for name, (_, _, removable) in NETWORKS.items() if removable != set() and name != "plain"]


class Traced:
    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        build, self.stages, removable = NETWORKS[name]
        self.model: nn.Module = build().eval()
        self.inputs: tuple[Tensor, ...] = networks.images()
        self.program: Program = trace(self.model, self.inputs)
        self.blocks: tuple[Block, ...] = find_blocks(self.program)
        every = {block for own in self.stages.values() for block in own}
        self.removable = every if removable is None else removable


@pytest.fixture(scope="module")
def traced_of() -> Callable[[str], Traced]:
    known: dict[str, Traced] = {}

    def get(name: str) -> Traced:
        if name not in known:
            known[name] = Traced(name)
        return known[name]

    return get


class Same(nn.Module):
    """The identity, for a module that gives as many values as ``like``."""

    def __init__(self, several: bool) -> None:
        super().__init__()
        self.several = several

    def forward(self, x: Tensor, *_: Tensor) -> Any:
        return (x, x) if self.several else x


def replaced(model: nn.Module, names: list[str], several: bool = False) -> nn.Module:
    result = copy.deepcopy(model)
    for name in names:
        owner, _, leaf = name.rpartition(".")
        setattr(result.get_submodule(owner), leaf, Same(several))
    return result


@pytest.mark.law(4)
@pytest.mark.parametrize("name", list(NETWORKS))
def test_finds_the_blocks_of_every_make(name: str, traced_of: Callable[[str], Traced]) -> None:
    traced = traced_of(name)
    found: dict[str, list[str]] = {}
    for block in traced.blocks:
        found.setdefault(block.stage, []).append(block.name)
    assert found == traced.stages
    assert {block.name for block in traced.blocks if block.removable} == traced.removable
    assert all(block.reason for block in traced.blocks if not block.removable)


@pytest.mark.law(8)
@pytest.mark.parametrize("name", WITH_BLOCKS)
@pytest.mark.parametrize("pick", ["first", "last", "every other"])
def test_removing_is_replacing_by_the_identity(name: str, pick: str, traced_of: Callable[[str], Traced]) -> None:
    traced = traced_of(name)
    can = [block for block in traced.blocks if block.removable]
    chosen = {"first": can[:1], "last": can[-1:], "every other": can[::2]}[pick]
    if len(chosen) == len(traced.blocks):
        chosen = chosen[:-1]
    names = [block.name for block in chosen]
    cut = without_blocks(traced.program, names)
    with torch.no_grad():
        got = output_tensors(cut(*traced.inputs))
        bypassed = output_tensors(Bypassed(traced.program, chosen).run(*traced.inputs))
        whole = output_tensors(traced.program(*traced.inputs))
        if name != "pairs":  # there the block is a list, and cannot be called
            literal = output_tensors(replaced(traced.model, names, several=name == "leaky")(*traced.inputs))
            assert all(torch.equal(a, b) for a, b in zip(got, literal, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(got, bypassed, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(got, whole, strict=True))


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_what_only_the_blocks_needed_is_gone(name: str, traced_of: Callable[[str], Traced]) -> None:
    traced = traced_of(name)
    names = sorted(traced.removable)[:1]
    cut = without_blocks(traced.program, names)
    left = {tensor for tensor, _ in cut.tensors()}
    gone = {tensor for tensor, _ in traced.program.tensors()} - left
    assert not [tensor for tensor in left if tensor.startswith(f"{names[0]}.")]
    assert gone
    assert all(tensor.startswith(f"{names[0]}.") for tensor in gone)
    assert {key for key, _ in cut.module.named_parameters()} <= left
    assert [block.name for block in find_blocks(cut)] == [b.name for b in traced.blocks if b.name not in names]


@pytest.mark.parametrize("name", ["pre-norm", "resnet", "swin", "convnext"])
def test_other_batch_sizes_and_channel_removal_still_work(name: str, traced_of: Callable[[str], Traced]) -> None:
    traced = traced_of(name)
    cut = without_blocks(traced.program, sorted(traced.removable)[:1])
    assert cut.dynamic_batch
    assert output_tensors(cut(torch.randn(5, 3, 16, 16)))[0].shape[0] == 5
    groups = find_groups(cut)
    kept = groups.all_kept()
    for mask in kept.values():
        mask[: len(mask) // 2] = False
    smaller = compact(cut, groups, kept)
    assert output_tensors(smaller(torch.randn(3, 3, 16, 16)))[0].shape == (3, 5)


def test_a_saved_program_has_the_same_blocks(tmp_path: Path) -> None:
    model = networks.Tokens(networks.PreNorm).eval()
    exported = torch.export.export(model, networks.images())
    torch.export.save(exported, tmp_path / "model.pt2")
    loaded = from_exported(torch.export.load(tmp_path / "model.pt2"))
    assert [block.name for block in find_blocks(loaded)] == [f"blocks.{i}" for i in range(4)]


def test_without_metadata_the_names_of_parameters_tell(traced_of: Callable[[str], Traced]) -> None:
    bare = traced_of("pre-norm").program.copy()
    for node in bare.graph.nodes:
        node.meta.pop("nn_module_stack", None)
    assert [block.name for block in find_blocks(bare)] == [f"blocks.{i}" for i in range(4)]


@pytest.mark.parametrize(
    ("network", "block", "reason"),
    [
        ("resnet", "layer2.0", "8x16x16 goes in and 12x8x8 comes out"),
        ("outside", "blocks.1", "its residual addition is made outside of it"),
        ("leaky", "blocks.1", "2 of its values are read outside"),
    ],
)
def test_says_why_a_block_stays(network: str, block: str, reason: str, traced_of: Callable[[str], Traced]) -> None:
    traced = traced_of(network)
    assert reason in {each.name: each.reason for each in traced.blocks}[block]
    with pytest.raises(GraphError, match=reason):
        without_blocks(traced.program, [block])


def test_refuses_what_is_no_block_and_all_blocks(traced_of: Callable[[str], Traced]) -> None:
    traced = traced_of("pre-norm")
    with pytest.raises(GraphError, match=r"no residual block blocks\.7") as caught:
        without_blocks(traced.program, ["blocks.7"])
    assert "blocks." in str(caught.value.hint)
    with pytest.raises(GraphError, match="no block would be left"):
        without_blocks(traced.program, [block.name for block in traced.blocks])


def test_removing_nothing_changes_nothing(traced_of: Callable[[str], Traced]) -> None:
    traced = traced_of("pre-norm")
    same = without_blocks(traced.program, [])
    assert torch.equal(same(*traced.inputs), traced.program(*traced.inputs))


def test_the_program_itself_is_left_as_it_was(traced_of: Callable[[str], Traced]) -> None:
    traced = traced_of("resnet")
    before = traced.program(*traced.inputs)
    names = [node.name for node in traced.program.graph.nodes]
    without_blocks(traced.program, ["layer1.0"])
    assert [node.name for node in traced.program.graph.nodes] == names
    assert torch.equal(traced.program(*traced.inputs), before)


@pytest.mark.parametrize(
    ("name", "dim", "token"),
    [
        ("pre-norm", -1, True),
        ("post-norm", -1, True),
        ("res-post-norm", -1, False),
        ("mixer", -1, True),
        ("resnet", 1, False),
        ("convnext", 1, False),
        ("swin", -1, False),
    ],
)
def test_layout_of_the_stream(name: str, dim: int, token: bool, traced_of: Callable[[str], Traced]) -> None:
    traced = traced_of(name)
    assert {channel_dim(traced.program, block) for block in traced.blocks} == {dim}
    assert reads_class_token(traced.program, traced.blocks[-1]) is token
