"""Factors in fewer bytes: by hand, and that rounding once is rounding for good."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgespa.adapters.storage import STORES, decode, encode
from edgespa.errors import AdapterError

UP = "adapter/conv.weight/up"


def test_int8_by_hand() -> None:
    values = torch.tensor([[127.0, -1.0], [63.4, 0.5], [0.0, 0.25]])  # columns are fewer: a scale each
    encoded = encode({UP: values, "tensor/fc.weight": values}, "int8")
    assert set(encoded) == {UP, f"scale/{UP}", "tensor/fc.weight"}
    assert encoded[f"scale/{UP}"].tolist() == pytest.approx([1, 1 / 127], rel=4e-5)
    assert encoded[UP].tolist() == [[127, -127], [63, 63], [0, 32]]
    assert torch.equal(encoded["tensor/fc.weight"], values)
    assert decode(encoded)[UP].flatten().tolist() == pytest.approx([127, -1, 63, 63 / 127, 0, 32 / 127], rel=4e-5)


def test_half_precision_by_hand() -> None:
    encoded = encode({UP: torch.tensor([[2049.0, 0.1]])}, "fp16")
    assert encoded[UP].dtype == torch.float16
    assert decode(encoded)[UP].tolist() == [[2048.0, pytest.approx(0.1, rel=1e-3)]]
    assert decode(encoded)[UP].dtype == torch.float32


def test_bytes() -> None:
    flat = {UP: torch.randn(64, 8), "adapter/conv.weight/down": torch.randn(8, 128)}
    sizes = {store: sum(t.nbytes for t in encode(flat, store).values()) for store in STORES}
    elements = 64 * 8 + 8 * 128
    assert sizes == {"fp32": 4 * elements, "fp16": 2 * elements, "int8": elements + 2 * 8 * 4}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from(STORES), st.floats(-20, 20), st.sampled_from([(5, 3), (3, 5), (2, 2, 2, 1)])
)
def test_what_was_rounded_once_stays(seed: int, store: str, power: float, shape: tuple[int, ...]) -> None:
    limit = 60_000 / 6 if store == "fp16" else 2.0**20
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * min(2.0**power, limit)
    once = decode(encode({UP: values}, store))
    again = encode(once, store)
    first = encode({UP: values}, store)
    assert all(torch.equal(again[key], tensor) for key, tensor in first.items())
    assert torch.equal(decode(again)[UP], once[UP])
    if store == "int8":
        assert (once[UP] - values).abs().max() <= values.abs().max() / 127 * 0.51


def test_zeros_and_integers_and_vectors_stay() -> None:
    flat = {UP: torch.zeros(3, 2), "adapter/a/rows": torch.arange(3), "adapter/a/bias": torch.ones(3)}
    for store in STORES:
        back = decode(encode(flat, store))
        assert all(torch.equal(back[key], tensor) for key, tensor in flat.items())


@pytest.mark.parametrize(
    ("value", "store"), [(1e6, "fp16"), (float("nan"), "int8"), (float("inf"), "int8"), (1.0, "int4")]
)
def test_what_does_not_fit_is_refused(value: float, store: str) -> None:
    with pytest.raises(AdapterError):
        encode({UP: torch.full((2, 2), value)}, store)


@pytest.mark.parametrize(
    "flat",
    [
        {UP: torch.zeros(2, 3, dtype=torch.int8), f"scale/{UP}": torch.ones(3)},
        {UP: torch.zeros(2, 3), f"scale/{UP}": torch.ones(2)},
        {UP: torch.zeros(2, dtype=torch.int8), f"scale/{UP}": torch.ones(2)},
        {f"scale/{UP}": torch.ones(2)},
    ],
)
def test_scales_that_do_not_fit_are_refused(flat: dict[str, Tensor]) -> None:
    with pytest.raises(AdapterError):
        decode(flat)
