"""What must stay in float, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgespa.quantisation.fitness import Part, Shown, unfit
from edgespa.quantisation.ranges import Observed
from edgespa.quantisation.spread import MOST_ELEMENTS, Spread


def held(*arrays: object) -> Observed:
    each = Observed.of(spread=True)
    for array in arrays:
        each.add(np.asarray(array, np.float32))
    return each


def wide(width: float) -> Observed:
    return held(np.linspace(0, width, 256)[None], np.linspace(width, 0, 256)[None])


def spread_of(*arrays: object) -> float | None:
    each = Spread()
    for array in arrays:
        each.add(np.asarray(array, np.float32))
    return each.least()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, np.finfo(np.float32).min])
def test_what_stands_for_infinity_has_no_range_and_no_int8(value: float) -> None:
    padded = held([[value, -1.0, 2.0]])
    assert (padded.low, padded.high, padded.finite) == (-1.0, 2.0, False)
    seen = {"x": padded, "y": wide(2)}
    parts = [Part("reads", ("x",), ("y",)), Part("writes", ("y",), ("x",)), Part("neither", ("y",), ("y",))]
    assert list(unfit(parts, seen)) == ["reads", "writes"]


def test_parts_of_unlike_width_are_not_joined() -> None:
    seen = {"boxes": wide(640), "scores": wide(1), "alike": wide(200), "never": held([[0.0]]), "all": wide(640)}
    parts = [
        Part("boxes and scores", ("boxes", "scores"), ("all",), joins=True),
        Part("boxes and alike", ("boxes", "alike", "never"), ("all",), joins=True),
        Part("nothing with nothing", ("never", "never"), ("never",), joins=True),
        Part("layer", ("scores",), ("all",)),
        Part("scores beside a large constant", ("scores",), ("all",), joins=True),
    ]
    assert list(unfit(parts, seen)) == ["boxes and scores", "scores beside a large constant"]
    assert "640 times as wide" in unfit(parts, seen)["boxes and scores"]


def test_a_component_that_moves_less_than_a_level_needs_float() -> None:
    pressure = held([[1013.0]], [[1014.0]], [[1012.0]])
    weather = held([[1000.0, 0.1]], [[500.0, 0.3]], [[0.0, 0.2]])
    still = held([[1000.0, 7.0]], [[500.0, 7.0]], [[0.0, 7.0]])  # a constant is nothing that could be lost
    alike = held([[0.0, 900.0]], [[500.0, 200.0]], [[1000.0, 10.0]])
    seen = {"pressure": pressure, "weather": weather, "still": still, "sum": alike}
    found = unfit([Part(name, (), (name,), shown=(name,)) for name in seen], seen)
    assert sorted(found) == ["pressure", "weather"]
    assert found["pressure"] == "a component of the output moves by 0.82 between images, and a level of int8 is 4"
    assert not unfit([Part("inside", (), ("pressure",))], seen)
    assert not unfit([Part("one of a sum", (), ("weather",), shown=("sum",))], seen)


def test_the_component_that_moves_least_is_found_along_any_dimension() -> None:
    random = np.random.default_rng(0)
    moving = random.normal(size=(200, 5, 8)) * np.array([1, 1, 0.01, 1, 1])[:, None] + 300
    assert spread_of(moving) == pytest.approx(0.01, rel=0.2)
    assert spread_of(moving.transpose(0, 2, 1)) == pytest.approx(0.01, rel=0.2)
    assert spread_of(*moving[:, None]) == spread_of(moving)
    assert spread_of(moving[:1]) is None
    assert spread_of(np.ones((4, 3))) is None


def test_large_activations_are_seen_in_part() -> None:
    large = np.random.default_rng(0).normal(size=(4, 3, 1024, 256)).astype(np.float32)
    each = Spread()
    each.add(large)
    assert each._sum.size <= MOST_ELEMENTS
    assert each.least() == pytest.approx(0.8, rel=0.2)


def test_what_shows_a_loss() -> None:
    """``out = scale(first + second)``, ``first = layer(inner)``, and second goes to an output of its own as well."""
    shown = Shown(["out", "second"])
    shown.passed(["sum"], ["out"], sums=False)
    shown.passed(["first", "second"], ["sum"], sums=True)
    shown.passed(["other"], ["unrelated"], sums=True)
    assert shown.of(["sum"]) == ("sum",)
    assert shown.of(["first"]) == ("sum",)
    assert shown.of(["second"]) == ("second",)
    assert shown.of(["inner"]) == shown.of(["other"]) == ()
    shown.passed(["a", "b"], ["first"], sums=True)
    assert shown.of(["a"]) == ("sum",)  # the last one


def test_what_is_zero_for_all_images_is_joined_with_its_like() -> None:
    parts = [Part("nothing", ("never", "never"), ("never",), joins=True), Part("unseen", ("x",), ("y",), joins=True)]
    assert unfit(parts, {"never": held([[0.0]])}) == {}
