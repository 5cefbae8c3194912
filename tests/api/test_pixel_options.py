"""How an image becomes an input: who says it, what goes before what, and what cannot be."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgespa.api.options import DataOptions
from edgespa.config import PixelSettings, Preprocess
from edgespa.errors import ConfigError
from edgespa.models.recorded import Recorded
from edgespa.tasks.base import Base

LIBRARY = Recorded(
    (3, 8, 8),
    (0.4,) * 3,
    (0.2,) * 3,
    PixelSettings(resize="crop", resize_to=(10, 10), interpolation="bicubic", channel_order="bgr"),
)
PLAIN = {"height": 8, "width": 8, "channels": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3}


@pytest.fixture
def base(toy_base: Base) -> Base:
    """A model whose library records all there is."""
    return dataclasses.replace(toy_base, recorded=LIBRARY)


def asked(base: Base, recorded: Preprocess | None = None, **said: Any) -> dict[str, Any]:
    options = {name: said.pop(name) for name in ("mean", "std") if name in said}
    calibration = said.pop("calibration", None)
    found = DataOptions(**options, pixels=PixelSettings(**said)).preprocess(base, recorded, calibration=calibration)
    return found.model_dump()


def of_size(base: Base, sizes: tuple[int, ...]) -> Any:
    """As much of a model with inputs of another size as is looked at."""
    return SimpleNamespace(spec=base.spec, recorded=base.recorded, input_sizes=sizes, program=base.program)


class TestWhoSaysIt:
    def test_the_library(self, base: Base) -> None:
        assert asked(base) == {
            **PLAIN, "mean": (0.4,) * 3, "std": (0.2,) * 3, "background": 255, "resize": "crop", "resize_to": (10, 10),
            "interpolation": "bicubic", "channel_order": "bgr",
        }  # fmt: skip

    def test_nobody(self, toy_base: Base) -> None:
        """As in the first versions, also to those who read the file with them."""
        assert asked(toy_base) == {**PLAIN, "background": 255}

    def test_each_option_by_itself(self, base: Base) -> None:
        found = asked(base, interpolation="nearest", channel_order="rgb")
        assert (found["resize"], found["resize_to"], found["interpolation"]) == ("crop", (10, 10), "nearest")
        assert "channel_order" not in found
        assert found["mean"] == (0.4,) * 3

    def test_another_way_to_resize_begins_anew(self, base: Base) -> None:
        found = asked(base, resize="letterbox")
        assert "resize_to" not in found
        assert (found["padding"], found["interpolation"]) == ((114,), "bicubic")
        assert "resize_to" not in asked(base, resize="stretch")
        assert asked(base, resize="crop")["resize_to"] == (10, 10)  # it is the library's own

    def test_mean_std_and_scale_are_one(self, base: Base) -> None:
        """A mean of pixels in 0..1 says nothing of others."""
        found = asked(base, scale="-1-1")
        assert (found["scale"], found["mean"], found["std"]) == ("-1-1", (0.0,) * 3, (1.0,) * 3)
        assert found["resize"] == "crop"
        found = asked(base, Preprocess(**PLAIN, scale="0-255"), mean=(0.5,), std=(0.25,))  # type: ignore[arg-type]
        assert "scale" not in found

    def test_a_task(self, base: Base) -> None:
        """What a task file of an older version does not say it did not do."""
        old = Preprocess.parse({**PLAIN, "background": 255}, "task.spa")
        assert asked(base, old) == old.model_dump()
        assert asked(base, old, interpolation="bicubic") == {**old.model_dump(), "interpolation": "bicubic"}
        boxed = Preprocess(**PLAIN, resize="letterbox", padding=(1, 2, 3))  # type: ignore[arg-type]
        assert asked(base, boxed) == boxed.model_dump()
        assert asked(base, boxed, padding=9)["padding"] == (9,)

    def test_a_calibration_spec(self, toy_base: Base, base: Base, tmp_path: Path) -> None:
        path = tmp_path / "own.toml"
        path.write_text('source = "x"\nresize = "crop"\nresize_to = 12\nscale = "0-255"\nmean = [100]\nstd = [50]\n')
        found = asked(toy_base, calibration=str(path))
        assert (found["resize"], found["resize_to"]) == ("crop", (12, 12))
        assert (found["scale"], found["mean"], found["std"]) == ("0-255", (100.0,) * 3, (50.0,) * 3)
        assert asked(base, calibration=str(path)) == asked(base)

    def test_another_size_of_the_input(self, base: Base) -> None:
        larger = of_size(base, (1, 3, 20, 12))
        assert asked(larger)["resize_to"] == (25, 15)
        boxed = Preprocess(**PLAIN, resize="letterbox", resize_to=(12, 12))  # type: ignore[arg-type]
        assert asked(larger, boxed)["resize_to"] == (30, 18)

    def test_another_number_of_channels(self, base: Base) -> None:
        grey = of_size(base, (1, 1, 8, 8))
        found = asked(grey, mean=(0.1,), std=(1.0,))
        assert "channel_order" not in found
        assert found["resize"] == "crop"

    def test_the_size_of_the_input_need_not_be_said(self, base: Base) -> None:
        assert "resize_to" not in asked(base, resize_to=8)


class TestToldOnTheScreen:
    def told(self, caplog: pytest.LogCaptureFixture, base: Base, **said: Any) -> list[str]:
        caplog.set_level(logging.INFO, "edgespa")
        asked(base, **said)
        return [record.getMessage() for record in caplog.records]

    def test_the_library(self, caplog: pytest.LogCaptureFixture, base: Base) -> None:
        first, second = self.told(caplog, base)
        assert first.startswith("normalisation: mean 0.4,0.4,0.4 and std 0.2,0.2,0.2, as ")
        assert second == (
            "images: resized until its shorter side is 10 (bicubic), of that the middle 8 x 8, in the order blue, "
            f"green, red, as {base.spec} records (--resize and --interpolation give others)"
        )

    def test_with_something_else(self, caplog: pytest.LogCaptureFixture, base: Base) -> None:
        found = self.told(caplog, base, resize="letterbox", padding=0)
        assert f"as {base.spec} records but for --resize, --padding" in found[-1]

    def test_what_is_not_done_here(self, caplog: pytest.LogCaptureFixture, toy_base: Base) -> None:
        unlike = dataclasses.replace(toy_base, recorded=Recorded(None, otherwise="turned inside out"))
        assert self.told(caplog, unlike)[-1] == (
            f"{toy_base.spec} saw images that were turned inside out; here each is resized to 8 x 8 (bilinear), its "
            "proportions not kept: that may cost accuracy"
        )


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"padding": 3}, "padding is for resize letterbox, and resize is stretch"),
        ({"resize": "crop", "resize_to": 7}, "resize_to 7 x 7 is smaller than the input of 8 x 8: give padding"),
        ({"resize": "letterbox", "padding": (1, 2)}, "padding needs one value, or 3, one per channel"),
        ({"interpolation": "lanczos", "antialias": False}, "interpolation lanczos is always antialiased"),
        ({"resize": "crop", "resize_to": 1 << 30}, "an image of 3 x 1073741824 x 1073741824"),
        ({"mean": (123.7,) * 3, "std": (58.4,) * 3}, "too large for pixels in 0..1"),
        ({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": "0-255"}, "are those of ImageNet"),
    ],
)
def test_what_cannot_be(toy_base: Base, said: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked(toy_base, **said)
    assert says in caught.value.message
    assert caught.value.hint


def test_order_of_channels_there_are_not(toy_base: Base) -> None:
    grey = of_size(toy_base, (1, 1, 8, 8))
    with pytest.raises(ConfigError, match="the input has 1 channels"):
        asked(grey, channel_order="bgr")
