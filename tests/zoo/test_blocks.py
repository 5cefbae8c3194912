"""Removing blocks = replacing their modules by the identity, over published architectures with random weights."""

from __future__ import annotations

import copy
import gc
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgespa.graph.blocks import Bypassed, find_blocks, without_blocks
from edgespa.graph.trace import trace
from edgespa.models.interface import output_tensors

networks = sys.modules["edgespa_zoo_networks"]

# network -> blocks of each stage, and how many of all cannot be removed
CASES: dict[str, tuple[list[int], int]] = {
    "torchvision:resnet18": ([2, 2, 2, 2], 3),
    "timm:deit_tiny_distilled_patch16_224": ([12], 0),
    "transformers:ViTForImageClassification": ([3], 0),
}
MORE: dict[str, tuple[list[int], int]] = {
    "transformers:SwinForImageClassification": ([1, 2, 2, 1], 0),
    "timm:vit_tiny_patch16_224": ([12], 0),
    "timm:swin_tiny_patch4_window7_224": ([2, 2, 6, 2], 0),
    "timm:mixer_s16_224": ([8], 0),
    "torchvision:convnext_tiny": ([3, 3, 9, 3], 0),
    "transformers:DeiTForImageClassification": ([3], 0),
    "transformers:Swinv2ForImageClassification": ([1, 2, 2, 1], 0),
    "torchvision:swin_v2_t": ([2, 2, 6, 2], 0),
    "torchvision:vit_b_32": ([12], 0),
    "timm:cait_xxs24_224": ([24], 0),
    "timm:beit_base_patch16_224": ([12], 0),
    "timm:convmixer_768_32": ([32], 0),
    "timm:swinv2_cr_tiny_224": ([2, 2, 6, 2], 0),
    "timm:deit3_small_patch16_224": ([12], 0),
}


class Same(nn.Module):
    """The identity, which gives as many values as the module in whose place it stands."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Any:
        return (x,) * self.values if self.values else x


def filled(model: nn.Module) -> nn.Module:
    """Random weights of unit gain, and norms near one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or (name in dict(model.named_buffers()) and "running" not in name):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.dim() > 1:
                tensor.copy_(noise * tensor[0].numel() ** -0.5)
            else:
                tensor.copy_(0.1 * noise + (0.0 if "bias" in name or "mean" in name else 1.0))
    return model


def values_of(model: nn.Module, inputs: tuple[Tensor, ...], names: list[str]) -> dict[str, int]:
    """How many values the named modules give, 0 for a tensor by itself."""
    found: dict[str, int] = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, out, name=name: found.__setitem__(name, len(out) if isinstance(out, tuple) else 0)
        )
    model(*inputs)
    return found


def tensors_of(out: Any) -> list[Tensor]:
    values = out.values() if hasattr(out, "keys") else out
    return [each for each in output_tensors(list(values) if values is not out else out) if isinstance(each, Tensor)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.more) for name in MORE)])
def test_removing_is_replacing_by_the_identity(name: str) -> None:
    library = name.partition(":")[0]
    if name not in networks.names(library) and library != "transformers":
        pytest.skip("ZOO ABSENT: torchvision and timm are not installed; make zoo")
    gc.collect()
    network = networks.network(name)
    model = filled(network.take().eval())
    program = trace(model, network.inputs)
    blocks = find_blocks(program)
    counts, stay = {**CASES, **MORE}[name]
    stages: dict[str, int] = {}
    for block in blocks:
        stages[block.stage] = stages.get(block.stage, 0) + 1
    assert [*stages.values()] == counts
    assert sum(not block.removable for block in blocks) == stay

    chosen = [block for block in blocks if block.removable][1::2]
    names = [block.name for block in chosen]
    cut = without_blocks(program, names)
    left = [tensor for tensor, _ in cut.tensors() if tensor.startswith(tuple(f"{block}." for block in names))]
    assert not left
    generator = torch.Generator().manual_seed(1)
    inputs = tuple(torch.randn(2, *t.shape[1:], generator=generator) for t in network.inputs)
    inputs = inputs if program.dynamic_batch else tuple(x[:1] for x in inputs)
    with torch.no_grad():
        got, whole = tensors_of(cut(*inputs)), tensors_of(program(*inputs))
        bypassed = tensors_of(Bypassed(program, chosen).run(*inputs))
        literal = copy.deepcopy(model)
        for block, values in values_of(copy.deepcopy(model), inputs, names).items():
            owner, _, leaf = block.rpartition(".")
            setattr(literal.get_submodule(owner), leaf, Same(values))
        expected = tensors_of(literal(*inputs))
    assert all(torch.equal(a, b) for a, b in zip(got, bypassed, strict=True))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))
    assert not torch.allclose(got[0], whole[0], rtol=1e-3)
