"""A page: what is in it is escaped, it fetches nothing, and nothing runs in it but its own scripts."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from typing import Any

import pytest

from edgespa.reports.page.charts import axis_of, front, said, short
from edgespa.reports.page.document import page
from edgespa.reports.page.parts import (
    Branch,
    Cell,
    Chart,
    Drawing,
    Folded,
    Gallery,
    Picture,
    Section,
    Table,
    Tiles,
    Tree,
    Words,
    bytes_cell,
    cell,
    count_cell,
    ms_cell,
)

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x07\"'"


def figure_of(text: str) -> dict[str, Any]:
    return {"data": [{"type": "scatter", "x": [1], "name": text}], "layout": {"xaxis": {"title": {"text": text}}}}


def everything(text: str) -> list[Section]:
    """Each kind of piece, with a text wherever one may be."""
    branch = Branch(text, [Cell(text, title=text)], 0.5, 1.0, [Branch(text, [Cell(text)], note=text)], note=text)
    pieces = [
        Table([text, "b"], [[Cell(text, text, text, text, text), 1.5], [text, None]], text, note=text, compare=True),
        Chart(figure_of(text), text),
        Tree([text], [branch], text),
        Gallery([Picture("data:image/png;base64,AA==", text, [(text, text)], [Picture("data:,", text)])], text),
        Tiles([(text, text, text, text)], text, text),
        Folded(text, text),
        Words([text], text),
        Drawing("<svg></svg>", text),
    ]
    return [Section("all", text, pieces, text)]


def scripts_of(content: str) -> list[str]:
    return re.findall(r"<script>(.*?)</script>", content, re.DOTALL)


def test_no_text_becomes_markup() -> None:
    pytest.importorskip("plotly")
    plain, evil = page("title", "sub", everything("words")), page(EVIL, EVIL, everything(EVIL))
    assert len(scripts_of(evil)) == len(scripts_of(plain)) == 2
    for mark in ("<img", "<script", "<svg", "</script"):
        assert evil.count(mark) == plain.count(mark), mark
    assert "\u202e" not in evil
    assert "\x07" not in evil
    (told,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', evil, re.DOTALL)
    assert json.loads(told) == figure_of(EVIL)


def test_only_its_own_scripts_may_run_and_nothing_is_fetched() -> None:
    pytest.importorskip("plotly")
    content = page("title", "sub", everything("words"))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', content)
    policy = html.unescape(policy)
    for script in scripts_of(content):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe-inline" not in policy.split("style-src")[0]
    outside = re.sub(r"<script>.*?</script>", "", content, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", outside)
    assert not re.findall(r"@import|url\(", outside)


def test_without_charts_it_is_small_and_needs_no_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    content = page("title", "sub", [Section("a", "A", [Words(["hello"])]), Section("b", "Empty", [])])
    assert "hello" in content
    assert "Empty" not in content
    assert len(content) < 60_000


def test_a_narrow_chart_alone_gets_the_whole_width() -> None:
    pytest.importorskip("plotly")
    narrow = Chart({"data": [], "layout": {}})
    content = page("t", "s", [Section("a", "A", [narrow, narrow, narrow, Words(["x"]), narrow])])
    assert re.findall(r'<figure class="(chart[ wide]*)"', content) == ["chart", "chart", "chart wide", "chart wide"]


@pytest.mark.parametrize(
    ("points", "rises", "expected"),
    [
        ([(1, 0.5), (2, 0.7), (3, 0.6), (4, 0.9)], True, [0, 1, 3]),
        ([(2, 0.7), (1, 0.7), (1, 0.6)], True, [1]),
        ([(1, 5.0), (2, 3.0), (3, 4.0)], False, [0, 1]),
        ([], True, []),
        ([(1, 1.0), (1, 1.0)], True, [0]),
    ],
)
def test_front(points: list[tuple[float, float]], rises: bool, expected: list[int]) -> None:
    assert front(points, rises=rises) == expected


def test_an_axis_is_logarithmic_only_where_values_are_far_apart() -> None:
    assert "type" not in axis_of("ms", [1.0, 5.0])
    assert "type" not in axis_of("ms", [0.0, 500.0])
    assert "type" not in axis_of("ms", [])
    far: dict[str, Any] = axis_of("ms", [0.2, 90.0])
    assert far["type"] == "log"
    assert min(far["tickvals"]) <= 0.2
    assert max(far["tickvals"]) >= 90.0
    assert len(far["tickvals"]) == len(far["ticktext"]) <= 16


def test_words_on_charts_are_no_markup() -> None:
    assert said("<b>a</b>", "", "c") == "&lt;b&gt;a&lt;/b&gt;<br>c"
    assert short("<a href=x>" + "y" * 100, 20).count("<") == 0
    assert len(html.unescape(short("y" * 100, 21))) == 21


def test_numbers_as_people_read_them() -> None:
    assert [bytes_cell(size).text for size in (12, 2048, 3 << 20, 5000 << 20)] == [
        "12 B",
        "2 KiB",
        "3 MiB",
        "5,000 MiB",
    ]
    assert [count_cell(count).text for count in (12, 1200, 3.4e6, 5e9, None)] == ["12", "1.2k", "3.4M", "5G", "–"]
    assert [ms_cell(value).text for value in (0.1234, 12.34, 2345.6, None)] == ["0.123", "12.3", "2,346", "–"]
    assert [cell(value).text for value in (True, False, 1234, 0.123456, "x", None)] == [
        "yes", "no", "1,234", "0.1235", "x", "–",
    ]  # fmt: skip
    assert cell(None).value == ""  # sorted as nothing
