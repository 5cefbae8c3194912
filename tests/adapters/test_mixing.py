"""Mixing adapters by hand: the network that they stand for, what they take over, where they do not fit."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from edgespa.adapters.base import Place
from edgespa.adapters.mixing import Mixing
from edgespa.adapters.splora import SPLoRA
from edgespa.errors import AdapterError

N, KEPT, RANK = 10, torch.tensor([0, 2, 3, 6, 7, 9]), 3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adapter_of(weight: Tensor, rank: int = RANK, seed: int = 5) -> Mixing:
    """Moved at random, so that everything in it counts."""
    adapter = Mixing.for_weight(weight, {"rank": rank}, torch.Generator().manual_seed(seed))
    assert isinstance(adapter, Mixing)
    with torch.no_grad():
        for index, parameter in enumerate(adapter.parameters()):
            parameter.add_(random(*parameter.shape, seed=seed + index).to(parameter.dtype) * 0.3)
    return adapter.to(weight.dtype)


@pytest.mark.parametrize("act", [torch.relu, nn.functional.silu, torch.sigmoid], ids=["relu", "silu", "sigmoid"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_it_is_the_network_with_a_compressor_and_a_decompressor(act: object, dtype: torch.dtype, limit: float) -> None:
    """Wn D act(BN2(C BN(W x))), drawn out as the paper has it, in its merged form."""
    first, second = random(N, 4, 3, 3).to(dtype), random(5, N, 3, 3, seed=1).to(dtype)
    norm, norm2 = (random(2, size, seed=seed).to(dtype) for size, seed in ((N, 2), (len(KEPT), 3)))
    x = random(2, 4, 8, 8, seed=4).to(dtype)
    writer, reader = adapter_of(first), adapter_of(second, seed=9)
    compress = torch.eye(N, dtype=dtype)[KEPT] + writer.compress.detach()[KEPT] @ writer.rows_in.detach()
    expand = torch.eye(N, dtype=dtype)[:, KEPT] + reader.columns_in.detach() @ reader.expand.detach()[:, KEPT]
    # BN's scale belongs into C: rows_in is that times g, and rows of the identity become those of the kept scales
    inner = compress @ torch.diag(1 / norm[0])
    between = torch.nn.functional.conv2d(x, first) * norm[0][:, None, None]
    between = torch.einsum("kn,bnhw->bkhw", inner, between)
    between = act(between * norm2[0][:, None, None] + norm2[1][:, None, None])  # type: ignore[operator]
    rows = torch.eye(5, dtype=dtype) + reader.compress.detach() @ reader.rows_in.detach()
    expected = nn.functional.conv2d(torch.einsum("nk,bkhw->bnhw", expand, between), second)
    expected = torch.einsum("on,bnhw->bohw", rows, expected)

    one = writer.sliced(0, KEPT).merged(first[KEPT])
    two = reader.sliced(1, KEPT).merged(second[:, KEPT])
    # the first weight mixes its input channels, too
    inputs = torch.eye(4, dtype=dtype) + writer.columns_in.detach() @ writer.expand.detach()
    plain = torch.einsum("kn,nmij,mz->kzij", compress, first, inputs)
    torch.testing.assert_close(one, plain, rtol=limit, atol=limit)
    again = torch.einsum("kn,nmij->kmij", compress, first)
    value = nn.functional.conv2d(x, again)
    value = act(value * norm2[0][:, None, None] + norm2[1][:, None, None])  # type: ignore[operator]
    found = nn.functional.conv2d(value, two)
    assert float((found - expected).abs().max() / expected.abs().max()) < limit


def test_filters_that_are_gone_go_on_being_mixed_and_learned_from() -> None:
    weight = random(N, 6)
    adapter = adapter_of(weight).sliced(0, KEPT).sliced(1, torch.tensor([1, 4]))
    assert adapter.delta().shape == (6, 2)
    adapter.delta().sum().backward()
    gone = torch.tensor([1, 4, 5, 8])
    assert adapter.rows_in.grad is not None
    assert adapter.columns_in.grad is not None
    assert bool((adapter.rows_in.grad[:, gone] != 0).all())
    assert bool((adapter.columns_in.grad[[0, 2, 3, 5]] != 0).all())
    other = weight.clone()
    other[1] += 1  # a filter that is gone
    moved = Mixing.from_tensors(adapter.tensors(), {}, (6, 2), Place(frozen=other))
    assert not torch.equal(moved(weight[KEPT][:, [1, 4]]), adapter(weight[KEPT][:, [1, 4]]))


def moments(activations: Tensor) -> Tensor:
    return activations.T @ activations


def outputs(adapter: Mixing, weight: Tensor, kept: Tensor, activations: Tensor) -> Tensor:
    return activations[:, kept] @ adapter.sliced(1, kept).merged(weight[:, kept]).T


def test_channels_that_others_say_are_taken_over_exactly() -> None:
    """Four channels are combinations of the six that stay, of rank 3; the adapter starts at the base."""
    kept = KEPT
    gone = torch.tensor([1, 4, 5, 8])
    activations = torch.zeros(5000, N, dtype=torch.float64)
    activations[:, kept] = random(5000, 6, seed=1)
    activations[:, gone] = activations[:, kept] @ random(6, 3, seed=2) @ random(3, 4, seed=3)
    wide = random(64, N)
    fresh = Mixing.for_weight(wide, {"rank": 3}, torch.Generator().manual_seed(0))
    assert isinstance(fresh, Mixing)
    with torch.no_grad():
        fresh.expand.zero_()
        fresh.compress.zero_()
    whole = activations @ wide.T
    cut = outputs(fresh, wide, kept, activations)
    taken = outputs(fresh.absorbed(kept, moments(activations), len(activations)), wide, kept, activations)
    assert float((cut - whole).norm() / whole.norm()) > 0.3
    assert float((taken - whole).norm() / whole.norm()) < 1e-3  # the moments are shrunk a little


def test_what_is_taken_over_grows_with_the_rank_and_twice_is_no_worse_than_nothing() -> None:
    weight = random(64, N)
    mix = random(N, N, seed=3)
    activations = torch.relu(random(5000, N, seed=1) @ (mix @ mix.T + torch.eye(N)))
    errors = []
    for rank in (1, 2, 4):
        adapter = adapter_of(weight, rank)
        whole = activations @ adapter.merged(weight).T
        plain = outputs(adapter, weight, KEPT, activations)
        taken = outputs(adapter.absorbed(KEPT, moments(activations), 5000), weight, KEPT, activations)
        errors.append(float((taken - whole).norm() / (plain - whole).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8
    adapter = adapter_of(weight, 4)
    whole = activations @ adapter.merged(weight).T
    half = torch.tensor([0, 2, 3, 5, 6, 7, 9])
    once = adapter.absorbed(half, moments(activations), 5000).sliced(1, half)
    inside = torch.tensor([0, 1, 2, 4, 5, 6])  # of those seven, KEPT
    twice = once.absorbed(inside, moments(activations[:, half]), 5000).sliced(1, inside)
    found = activations[:, KEPT] @ twice.merged(weight[:, KEPT]).T
    assert float((found - whole).norm()) < float((outputs(adapter, weight, KEPT, activations) - whole).norm())


def test_nothing_is_taken_over_from_channels_that_are_dead_or_where_none_goes() -> None:
    adapter = adapter_of(random(64, N))
    assert adapter.absorbed(torch.arange(N), torch.eye(N, dtype=torch.float64), 9) is adapter
    assert adapter.absorbed(KEPT, torch.zeros(N, N, dtype=torch.float64), 9) is adapter
    dead = torch.diag(torch.tensor([1.0, 0, 0, 1, 1, 1, 0, 1, 1, 1], dtype=torch.float64))
    assert bool(torch.isfinite(adapter.absorbed(KEPT, dead, 9).delta()).all())


@pytest.mark.parametrize(
    ("shape", "place", "words"),
    [
        ((12, 1, 3, 3), Place("conv", groups=12), "depthwise"),
        ((24, 12, 3, 3), Place("conv", groups=2), "a filter of a group"),
        ((24, 12, 3, 3), Place("conv_transpose", 1, 0), "conv_transpose"),
        ((24, 12), Place("embedding", 1, 0), "embedding"),
        ((24, 12), Place("matmul", 1, 0), "matmul"),
    ],
)
def test_where_filters_cannot_be_mixed_there_is_a_splora_adapter(
    shape: tuple[int, ...], place: Place, words: str
) -> None:
    weight = torch.randn(shape)
    why = Mixing.why_not(weight, place)
    assert why is not None
    assert words in why
    found = Mixing.for_weight(weight, {"rank": 2}, torch.Generator(), place)
    assert found is None if shape[1] == 1 else isinstance(found, SPLoRA)
    if found is not None:
        assert isinstance(Mixing.from_tensors(found.tensors(), {"rank": 2}, shape, place), SPLoRA)
    assert Mixing.why_not(torch.randn(24, 12), Place()) is None


def test_a_task_keeps_the_change_where_that_is_smaller() -> None:
    weight = random(32, 24)
    adapter = adapter_of(weight, 4)
    assert adapter.settled() is adapter
    narrow = adapter.sliced(0, torch.arange(3)).sliced(1, torch.arange(4))
    settled = narrow.settled()
    assert list(settled.tensors()) == ["change"]
    assert torch.equal(settled.delta(), narrow.delta())
    assert settled.settled() is settled
    again = Mixing.from_tensors(settled.tensors(), {}, (3, 4))
    assert torch.equal(again.sliced(0, torch.tensor([2])).sliced(1, torch.tensor([0, 3])).delta(),
                       narrow.delta()[2:, [0, 3]])  # fmt: skip


def test_factors_that_do_not_fit_are_refused() -> None:
    weight = random(32, 24)
    good = adapter_of(weight).sliced(0, torch.arange(5)).tensors()
    assert isinstance(Mixing.from_tensors(good, {}, (5, 24), Place(frozen=weight)), Mixing)
    for name in good:
        with pytest.raises(AdapterError, match=f"needs the tensor '{name}'"):
            Mixing.from_tensors({key: each for key, each in good.items() if key != name}, {}, (5, 24))
    wrong = {
        "compress": torch.zeros(6, 3), "rows_in": torch.zeros(3, 31), "columns_in": torch.zeros(24, 2),
        "expand": torch.zeros(3, 23), "rows": torch.ones(32, dtype=torch.uint8), "columns": torch.ones(24),
    }  # fmt: skip
    for name, tensor in itertools.chain(wrong.items(), [("rows", good["rows"] * 2)]):
        with pytest.raises(AdapterError, match="do not fit"):
            Mixing.from_tensors({**good, name: tensor}, {}, (5, 24), Place(frozen=weight))
    with pytest.raises(AdapterError, match="do not fit"):
        Mixing.from_tensors(good, {}, (5, 24), Place(frozen=weight[:, 1:]))
    with pytest.raises(AdapterError, match="does not fit"):
        Mixing.from_tensors({"change": torch.zeros(4, 24)}, {}, (5, 24))
    with pytest.raises(AdapterError, match="whole weight"):
        Mixing.from_tensors(good, {}, (5, 24)).changed(weight[:5])
    with pytest.raises(AdapterError, match="at least 1"):
        Mixing.check_options({"rank": 0})
