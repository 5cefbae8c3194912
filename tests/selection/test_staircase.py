"""Time over widths: on made-up staircases whose truth is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespa.selection.staircase import Staircase, found_step, grid, spread

BLOCK = 16


def blocked(into: int, out: int) -> float:
    """A runtime that pads both widths to blocks of 16: a fixed cost, and so much for each pair of blocks."""
    return 5.0 + 3.0 * math.ceil(into / BLOCK) * math.ceil(out / BLOCK)


def made(
    time: Callable[..., float], *fulls: int, step: int = BLOCK, factors: tuple[dict[int, float], ...] = ()
) -> Staircase:
    grids = [grid(full, BLOCK, len(fulls)) for full in fulls]
    return Staircase.of(grids, {at: time(*at) for at in itertools.product(*grids)}, step, factors)


def test_what_is_measured_is_what_is_said() -> None:
    stairs = made(blocked, 96, 24)
    for at in itertools.product(grid(96, BLOCK, 2), grid(24, BLOCK, 2)):
        assert float(stairs(*at)) == blocked(*at)


@settings(max_examples=60, deadline=None)
@given(st.integers(33, 400), st.integers(33, 400), st.data())
def test_a_runtime_that_pads_is_foretold_at_every_width(into: int, out: int, data: st.DataObject) -> None:
    stairs = made(blocked, into, out)
    at = tuple(data.draw(st.integers(1, full // BLOCK * BLOCK)) for full in (into, out))
    if into % BLOCK == 0 and out % BLOCK == 0:
        assert float(stairs(*at)) == pytest.approx(blocked(*at), rel=1e-9)
    else:  # the last step of a whole that is no multiple of the block is shorter, and its line a little steeper
        assert float(stairs(*at)) == pytest.approx(blocked(*at), rel=0.5)


def test_widths_off_the_steps_cost_what_was_found_for_their_class() -> None:
    stairs = made(blocked, 96, 64, factors=({8: 1.0, 4: 1.5, 1: 7.0}, {}))
    assert float(stairs(72, 64)) == pytest.approx(blocked(80, 64))
    assert float(stairs(76, 64)) == pytest.approx(1.5 * blocked(80, 64))
    assert float(stairs(75, 64)) == pytest.approx(7.0 * blocked(80, 64))
    assert float(stairs(80, 60)) == pytest.approx(blocked(80, 64))


def test_without_steps_it_is_a_line_from_point_to_point() -> None:
    stairs = Staircase.of([(100, 400)], {(100,): 1.0, (400,): 4.0})
    assert [float(stairs(width)) for width in (100, 250, 400, 800, 50, 0)] == pytest.approx(
        [1.0, 2.5, 4.0, 8.0, 0.5, 0.0]
    )


def test_it_goes_over_arrays() -> None:
    stairs = made(blocked, 96, 64)
    into, out = np.array([16, 32, 96])[:, None], np.array([16, 64])[None, :]
    assert stairs(into, out).tolist() == [[blocked(a, b) for b in (16, 64)] for a in (16, 32, 96)]


def test_never_below_nothing() -> None:
    stairs = Staircase.of([(100, 200)], {(100,): 1.0, (200,): 9.0})
    assert float(stairs(20)) == 0.0


def test_a_point_that_was_not_measured_is_missed() -> None:
    with pytest.raises(KeyError):
        Staircase.of([(8, 16), (4,)], {(8, 4): 1.0})


@pytest.mark.parametrize(
    ("full", "axes", "widths"),
    [
        (24, 2, (8, 16, 24)),
        (16, 1, (8, 16)),
        (64, 1, (16, 32, 48, 64)),
        (144, 2, (48, 80, 144)),
        (1000, 2, (256, 512, 1000)),
        (3, 2, (1, 2, 3)),
        (1, 2, (1,)),
    ],
)
def test_grids_lie_on_steps_and_are_small(full: int, axes: int, widths: tuple[int, ...]) -> None:
    assert grid(full, BLOCK, axes) == widths


def test_what_is_touched_is_measured_at_the_same_sizes_for_all_networks() -> None:
    assert spread(1000, 70_000) == (256, 1024, 4096, 16384, 65536, 262144)
    assert spread(64, 64) == (64, 256)


@pytest.mark.parametrize("block", [4, 8, 16])
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_the_block_is_found_from_the_times(block: int, noise: float) -> None:
    random = np.random.default_rng(block)
    times = {
        less: (3 + math.ceil((96 - less) / block)) * (1 + noise * random.standard_normal()) for less in (0, 4, 8, 16)
    }
    assert found_step(times) == block


def test_widths_that_are_punished_are_no_steps() -> None:
    assert found_step({0: 100.0, 4: 782.0, 8: 130.0, 16: 90.0}) == 16
