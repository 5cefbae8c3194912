"""The writer of SVG: escaping, shortening, colours."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespa.reports.svg import Canvas, ink, mixed, shorten, wrap


@given(st.text(), st.text())
def test_any_text_gives_xml(text: str, title: str) -> None:
    canvas = Canvas()
    with canvas.titled(title):
        canvas.text(1, 2, text, anchor="end", bold=True)
        canvas.rect(1.04, 2, 3, 4, "#ffffff", text)
    root = ElementTree.fromstring(canvas.document(10, 20, title).encode())
    assert root.attrib["viewBox"] == "0 0 10 20"


def test_names_are_escaped_and_spaces_stay() -> None:
    canvas = Canvas()
    canvas.text(0, 0, 'a  <b> & "c"\x00')
    root = ElementTree.fromstring(canvas.document(1, 1, "t"))
    (text,) = root.iter("{http://www.w3.org/2000/svg}text")
    assert text.text == 'a\u00a0\u00a0<b>\u00a0&\u00a0"c"\ufffd'


@given(st.text(max_size=60), st.integers(3, 40))
def test_shortened_text_keeps_its_ends(text: str, length: int) -> None:
    short = shorten(text, length)
    assert len(short) == min(len(text), length)
    if len(text) > length:
        front, back = short.split("…", 1) if "…" not in text else ("", "")
        assert text.startswith(front)
        assert text.endswith(back)
        assert abs(len(front) - len(back)) <= 1 or "…" in text


def test_shorten_by_hand() -> None:
    assert shorten("features.denseblock4.denselayer16.conv2", 21) == "features.d…er16.conv2"
    assert shorten("abc", 3) == "abc"


def test_wrap() -> None:
    assert wrap("one two three", 7) == ["one two", "three"]
    assert wrap("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert wrap("", 4) == [""]


def test_colours() -> None:
    assert mixed("#000000", "#ffffff", 0.5) == "#808080"
    assert mixed("#123456", "#ffffff", 1) == "#123456"
    assert (ink("#000000"), ink("#ffffff")) == ("#ffffff", "#000000")


@pytest.mark.parametrize("number", [3.0, 3.04, 3])
def test_numbers_are_short(number: float) -> None:
    canvas = Canvas()
    canvas.line(number, 0, 1, 1, "#000000")
    assert 'x1="3"' in canvas.document(1, 1, "")
