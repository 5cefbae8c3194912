"""The widths that lose least within a time: beside all that there are, on networks small enough to try them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from edgespa.selection.knapsack import fastest, knapsack

Arrays = dict[tuple[str, ...], NDArray[np.float64]]


class Told:
    """Times as arrays over the places of widths."""

    def __init__(self, arrays: Arrays, names: list[str]) -> None:
        self.arrays = arrays
        self.neighbours = {
            name: tuple({other for key in arrays if name in key for other in key if other != name}) for name in names
        }

    def total(self, choice: Mapping[str, int]) -> float:
        return sum(float(own[tuple(choice[name] for name in key)]) for key, own in self.arrays.items())

    def along(self, name: str, choice: Mapping[str, int]) -> NDArray[np.float64]:
        found = [
            own[tuple(slice(None) if each == name else choice[each] for each in key)]
            for key, own in self.arrays.items()
            if name in key
        ]
        return np.sum(found, axis=0)


def some(seed: int, count: int = 5) -> tuple[dict[str, NDArray[np.float64]], Told]:
    """Groups in a row, or all around one, as in residual networks; a third of the layers have stairs that fall."""
    random = np.random.default_rng(seed)
    names = [f"g{index}" for index in range(count)]
    widths = {name: np.arange(1, random.integers(2, 6) + 1) for name in names}
    losses = {name: np.sort(random.random(len(own)))[::-1] * random.random() * 3 for name, own in widths.items()}
    losses = {name: own - own[-1] for name, own in losses.items()}
    arrays: Arrays = {(names[0],): widths[names[0]] * 0.3}
    around = seed % 2
    for index in range(count - 1):
        one, other = names[0] if around else names[index], names[index + 1]
        own = np.outer(widths[one], widths[other]) * random.random()
        if random.random() < 0.3:
            own += random.random(own.shape) * 0.5
        arrays[one, other] = own
    return losses, Told(arrays, names)


def least(losses: Mapping[str, NDArray[np.float64]], times: Told, limit: float) -> float:
    best = np.inf
    for places in itertools.product(*(range(len(own)) for own in losses.values())):
        choice = dict(zip(losses, places, strict=True))
        if times.total(choice) <= limit:
            best = min(best, sum(float(losses[name][place]) for name, place in choice.items()))
    return best


def test_nearly_always_the_best_that_there_is() -> None:
    gaps = []
    for seed in range(20):
        losses, times = some(seed)
        full = times.total({name: len(own) - 1 for name, own in losses.items()})
        for share in (0.8, 0.6, 0.4):
            best, found = least(losses, times, share * full), knapsack(losses, times, share * full)
            assert (found is None) == np.isinf(best)
            if found is None:
                continue
            assert found.time == pytest.approx(times.total(found.choice))
            assert found.time <= share * full
            assert found.loss == pytest.approx(sum(losses[name][place] for name, place in found.choice.items()))
            gaps.append(found.loss / best - 1 if best > 0 else found.loss)
    assert len(gaps) > 40
    assert np.mean(np.array(gaps) < 1e-9) > 0.9
    assert max(gaps) < 0.2


def test_what_fits_whole_stays_whole() -> None:
    losses, times = some(3)
    everything = {name: len(own) - 1 for name, own in losses.items()}
    found = knapsack(losses, times, times.total(everything))
    assert found is not None
    assert (found.choice, found.loss) == (everything, 0.0)


def test_less_than_the_fastest_is_none() -> None:
    losses, times = some(4)
    quickest = fastest(losses, times)
    every = itertools.product(*(range(len(own)) for own in losses.values()))
    assert quickest.time == pytest.approx(min(times.total(dict(zip(losses, each, strict=True))) for each in every))
    assert knapsack(losses, times, quickest.time * 0.999) is None
    found = knapsack(losses, times, quickest.time * 1.001)
    assert found is not None
    assert found.time <= quickest.time * 1.001


def test_a_width_that_costs_more_than_a_wider_one_is_not_taken() -> None:
    losses = {"a": np.array([0.9, 0.5, 0.0])}
    times = Told({("a",): np.array([1.0, 5.0, 4.0])}, ["a"])
    for limit, place in ((4.0, 2), (5.0, 2), (3.9, 0)):
        found = knapsack(losses, times, limit)
        assert found is not None
        assert found.choice == {"a": place}
