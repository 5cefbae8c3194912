"""How an image becomes an input, as people read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgespa.config import Preprocess

_SCALED = {"0-1": "divided by 255", "-1-1": "divided by 127.5, less 1", "0-255": "taken as they are, 0 to 255"}
_CHANNELS = {("rgb", 3): "red, green, blue", ("bgr", 3): "blue, green, red", ("rgb", 1): "grey",
             ("rgb", 4): "red, green, blue, alpha", ("bgr", 4): "blue, green, red, alpha"}  # fmt: skip


def resizing(how: Preprocess) -> str:
    """How its size becomes the input's: ``resized until its shorter side is 256 (bicubic), of that the middle...``."""
    kind = how.interpolation + ("" if how.antialias else ", not antialiased")
    size = how.height, how.width
    to = how.resize_to or size
    middle = "" if to == size and how.resize == "stretch" else f", of that the middle {how.height} x {how.width}"
    if how.resize == "stretch":
        return f"resized to {to[0]} x {to[1]} ({kind}), its proportions not kept{middle}"
    if how.resize == "crop":
        until = f"its shorter side is {to[0]}" if to[0] == to[1] else f"it just covers {to[0]} x {to[1]}"
        return f"resized until {until} ({kind}){middle}"
    values = ", ".join(map(str, how.padding or ()))
    beside = f"the rest of {how.height} x {how.width} filled with {values}"
    middle = "" if to == size else middle
    return f"resized until it just fits into {to[0]} x {to[1]} ({kind}){middle}, {beside}"


def steps(how: Preprocess) -> Iterator[str]:
    """All of it, a phrase a step, in their order; each goes on from "an image is"."""
    yield "turned as its EXIF orientation says"
    if how.channels < 4:
        yield f"put on grey of {how.background} where it is transparent (255 is white)"
    yield resizing(how)
    named = _CHANNELS.get((how.channel_order, how.channels))
    yield f"given {how.channels} channel(s){f': {named}' if named else ''}"
    yield f"{_SCALED[how.scale]}, less mean {list(how.mean)}, divided by {list(how.std)}"
