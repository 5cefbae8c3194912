"""Ranges of int8 activations, by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from edgespa.quantisation.ranges import METHODS, VALUES_PER_IMAGE, Observed, entropy_limit, find_ranges


def observed(*arrays: np.ndarray) -> dict[str, Observed]:
    each = Observed()
    for array in arrays:
        each.add(array.astype(np.float32))
    return {"x": each}


def test_minmax_is_over_all_images_and_all_values() -> None:
    big = np.zeros((1, 3, 100, 100))
    big[0, 1, 77, 3] = 9.5  # one value that no sample would meet
    assert find_ranges(observed(np.array([-2.0, 1.0]), big), "minmax") == {"x": (-2.0, 9.5)}


def test_percentile_leaves_out_what_is_rare() -> None:
    values = np.arange(1000.0)
    low, high = find_ranges(observed(values), "percentile")["x"]
    assert low == pytest.approx(np.quantile(values, 0.0001))
    assert high == pytest.approx(np.quantile(values, 0.9999))


def test_samples_are_of_all_channels() -> None:
    """Channels last, and as many channels as the spacing of even samples would be: those would be of one channel."""
    image = np.broadcast_to(np.arange(16.0), (32, 32, 16))
    each = observed(image)["x"]
    assert len(each.values[0]) == VALUES_PER_IMAGE
    assert set(each.values[0]) == set(range(16))


def test_entropy_clips_an_outlier_and_keeps_an_even_spread() -> None:
    random = np.random.default_rng(0)
    normal = random.standard_normal(50_000).astype(np.float32)
    assert 3 < entropy_limit(np.abs(np.append(normal, np.float32(60)))) < 12
    even = random.uniform(0, 1, 50_000).astype(np.float32)
    assert entropy_limit(even) > 0.97


def divergence(counts: np.ndarray, kept: int) -> float:
    """As the slides have it, bin by bin."""
    wanted, levels = counts[:kept].copy(), 128
    wanted[-1] += counts[kept:].sum()
    spread = np.zeros(kept)
    for level in range(levels):
        bins = [j for j in range(kept) if j * levels // kept == level]
        full = [j for j in bins if counts[j] > 0]
        for j in full:
            spread[j] = counts[bins].sum() / len(full)
    if not spread.sum():
        return np.inf
    p, q = wanted / wanted.sum(), spread / spread.sum()
    return sum(p[j] * np.log(p[j] / max(q[j], 1e-9)) for j in range(kept) if p[j] > 0)


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "two heaps", "few", "one"])
def test_the_limit_diverges_least_of_all(kind: str) -> None:
    random = np.random.default_rng(3)
    values = {
        "normal": lambda: random.standard_normal(20_000),
        "heavy tails": lambda: random.standard_cauchy(5_000),
        "two heaps": lambda: np.r_[random.normal(1, 0.1, 5_000), random.normal(9, 0.1, 50)],
        "few": lambda: np.r_[random.standard_normal(40), 90.0, 100.0],
        "one": lambda: np.array([2.0, 2.0]),
    }[kind]()
    magnitudes = np.abs(values).astype(np.float32)
    counts, edges = np.histogram(magnitudes, bins=1024, range=(0.0, float(magnitudes.max())))
    tried = range(128, 1025, 8)
    wanted = [divergence(counts.astype(float), kept) for kept in tried]
    limit = entropy_limit(magnitudes)
    best = int(np.argmin(wanted))
    assert limit == pytest.approx(edges[tried[best]] if np.isfinite(wanted[best]) else magnitudes.max())


def test_zeros_do_not_count_for_the_entropy() -> None:
    values = np.abs(np.random.default_rng(0).standard_normal(20_000)).astype(np.float32)
    assert entropy_limit(np.append(values, np.zeros(40_000, np.float32))) == entropy_limit(values)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_a_constant_has_its_own_range(method: str, value: float) -> None:
    assert find_ranges(observed(np.full(10, value)), method)["x"] == (value, value)


@pytest.mark.parametrize("method", METHODS)
def test_a_range_never_goes_beyond_what_was_seen(method: str) -> None:
    values = np.random.default_rng(1).gamma(1.0, 2.0, 5000)
    low, high = find_ranges(observed(values), method)["x"]
    assert np.float32(values.min()) <= low < high <= np.float32(values.max())


@pytest.mark.parametrize("skewed", [False, True])
def test_mse_ends_where_a_search_of_all_pairs_ends(skewed: bool) -> None:
    random = np.random.default_rng(1)
    values = random.standard_normal(1000) ** 3 + (3.0 if skewed else 0.0)
    values[:100] = 0.0
    low, high = find_ranges(observed(values), "mse")["x"]

    def off(low: float, high: float) -> float:
        level = (high - low) / 255
        zero = np.round(-low / level)
        return float(np.square((np.clip(np.round(values / level) + zero, 0, 255) - zero) * level - values).mean())

    ends = np.linspace(0.02, 1, 50)
    best = min(off(a * values.min(), b * values.max()) for a in ends for b in ends)
    assert off(low, high) <= 1.05 * best
    assert off(low, high) < off(values.min(), values.max())


def test_mse_of_one_sign_and_of_nothing_but_zeros() -> None:
    low, high = find_ranges(observed(np.linspace(1, 2, 100)), "mse")["x"]
    assert (low, high) == (1.0, pytest.approx(2.0, rel=0.02))
    assert find_ranges(observed(np.zeros(10)), "mse") == {"x": (0.0, 0.0)}
