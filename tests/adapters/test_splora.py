"""SPLoRA by hand, and its laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespa.adapters.base import Adapter
from edgespa.adapters.lora import LoRA
from edgespa.adapters.splora import UP_BOUND, SPLoRA
from edgespa.errors import AdapterError

CENTRE = {"rank": 4, "kernel": "centre"}
FULL = {"rank": 4, "kernel": "full"}


def fresh(shape: tuple[int, ...], kernel: str = "centre", rank: int = 4) -> SPLoRA:
    adapter = SPLoRA.for_weight(torch.zeros(shape), {"rank": rank, "kernel": kernel}, torch.Generator().manual_seed(0))
    assert adapter is not None
    return adapter


def perturbed(adapter: SPLoRA, seed: int = 1) -> SPLoRA:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return adapter


def test_the_initial_values_are_those_of_the_paper() -> None:
    adapter = fresh((40, 50, 3, 3))
    assert adapter.up.shape == (40, 4)
    assert adapter.down.shape == (4, 50)
    assert 0.9 * UP_BOUND < adapter.up.abs().max() <= UP_BOUND
    bound = 50**-0.5  # torch's kaiming_uniform_ with a = sqrt(5), as for a linear layer
    assert 0.9 * bound < adapter.down.abs().max() <= bound
    assert adapter.delta().abs().max() < 4 * UP_BOUND * bound * 50


def test_initial_values_depend_on_the_generator_alone() -> None:
    torch.manual_seed(3)
    one = fresh((8, 8, 3, 3))
    torch.manual_seed(4)
    assert torch.equal(one.up, fresh((8, 8, 3, 3)).up)


def test_the_centre_tap_by_hand() -> None:
    up, down = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 5.0]])
    delta = SPLoRA(up, down, (2, 2, 3, 3), "centre").delta()
    assert delta[:, :, 1, 1].tolist() == [[3, 5], [6, 10]]
    assert delta.count_nonzero() == 4


@pytest.mark.parametrize(
    ("kernel", "tap"),
    [((1, 1), (0, 0)), ((2, 2), (1, 1)), ((4, 3), (2, 1)), ((1, 5), (0, 2)), ((5,), (2,)), ((3, 3, 3), (1, 1, 1))],
)
def test_the_tap_of_a_kernel_of_any_size(kernel: tuple[int, ...], tap: tuple[int, ...]) -> None:
    adapter = SPLoRA(torch.ones(2, 1), torch.ones(1, 3), (2, 3, *kernel), "centre")
    expected = torch.zeros(2, 3, *kernel)
    expected[(slice(None), slice(None), *tap)] = 1
    assert torch.equal(adapter.delta(), expected)


def test_the_full_kernel_by_hand() -> None:
    up, down = torch.tensor([[1.0], [-2.0]]), torch.arange(8.0).reshape(1, 8)
    delta = SPLoRA(up, down, (2, 2, 2, 2), "full").delta()
    assert torch.equal(delta[0], torch.arange(8.0).reshape(2, 2, 2))
    assert torch.equal(delta[1], -2 * delta[0])


def test_a_linear_weight_by_hand() -> None:
    up, down = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for kernel in ("centre", "full"):
        assert SPLoRA(up, down, (3, 2), kernel).delta().tolist() == [[1, 2], [3, 4], [4, 6]]


def test_the_rank_is_capped_where_the_factors_would_be_as_large() -> None:
    assert fresh((10, 10), rank=64).up.shape == (10, 4)  # 4 * 20 < 100 <= 5 * 20
    assert fresh((8, 8, 3, 3), "full", rank=64).size() < 8 * 8 * 9
    assert fresh((10, 10), rank=3).up.shape == (10, 3)


@pytest.mark.parametrize(
    "shape", [(16,), (2, 2), (24, 1, 3, 3), (1, 1)], ids=["a vector", "small", "depthwise", "one element"]
)
@pytest.mark.parametrize("options", [CENTRE, FULL], ids=["centre", "full"])
def test_where_an_adapter_does_not_pay_there_is_none(shape: tuple[int, ...], options: dict[str, object]) -> None:
    assert SPLoRA.for_weight(torch.zeros(shape), options, torch.Generator()) is None


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from(["centre", "full"]),
    st.sampled_from([(), (1, 1), (3, 3), (2, 4), (3,)]),
    st.lists(st.integers(0, 6), min_size=1, unique=True).map(sorted),
    st.lists(st.integers(0, 4), min_size=1, unique=True).map(sorted),
)
def test_slicing_the_adapter_is_slicing_its_delta(
    seed: int, kernel: str, space: tuple[int, ...], rows: list[int], columns: list[int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = 5 * (torch.Size(space).numel() if kernel == "full" else 1)
    adapter = SPLoRA(
        torch.randn(7, 2, generator=generator), torch.randn(2, count, generator=generator), (7, 5, *space), kernel
    )
    small = adapter.sliced(0, torch.tensor(rows)).sliced(1, torch.tensor(columns))
    other = adapter.sliced(1, torch.tensor(columns)).sliced(0, torch.tensor(rows))
    expected = adapter.delta()[rows][:, columns]
    torch.testing.assert_close(small.delta(), expected)
    assert torch.equal(small.delta(), other.delta())
    assert small.up.shape[1] == small.down.shape[0] == 2


def test_the_kernel_is_not_sliced() -> None:
    with pytest.raises(AdapterError, match="kernel dimension 2"):
        fresh((8, 8, 3, 3)).sliced(2, torch.tensor([0]))


def test_stored_tensors_make_the_same_adapter() -> None:
    adapter = perturbed(fresh((6, 8, 3, 3), "full"))
    again = SPLoRA.from_tensors(adapter.tensors(), FULL, (6, 8, 3, 3))
    assert torch.equal(adapter.delta(), again.delta())
    assert adapter.size() == 4 * (6 + 72)


UP, DOWN = torch.zeros(6, 2), torch.zeros(2, 8)


@pytest.mark.parametrize(
    ("tensors", "options", "shape"),
    [
        ({"up": UP}, CENTRE, (6, 8, 3, 3)),
        ({"up": UP, "down": DOWN}, CENTRE, (5, 8, 3, 3)),
        ({"up": UP, "down": DOWN}, CENTRE, (6, 9, 3, 3)),
        ({"up": UP, "down": DOWN}, FULL, (6, 8, 3, 3)),
        ({"up": UP, "down": DOWN}, CENTRE, (6,)),
        ({"up": UP, "down": torch.zeros(3, 8)}, CENTRE, (6, 8)),
        ({"up": torch.zeros(()), "down": DOWN}, CENTRE, (6, 8)),
        ({"up": UP.int(), "down": DOWN.int()}, CENTRE, (6, 8)),
        ({"up": UP.half(), "down": DOWN}, CENTRE, (6, 8)),
        ({"up": UP, "down": DOWN}, {"kernel": "corner"}, (6, 8)),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tensors: dict[str, torch.Tensor], options: dict[str, object], shape: tuple[int, ...]
) -> None:
    with pytest.raises(AdapterError):
        SPLoRA.from_tensors(tensors, options, shape)


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(AdapterError, match="'edge'") as caught:
        SPLoRA.for_weight(torch.zeros(8, 8), {"rank": 2, "kernel": "edge"}, torch.Generator())
    assert caught.value.hint == "choose one of: centre, full"


def test_a_half_precision_weight_is_merged_in_float32() -> None:
    weight = torch.full((2, 2), 2048.0, dtype=torch.float16)  # the next half after 2048 is 2050
    adapter: Adapter = SPLoRA(torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0, 1.5]]), (2, 2), "centre")
    merged = adapter.merged(weight)
    assert merged.dtype == torch.float16
    assert merged.tolist() == [[2048, 2050], [2048, 2048]]  # 2049 and 2049.5, rounded once
    fresh_one = SPLoRA.for_weight(torch.zeros(8, 8, dtype=torch.float16), CENTRE, torch.Generator().manual_seed(0))
    assert fresh_one is not None
    assert fresh_one.up.dtype == torch.float32
    assert fresh_one(torch.zeros(8, 8, dtype=torch.float16)).dtype == torch.float16


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5], ids=["nan", "inf", "beyond half precision"])
def test_a_merge_that_is_not_finite_is_refused(value: float) -> None:
    adapter = SPLoRA(torch.full((2, 1), value), torch.ones(1, 2), (2, 2), "centre")
    with pytest.raises(AdapterError, match="not finite"):
        adapter.merged(torch.zeros(2, 2, dtype=torch.float16))


@pytest.mark.parametrize("kernel", ["centre", "full"])
def test_what_is_kept_is_the_product_where_that_is_smaller(kernel: str) -> None:
    adapter = perturbed(fresh((16, 20, 3, 3), kernel, rank=8))
    assert adapter.settled() is adapter
    narrow = adapter.sliced(0, torch.tensor([3, 5, 9])).sliced(1, torch.tensor([0, 7]))
    kept = narrow.settled()
    assert kept.tensors().keys() == {"down"}
    assert kept.size() == 3 * 2 * (9 if kernel == "full" else 1) < narrow.size()
    assert torch.equal(kept.delta(), narrow.delta())
    assert kept.settled() is kept
    again = SPLoRA.from_tensors(kept.tensors(), {"rank": 8, "kernel": kernel}, (3, 2, 3, 3))
    assert torch.equal(again.delta(), narrow.delta())
    smaller = again.sliced(0, torch.tensor([2, 0])).sliced(1, torch.tensor([1]))
    assert torch.equal(smaller.delta(), narrow.delta()[[2, 0]][:, [1]])


def test_a_product_has_the_scale_of_its_factors_in_it() -> None:
    options = {"rank": 8, "alpha": 3.0}
    lora = LoRA(torch.randn(4, 8), torch.randn(8, 5), (4, 5), "full", LoRA.scale_of(options, 8))
    again = LoRA.from_tensors(lora.settled().tensors(), options, (4, 5))
    assert "up" not in again.tensors()
    assert torch.equal(again.delta(), lora.up @ lora.down * (3.0 / 8))


def test_a_product_of_another_shape_is_refused() -> None:
    for shape in ((3, 3), (2, 4), (4, 3, 2)):
        with pytest.raises(AdapterError, match="do not fit"):
            SPLoRA.from_tensors({"down": torch.zeros(3, 4)}, CENTRE, shape)
    with pytest.raises(AdapterError, match="needs the tensor 'down'"):
        SPLoRA.from_tensors({"up": torch.zeros(3, 4)}, CENTRE, (3, 4))
