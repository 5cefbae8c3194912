"""What varies, however it is written, and what is said of what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from edgespa.errors import ConfigError
from edgespa.trials.space import Choices, Range, Space

KNOWN = ("density", "rank", "adapter", "lr", "round_to", "freeze_norms")


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("4,8, 16", Choices((4, 8, 16))),
        ([4, 8, 16], Choices((4, 8, 16))),
        ((0.5,), Choices((0.5,))),
        (8, Choices((8,))),
        ("splora,full", Choices(("splora", "full"))),
        ("true,false", Choices((True, False))),
        ("0.3..1", Range(0.3, 1.0)),
        ("0.3..1:0.1", Range(0.3, 1.0, 0.1)),
        ("1e-4..1e-2:log", Range(1e-4, 1e-2, None, True)),
        ("2..32:log", Range(2, 32, None, True)),
        ({"low": 2, "high": 8, "step": 2}, Range(2, 8, 2)),
        ({"low": 0.1, "high": 1, "log": True}, Range(0.1, 1.0, None, True)),
    ],
)
def test_a_dimension_is_read_from_every_form(said: Any, wanted: Choices | Range) -> None:
    found = Space.parse({"rank": said}, KNOWN).dimensions["rank"]
    assert found == wanted
    assert Space.parse({"rank": found.plain()}, KNOWN).dimensions["rank"] == wanted


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"densty": "0.3..1"}, r"space\.densty is not known\ndid you mean 'density'\?"),
        ({"zzz": 1}, "what may vary: adapter, density"),
        ({"rank": "4,4"}, "a choice is there twice"),
        ({"rank": []}, "0 choices"),
        ({"rank": "4,,8"}, "'' is no choice"),
        ({"rank": [float("nan")]}, "is no choice"),
        ({"rank": [[1]]}, "is no choice"),
        ({"density": "1..0.3"}, "from 1 to 0.3 there is nothing"),
        ({"density": "0.3..x"}, "high is 'x', and no number"),
        ({"density": "0.3..1:2"}, "a step of 2 between"),
        ({"density": "0.3..1:-0.1"}, "a step of -0.1 between"),
        ({"density": {"low": 0.3}}, "high is missing"),
        ({"density": {"low": 0.3, "high": 1, "stp": 0.1}}, "did you mean 'step'"),
        ({"density": {"low": 0.3, "high": 1, "log": 1}}, "log is '1'"),
        ({"density": {"low": 0.1, "high": 1, "log": True, "step": 0.1}}, "with log there are no steps"),
        ({"lr": "0..1:log"}, "0 has no logarithm"),
        ({"density": {"low": True, "high": 2}}, "low is 'True', and no number"),
        ({"round-to": 8, "round_to": 4}, "is said twice"),
    ],
)
def test_what_is_no_space_is_said(said: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Space.parse(said, KNOWN)


def test_a_dash_is_as_good_and_the_order_does_not_count() -> None:
    one = Space.parse({"round-to": "4,8", "density": "0.5,1"}, KNOWN)
    other = Space.parse({"density": "0.5,1", "round_to": [4, 8]}, KNOWN)
    assert one == other
    assert list(one.dimensions) == ["density", "round_to"]


def test_a_grid_has_every_point_once() -> None:
    space = Space.parse({"density": "0.3..0.6:0.1", "rank": "2..4", "adapter": "splora"}, KNOWN)
    points = list(space.grid())
    assert space.size == len(points) == 12
    assert {each["density"] for each in points} == {0.3, 0.4, 0.5, 0.6}  # without the noise of sums
    assert {each["rank"] for each in points} == {2, 3, 4}
    assert len({tuple(each.items()) for each in points}) == 12


def test_a_grid_has_no_place_for_any_number() -> None:
    for said in ("0.3..1", "2..32:log"):
        space = Space.parse({"lr": said}, KNOWN)
        assert space.size is None
        with pytest.raises(ConfigError, match=r"space\.lr: a grid has no place for any number"):
            list(space.grid())
    with pytest.raises(ConfigError, match="larger step"):
        list(Space.parse({"lr": "0..1:0.0001"}, KNOWN).grid())
