"""What is written of how an image becomes an input, and read again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgespa.config import PixelSettings, Preprocess
from edgespa.errors import ConfigError
from edgespa.pixels.picture import INTERPOLATIONS, SAMPLED
from edgespa.pixels.values import SCALINGS
from edgespa.pixels.words import steps

OLD = {"height": 8, "width": 6, "channels": 3, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "background": 255}

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def all_that_can_be(draw: st.DrawFn) -> Preprocess:
    said: dict[str, Any] = {"resize": draw(st.sampled_from(["stretch", "crop", "letterbox"]))}
    said["resize_to"] = draw(st.none() | st.integers(8, 20) | st.tuples(st.integers(8, 20), st.integers(6, 20)))
    said["antialias"] = draw(st.booleans())
    said["interpolation"] = draw(st.sampled_from(INTERPOLATIONS if said["antialias"] else SAMPLED))
    said["scale"] = draw(st.sampled_from(sorted(SCALINGS)))
    said["channel_order"] = draw(st.sampled_from(["rgb", "bgr"]))
    if said["resize"] == "letterbox":
        said["padding"] = draw(st.none() | st.integers(0, 255) | st.tuples(*[st.integers(0, 255)] * 3))
    return Preprocess.parse({**OLD, **said}, "x")


@patient
@given(all_that_can_be())
def test_it_is_read_as_it_was_written(how: Preprocess) -> None:
    assert Preprocess.model_validate_json(how.model_dump_json(), strict=True) == how
    assert Preprocess.parse(json.loads(json.dumps(how.model_dump(mode="json"))), "x") == how
    assert len(list(steps(how))) == 5


def test_an_old_file_is_read_and_written_as_it_was() -> None:
    """Its digest, a seal, and what an older edgespa reads stay what they are."""
    found = Preprocess.parse(OLD, "task.spa")
    assert (found.resize, found.interpolation, found.scale, found.channel_order) == (
        "stretch",
        "bilinear",
        "0-1",
        "rgb",
    )
    assert json.loads(found.model_dump_json()) == OLD


def test_the_settings_are_those_of_a_preprocessing() -> None:
    assert set(PixelSettings.model_fields) < set(Preprocess.model_fields)


@pytest.mark.parametrize("to", [8, [8], [8, 8], (8, 8)])
def test_one_side_is_both(to: Any) -> None:
    assert Preprocess.parse({**OLD, "resize": "crop", "resize_to": to}, "x").resize_to == (8, 8)


def test_a_letterbox_says_what_is_beside_it() -> None:
    assert Preprocess.parse({**OLD, "resize": "letterbox"}, "x").model_dump()["padding"] == (114,)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"resise": "crop"}, "resise"),
        ({"resize": "cropped"}, "'stretch', 'crop' or 'letterbox'"),
        ({"resize": "crop", "resize_to": [8, 5]}, "smaller than the input of 8 x 6: give padding"),
        ({"resize_to": [8, 6, 3]}, "resize_to"),
        ({"resize_to": -1}, "greater than 0"),
        ({"padding": 0}, "padding is for resize letterbox"),
        ({"resize": "letterbox", "padding": []}, "at least 1"),
        ({"resize": "letterbox", "padding": [1, 2]}, "padding needs one value, or 3"),
        ({"resize": "letterbox", "padding": 1.5}, "valid tuple"),
        ({"interpolation": "box", "antialias": False}, "box is always antialiased"),
        ({"scale": "0-2"}, "'0-1', '-1-1' or '0-255'"),
        ({"channels": 1, "mean": [0], "std": [1], "channel_order": "bgr"}, "of colour images"),
        ({"resize": "letterbox", "resize_to": 1 << 20}, "an image of 3 x 1048576 x 1048576"),
    ],
)
def test_what_cannot_be(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Preprocess.parse({**OLD, **change}, "x")
    assert says in f"{caught.value.message} {caught.value.hint}"
