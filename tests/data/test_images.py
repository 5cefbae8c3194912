"""Parts of a data set: limits, splits, classes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespa.data import ImageData
from edgespa.data.arrays import ArraySource
from edgespa.errors import DataError


def _data(labels: list[int] | None, count: int = 0) -> ImageData:
    """Images whose one pixel is their number."""
    total = len(labels) if labels is not None else count
    pixels = np.arange(total, dtype=np.uint8).reshape(total, 1, 1, 1)
    names = [f"c{number}" for number in range(max(labels) + 1)] if labels else []
    return ImageData(ArraySource(pixels), None if labels is None else np.array(labels, dtype=np.int64), names, "made")


def _numbers(data: ImageData) -> list[int]:
    return [int(data.image(index)[0, 0, 0]) for index in range(len(data))]


LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@given(LABELS, st.data(), st.integers(0, 3))
def test_limit_is_as_equal_as_possible(labels: list[int], draw: st.DataObject, seed: int) -> None:
    n = draw.draw(st.integers(1, len(labels)))
    data = _data(labels)
    part = data.limit(n, seed)
    assert len(part) == n
    assert _numbers(part) == sorted(set(_numbers(part)))
    assert part.labels.tolist() == [labels[number] for number in _numbers(part)]
    had, got = np.bincount(labels, minlength=5), np.bincount(part.labels, minlength=5)
    # A class gives less than the fullest one minus one only if it has no more.
    assert all(got[k] == had[k] or got[k] >= got.max() - 1 for k in range(5))
    assert _numbers(data.limit(n, seed)) == _numbers(part)


@given(LABELS, st.integers(0, 3))
def test_smaller_limits_are_contained(labels: list[int], seed: int) -> None:
    data = _data(labels)
    parts = [set(_numbers(data.limit(n, seed))) for n in range(1, len(labels) + 1)]
    assert all(small < large for small, large in itertools.pairwise(parts))


def test_limit_depends_on_the_seed_and_on_nothing_else() -> None:
    data = _data([0, 1] * 40)
    np.random.seed(1)
    first = _numbers(data.limit(10, seed=1))
    assert first != _numbers(data.limit(10, seed=2))
    # Written down: a seed in an old record must go on meaning the same images.
    assert first == FIRST_TEN


FIRST_TEN = [0, 2, 5, 31, 34, 37, 62, 63, 66, 71]


@pytest.mark.parametrize(("n", "said"), [(0, "limit of 0"), (-1, "limit of -1"), (5, "but there are 4")])
def test_limit_out_of_range(n: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        _data([0, 1, 0, 1]).limit(n)


@given(LABELS, st.floats(0.05, 0.95), st.integers(0, 3))
def test_split_is_a_stratified_partition(labels: list[int], fraction: float, seed: int) -> None:
    data = _data(labels)
    try:
        rest, held = data.split(fraction, seed)
    except DataError:
        counts = np.bincount(labels)
        assert counts.max() == 1 or round(len(labels) * fraction) == 0
        return
    assert sorted(_numbers(rest) + _numbers(held)) == list(range(len(labels)))
    had, got = np.bincount(labels, minlength=5), np.bincount(held.labels, minlength=5)
    assert all(abs(got[k] - had[k] * fraction) <= 1 for k in range(5))
    assert all(got[k] < had[k] for k in range(5) if had[k])
    assert len(held) <= max(1, round(len(labels) * fraction))


def test_split_is_exact_where_it_can_be() -> None:
    rest, held = _data([0] * 20 + [1] * 40 + [2] * 12).split(0.25, seed=3)
    assert np.bincount(held.labels).tolist() == [5, 10, 3]
    assert (len(rest), len(held)) == (54, 18)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_split_out_of_range(fraction: float) -> None:
    with pytest.raises(DataError, match="fraction"):
        _data([0, 1, 0, 1]).split(fraction)


def test_split_of_too_few() -> None:
    with pytest.raises(DataError, match="too few"):
        _data([0, 1, 2]).split(0.5)


def test_unlabelled_parts() -> None:
    data = _data(None, 20)
    assert len(data.limit(5)) == 5
    rest, held = data.split(0.25)
    assert (len(rest), len(held)) == (15, 5)
    assert not held.labelled
    with pytest.raises(DataError, match="has no classes"):
        data.select_classes([0])


def test_select_classes_renumbers_in_the_order_given() -> None:
    data = _data([0, 1, 2, 2, 1, 0])
    part = data.select_classes(["c2", 0])
    assert part.classes == ("c2", "c0")
    assert part.labels.tolist() == [1, 0, 0, 1]
    assert _numbers(part) == [0, 2, 3, 5]
    assert part.name == "made (2 of 3 classes)"
    assert part.limit(2).name == "made (2 of 3 classes), 2 of 4"
    # And again, on the part.
    assert _numbers(part.select_classes(["c0"])) == [0, 5]
    assert data.labels.tolist() == [0, 1, 2, 2, 1, 0]


def test_select_classes_wrong() -> None:
    data = _data([0, 1, 2])
    with pytest.raises(DataError, match="no class 'c3'") as caught:
        data.select_classes(["c3"])
    assert "c" in str(caught.value.hint)
    for wrong in ([3], [-1]):
        with pytest.raises(DataError, match="no class"):
            data.select_classes(wrong)
    twice: list[str | int] = ["c1", 1]
    for wrong_list in ([], twice):
        with pytest.raises(DataError, match="classes"):
            data.select_classes(wrong_list)


def test_subset_keeps_order_and_checks_bounds() -> None:
    data = _data([0, 1, 2, 1]).subset([3, 1])
    assert _numbers(data) == [3, 1]
    assert _numbers(data.subset(np.array([1]))) == [1]
    for wrong in ([2], [-1]):
        with pytest.raises(DataError, match="outside"):
            data.subset(wrong)
    assert len(data.subset([])) == 0


def test_array_is_of_the_part() -> None:
    data = _data([0, 1, 2, 1]).subset([2, 0])
    assert data.array is not None
    assert data.array.reshape(-1).tolist() == [2, 0]
    assert data.image_shape == (1, 1, 1)
