"""The drawing: whole XML, text that never overlaps, and what it has to say."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

from edgespa.reports.groups_layout import colours, module_rows
from edgespa.reports.groups_svg import draw_groups
from edgespa.reports.svg import CHAR, SIZE
from edgespa.tasks.base import Base
from edgespa.tasks.inspection import describe

SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]


def parse(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text.encode())


def boxes(root: ElementTree.Element) -> list[tuple[str, Box]]:
    """The room of every text: left, top, right, bottom."""
    found = []
    for element in root.iter(f"{SVG}text"):
        text = element.text or ""
        width, x, y = len(text) * CHAR, float(element.attrib["x"]), float(element.attrib["y"])
        left = x - width * {"start": 0, "middle": 0.5, "end": 1}[element.attrib["text-anchor"]]
        found.append((text, (left, y - 0.76 * SIZE, left + width, y + 0.24 * SIZE)))
    return found


def overlapping(root: ElementTree.Element) -> list[tuple[str, str]]:
    def meet(one: Box, other: Box) -> bool:
        return one[0] < other[2] - 0.1 and other[0] < one[2] - 0.1 and one[1] < other[3] and other[1] < one[3]

    ordered = sorted(boxes(root), key=lambda item: item[1][1])
    return [
        (one, other)
        for index, (one, a) in enumerate(ordered)
        for other, b in itertools.takewhile(lambda item, a=a: item[1][1] < a[3], ordered[index + 1 :])  # type: ignore[misc]
        if meet(a, b)
    ]


def titles(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}title")]


@pytest.mark.parametrize("size", [(1, 1), (12, 3), (130, 60)])
def test_text_stays_apart_and_inside(many: Callable[[int, int], dict[str, Any]], size: tuple[int, int]) -> None:
    root = parse(draw_groups(many(*size)))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert overlapping(root) == []
    for text, (left, top, right, bottom) in boxes(root):
        assert left >= 0, text
        assert top >= 0, text
        assert right <= width, text
        assert bottom <= height, text


def test_overlaps_would_be_seen() -> None:
    text = '<text x="{}" y="9" text-anchor="{}">abc</text>'
    both = f'<svg xmlns="http://www.w3.org/2000/svg">{text.format(0, "start")}{text.format(25, "end")}</svg>'
    assert len(overlapping(parse(both))) == 1


def test_what_it_says(stream: dict[str, Any]) -> None:
    root = parse(draw_groups(stream))
    said = titles(root)
    assert said[0] == "Channel groups of net.py:net"
    assert "stem.weight[1]: 3 channels, fixed: input of the network (at x)" in said
    assert "body.0.outer.weight[0]: 4 channels, group 1" in said
    assert "group 2: body.0.inner, 2 slots" in said
    texts = [text.replace("\u00a0", " ") for text, _ in boxes(root)]
    assert "dw 3x3" in texts
    assert "fixed (1 slot): output of the network" in texts
    assert not any("kernel extent" in text for text in texts)
    assert texts.count("4.0%") == 1  # parameters of the first group
    assert texts.count("6.0%") == 1  # and of the second


def test_bars_have_the_colour_of_their_group(stream: dict[str, Any]) -> None:
    root = parse(draw_groups(stream))
    palette = colours(module_rows(stream), 2)
    bars: dict[str, set[str]] = {}
    for group in root.iter(f"{SVG}g"):
        title = group.find(f"{SVG}title")
        rect = group.find(f"{SVG}rect")
        if title is not None and rect is not None and "channels, " in (title.text or ""):
            owner = (title.text or "").partition("channels, ")[2].partition(":")[0]
            bars.setdefault(owner, set()).add(rect.attrib["fill"])
    assert bars == {"group 1": {palette[1].fill}, "group 2": {palette[2].fill}, "fixed": {palette[0].fill}}


def test_kept_units_of_a_task(stream: dict[str, Any]) -> None:
    for group in stream["groups"]:
        group["kept"] = [0, 2]
    texts = [text for text, _ in boxes(parse(draw_groups(stream)))]
    assert "2/4" in texts
    assert "2/6" in texts


def test_a_network_without_groups(stream: dict[str, Any]) -> None:
    stream["groups"] = []
    root = parse(draw_groups({**stream, "layers": []}))
    assert overlapping(root) == []
    assert overlapping(parse(draw_groups(stream))) == []


def test_a_real_network(toy_base: Base) -> None:
    root = parse(draw_groups(describe(toy_base)))
    assert overlapping(root) == []
    said = titles(root)
    assert "conv1.weight[0]: 16 channels, group 1" in said
    assert "conv3.weight[0]: 16 channels, group 1" in said
    assert "fc.weight[1]: 16 channels, group 1" in said
    assert "conv2.weight[0]: 24 channels, group 2" in said
    assert any(text.startswith("fc.weight[0]: 4 channels, fixed: output of the network") for text in said)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_pretrained_networks(data_dir: Any, name: str) -> None:
    shape = (1, 3, 32, 32) if name == "resnet20" else (1, 3, 224, 224)
    values = describe(Base.open(f"{data_dir / 'models.py'}:{name}", shape))
    root = parse(draw_groups(values))
    assert overlapping(root) == []
    assert sum(f"group {number}" in title for number in (1,) for title in titles(root)) > 1
    for layer in values["layers"]:
        assert any(title.startswith(f"{layer['tensor']}[{layer['out']}]") for title in titles(root))
