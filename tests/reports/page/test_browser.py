"""The page in a real browser, headless Chromium: it draws without an error, sorts, filters, compares, folds, prints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgespa.reports.page.charts import figure
from edgespa.reports.page.document import page
from edgespa.reports.page.parts import Branch, Cell, Chart, Section, Table, Tree, Words

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="NO BROWSER: pages are not tried (on Debian: apt-get install chromium)"
    ),
]
ROWS = [
    [Cell("ten", link="#all"), Cell("10 KiB", 10240), "b"],
    [Cell("two"), Cell("2 MiB", 2 << 20), "c"],
    [Cell("none"), Cell("–", ""), "a"],
    *[[Cell(f"row {n}"), Cell(f"{n} B", n), "z"] for n in range(1, 6)],
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    pytest.importorskip("plotly")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import plotly.graph_objects as go

    drawn = figure([go.Scatter(x=[1, 2, 3], y=[2, 1, 3], mode="markers", hovertext=["a", "b", "c"], hoverinfo="text")])
    tree = Tree(
        ["MACs"], [Branch("stem", [Cell("1")], 0.1), Branch("body", [Cell("9")], 0.9, None, [Branch("0", [Cell("9")])])]
    )
    sections = [
        Section("all", "All", [Table(("name", "size", "kind"), ROWS, "rows", ("size",), compare=True)]),
        Section("charts", "Charts", [Words(["x"] * 80), Chart(drawn, "one"), Chart(drawn, "two")]),
        Section("tree", "Tree", [tree]),
    ]
    target = tmp_path_factory.mktemp("page") / "page.html"
    target.write_text(page("A page", "of a test", sections), encoding="utf-8")
    return target


@pytest.fixture
def shown(browser: Any, written: Path) -> Iterator[Any]:
    """The page, opened from disk; whatever it complains of, or asks for, is a failure."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    opened = context.new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on(
        "request",
        lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None,
    )
    opened.goto(written.as_uri())
    yield opened
    context.close()
    assert said == []


def first_column(shown: Any) -> list[str]:
    found: list[str] = shown.eval_on_selector_all(
        "figure.table tbody tr", "rows => rows.filter(r => !r.hidden).map(r => r.cells[1].textContent.trim())"
    )
    return found


def test_charts_come_when_they_are_near(shown: Any) -> None:
    assert shown.locator(".plot .main-svg").count() == 0
    shown.locator("#charts .plot").last.scroll_into_view_if_needed()
    shown.wait_for_selector(".plot .scatterlayer .point")
    assert shown.locator(".plot").count() == 2


def test_hover_says_what_a_point_is(shown: Any) -> None:
    shown.locator("#charts .plot").first.scroll_into_view_if_needed()
    point = shown.locator(".plot .point").nth(1)
    point.wait_for()
    box = point.bounding_box()
    shown.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    shown.wait_for_selector(".hoverlayer .hovertext")
    assert shown.locator(".hoverlayer .hovertext").text_content().strip() == "b"


def test_sorting_by_numbers_and_by_words(shown: Any) -> None:
    size = shown.get_by_role("button", name="size")
    size.click()
    assert first_column(shown) == ["row 1", "row 2", "row 3", "row 4", "row 5", "ten", "two", "none"]
    size.click()
    assert first_column(shown) == ["two", "ten", "row 5", "row 4", "row 3", "row 2", "row 1", "none"]
    shown.get_by_role("button", name="kind").click()
    assert first_column(shown)[:3] == ["none", "ten", "two"]
    assert shown.locator("th[aria-sort=ascending]").inner_text().startswith("kind")


def test_filtering(shown: Any) -> None:
    shown.locator(".filter").fill("Row z 3")
    assert first_column(shown) == ["row 3"]
    assert shown.locator(".count").inner_text() == "1 of 8 rows"
    shown.locator(".filter").fill("")
    assert len(first_column(shown)) == 8


def test_two_rows_side_by_side(shown: Any) -> None:
    boxes = shown.locator("figure.table .choose input")
    boxes.nth(0).check()
    assert shown.locator(".compared table").count() == 0
    boxes.nth(1).check()
    text = shown.locator(".compared").inner_text()
    assert "10 KiB" in text
    assert "2 MiB" in text
    assert "205" in text  # (2 << 20) / 10240
    boxes.nth(2).check()
    assert shown.locator("figure.table .choose input:checked").count() == 2


def test_folding(shown: Any) -> None:
    assert shown.locator("#tree details[open]").count() == 0
    shown.get_by_role("button", name="unfold all").click()
    assert shown.locator("#tree details[open]").count() == 1
    shown.get_by_role("button", name="fold all", exact=True).click()
    assert shown.locator("#tree details[open]").count() == 0


def test_light_and_dark(shown: Any) -> None:
    shown.locator("#charts .plot").first.scroll_into_view_if_needed()
    shown.wait_for_selector(".plot .xtick text")
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    light = shown.evaluate(ground), shown.evaluate(ink)
    shown.locator("#theme").click()
    dark = shown.evaluate(ground), shown.evaluate(ink)
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] == "rgb(15, 18, 22)"
    assert light[1] != dark[1]
    shown.locator("#theme").click()
    shown.emulate_media(color_scheme="dark")  # what was chosen holds
    assert shown.evaluate(ground) == light[0]


def test_printing_has_all_charts_on_white(shown: Any) -> None:
    shown.locator("#theme").click()
    content = shown.pdf(print_background=True)
    assert content.startswith(b"%PDF")
    shown.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    shown.wait_for_function("document.querySelectorAll('.plot .main-svg').length >= 2")
    assert shown.evaluate("document.documentElement.dataset.theme") == "light"
    shown.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert shown.evaluate("document.documentElement.dataset.theme") == "dark"
    shown.locator("#theme").click()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(shown: Any, width: int) -> None:
    shown.set_viewport_size({"width": width, "height": 800})
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
