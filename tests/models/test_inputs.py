"""Sizes of inputs: what is understood, and what the refusal says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespa.errors import ConfigError
from edgespa.models.inputs import TYPES, InputSize, as_inputs


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=6), st.sampled_from([None, *TYPES]))
def test_what_is_written_is_read_back(sizes: list[int], dtype: str | None) -> None:
    size = InputSize(tuple(sizes), dtype)
    assert InputSize.parse(str(size)) == size
    assert InputSize.parse(str(size).replace(",", "x")) == size
    assert InputSize.parse(f" ({str(size).partition(':')[0]}) ") == InputSize(tuple(sizes))


def test_one_number_per_sample_is_a_batch_alone() -> None:
    assert InputSize.parse("1:int64") == InputSize((1,), "int64")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,3,a", "'a' is not a whole number"),
        ("1,,3", "a size is missing"),
        ("1,0", "a size of 0"),
        ("1,-3", "'-3' is not a whole number"),
        ("1,²", "is not a whole number"),
        ("32", "one size only"),
        ("1,16:int65", "'int65'"),
        ("1,16:", "is not an element type"),
        (":int64", "a size is missing"),
    ],
)
def test_refusals(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        InputSize.parse(text)
    assert text in caught.value.message
    assert caught.value.hint


def test_forms() -> None:
    one, two = InputSize((1, 3)), InputSize((1, 4), "int64")
    assert as_inputs(None) == as_inputs(()) == ()
    assert as_inputs((1, 3)) == as_inputs((one,)) == (one,)
    assert as_inputs((one, two)) == (one, two)
