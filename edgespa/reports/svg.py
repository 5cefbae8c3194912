"""A small writer of SVG in one fixed-width font, so that the room which text takes is known without a browser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape

FONT = "DejaVu Sans Mono, Menlo, Consolas, monospace"
SIZE = 11
"""Height of letters, px."""
CHAR = 6.7
"""Width of a letter at `SIZE`, px: 0.602 em in the widest of the fonts."""


class Canvas:
    """Elements, one after the other; lengths in px, y downwards."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, fill: str, stroke: str = "none") -> None:
        """A rectangle, by its upper left corner."""
        self._add("rect", x=x, y=y, width=width, height=height, fill=fill, stroke=stroke)

    def line(self, x1: float, y1: float, x2: float, y2: float, stroke: str, width: float = 1) -> None:
        """A straight line."""
        self._add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, stroke_width=width)

    def dot(self, x: float, y: float, radius: float, fill: str, stroke: str) -> None:
        """A circle."""
        self._add("circle", cx=x, cy=y, r=radius, fill=fill, stroke=stroke)

    def text(
        self, x: float, y: float, text: str, *, anchor: str = "start", fill: str = "#222222", bold: bool = False
    ) -> None:
        """A line of text; y is the base line. Runs of spaces stay.

        Args:
            x: Where it starts, is centred or ends, as ``anchor`` says.
            y: Of the base line.
            text: Any text.
            anchor: ``start``, ``middle`` or ``end``.
            fill: Its colour.
            bold: In a heavier weight, of the same width.
        """
        extra = {"font_weight": "bold"} if bold else {}
        self._add("text", text.replace(" ", "\N{NO-BREAK SPACE}"), x=x, y=y, text_anchor=anchor, fill=fill, **extra)

    @contextmanager
    def titled(self, title: str) -> Iterator[None]:
        """What is drawn within shows a title under the pointer."""
        self._parts.append(f"<g><title>{clean(title)}</title>")
        yield
        self._parts.append("</g>")

    def document(self, width: float, height: float, title: str) -> str:
        """The whole file, on white.

        Args:
            width: Of the drawing.
            height: Of the drawing.
            title: Its name, for those who cannot see it.
        """
        size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
        head = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" {size} '
            f'font-family="{FONT}" font-size="{SIZE}" role="img">\n<title>{clean(title)}</title>\n'
        )
        ground = f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>'
        return head + "\n".join([ground, *self._parts]) + "\n</svg>\n"

    def _add(self, name: str, text: str | None = None, **attributes: float | str) -> None:
        said = "".join(
            f' {key.replace("_", "-")}="{_number(value) if isinstance(value, int | float) else clean(value)}"'
            for key, value in attributes.items()
        )
        self._parts.append(f"<{name}{said}/>" if text is None else f"<{name}{said}>{clean(text)}</{name}>")


def clean(text: str) -> str:
    """Text as XML takes it: escaped, without the control characters that it has no form for."""
    return escape("".join(c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else "\ufffd" for c in text))


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def shorten(text: str, length: int) -> str:
    """Text of at most ``length`` letters: of a longer one the middle is left out.

    >>> shorten("features.denseblock4.denselayer16.conv2", 21)
    'features.d…er16.conv2'
    """
    if len(text) <= length:
        return text
    front = (length - 1) // 2
    return f"{text[:front]}…{text[len(text) - (length - 1 - front) :]}"


def wrap(text: str, length: int) -> Sequence[str]:
    """Text in lines of at most ``length`` letters, broken at spaces where there are any."""
    import textwrap

    return textwrap.wrap(text, length) or [""]


def mixed(colour: str, other: str, share: float) -> str:
    """A colour between two.

    Args:
        colour: ``#rrggbb``.
        other: ``#rrggbb``.
        share: Of the first, in [0, 1].
    """
    pairs = zip(_channels(colour), _channels(other), strict=True)
    return "#" + "".join(f"{round(one * share + two * (1 - share)):02x}" for one, two in pairs)


def ink(background: str) -> str:
    """Black or white, whichever is easier to read on a background (WCAG 2 relative luminance, section 1.4.3)."""
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in _channels(background))
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
