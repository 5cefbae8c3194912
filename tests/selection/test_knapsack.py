"""The widths that lose least within a time: beside all that there are, on networks small enough to try them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgespa.selection.knapsack import Terms, _Search, fastest, knapsack


def some(seed: int, count: int = 5) -> tuple[Terms, Terms]:
    """Groups in a row, or all around one, as in residual networks; a third of the layers have stairs that fall."""
    random = np.random.default_rng(seed)
    names = [f"g{index}" for index in range(count)]
    widths = {name: np.arange(1, random.integers(2, 6) + 1) for name in names}
    sizes = {name: len(own) for name, own in widths.items()}
    losses, times = Terms(sizes), Terms(sizes)
    for name, own in widths.items():
        values = np.sort(random.random(len(own)))[::-1] * random.random() * 3
        losses.add((name,), values - values[-1])
    times.add((names[0],), widths[names[0]] * 0.3)
    around = seed % 2
    for index in range(count - 1):
        one, other = names[0] if around else names[index], names[index + 1]
        own = np.outer(widths[one], widths[other]) * random.random()
        if random.random() < 0.3:
            own += random.random(own.shape) * 0.5
        times.add((one, other), own)
    return losses, times


def with_block(seed: int) -> tuple[Terms, Terms]:
    """The same, two of whose groups are in a block that may go, with all that it takes and loses."""
    random = np.random.default_rng(seed)
    sizes = {"stream": 3, "a": 3, "b": 3, "block": 2}
    losses, times = Terms(sizes), Terms(sizes)
    there = np.array([0.0, 1.0])
    losses.add(("block",), [random.random(), 0.0])
    losses.add(("stream",), [1.5, 0.4, 0.0])
    for name in ("a", "b"):
        values = np.sort(random.random(3))[::-1]
        losses.add((name, "block"), np.outer(values - values[-1], there))
    widths = np.arange(1, 4)
    for one, other in (("stream", "a"), ("a", "b"), ("b", "stream")):
        times.add((one, other, "block"), np.multiply.outer(np.outer(widths, widths), there) * random.random())
    times.add(("stream",), widths)
    return losses, times


def everything(losses: Terms) -> dict[str, int]:
    return {name: size - 1 for name, size in losses.sizes.items()}


def every(losses: Terms) -> Iterator[dict[str, int]]:
    for places in itertools.product(*(range(size) for size in losses.sizes.values())):
        yield dict(zip(losses.sizes, places, strict=True))


def least(losses: Terms, times: Terms, limit: float) -> float:
    return min((losses.total(each) for each in every(losses) if times.total(each) <= limit), default=np.inf)


@pytest.mark.parametrize("build", [some, with_block])
def test_nearly_always_the_best_that_there_is(build: Callable[[int], tuple[Terms, Terms]]) -> None:
    gaps = []
    for seed in range(20):
        losses, times = build(seed)
        full = times.total(everything(losses))
        for share in (0.8, 0.6, 0.4):
            best, found = least(losses, times, share * full), knapsack(losses, times, share * full)
            assert (found is None) == np.isinf(best)
            if found is None:
                continue
            assert found.time == pytest.approx(times.total(found.choice))
            assert found.time <= share * full
            assert found.loss == pytest.approx(losses.total(found.choice))
            gaps.append(found.loss / best - 1 if best > 0 else found.loss)
    assert len(gaps) > 40
    assert np.mean(np.array(gaps) < 1e-9) > 0.9
    assert np.mean(gaps) < 0.02


def test_what_takes_too_long_is_brought_below_by_what_loses_least() -> None:
    losses, times = Terms({"a": 3, "b": 3}), Terms({"a": 3, "b": 3})
    losses.add(("a",), [0.9, 0.1, 0.0])
    losses.add(("b",), [0.9, 0.5, 0.0])
    for name in ("a", "b"):
        times.add((name,), [1.0, 2.0, 3.0])
    search = _Search(losses, times)
    assert search.lowered(search.at({"a": 2, "b": 2}), 5.0).choice == {"a": 1, "b": 2}
    assert search.lowered(search.at({"a": 2, "b": 2}), 4.0).time <= 4.0
    assert search.lowered(search.at({"a": 0, "b": 0}), 1.0).choice == {"a": 0, "b": 0}  # nothing is faster


def test_what_fits_whole_stays_whole() -> None:
    losses, times = some(3)
    found = knapsack(losses, times, times.total(everything(losses)))
    assert found is not None
    assert (found.choice, found.loss) == (everything(losses), 0.0)


def test_less_than_the_fastest_is_none() -> None:
    losses, times = some(4)
    quickest = fastest(losses, times)
    assert quickest.time == pytest.approx(min(times.total(each) for each in every(losses)))
    assert knapsack(losses, times, quickest.time * 0.999) is None
    found = knapsack(losses, times, quickest.time * 1.001)
    assert found is not None
    assert found.time <= quickest.time * 1.001


def test_a_width_that_costs_more_than_a_wider_one_is_not_taken() -> None:
    losses, times = Terms({"a": 3}), Terms({"a": 3})
    losses.add(("a",), [0.9, 0.5, 0.0])
    times.add(("a",), [1.0, 5.0, 4.0])
    for limit, place in ((4.0, 2), (5.0, 2), (3.9, 0)):
        found = knapsack(losses, times, limit)
        assert found is not None
        assert found.choice == {"a": place}


def test_terms_are_summed_whatever_the_order_of_their_variables() -> None:
    terms = Terms({"a": 2, "b": 3}, 1.0)
    terms.add(("b", "a"), [[1, 2], [3, 4], [5, 6]])
    terms.add(("a", "b"), [[10], [20]])
    terms.add((), 0.5)
    assert terms.total({"a": 1, "b": 2}) == 1.5 + 6 + 20
    assert terms.along("a", {"a": 0, "b": 1}) == pytest.approx([13, 24])
    assert terms.around("a") == {"a", "b"}
