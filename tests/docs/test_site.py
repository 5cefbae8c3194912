"""The site that ``make docs`` builds: without a warning, whole, and with nothing from any other host."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Elements that a browser fetches something for by itself, and the attribute that says what.
FETCHED = {
    "script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
    "embed": "src", "object": "data", "use": "href", "image": "href", "form": "action",
}  # fmt: skip


class Page(HTMLParser):
    """What a page links, what it makes a browser fetch, and the places in it that can be linked."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in FETCHED and FETCHED[tag] in values:
            self.fetched.append(values[FETCHED[tag]])
        self.fetched += [part.split()[0] for part in values.get("srcset", "").split(",") if part.strip()]
        self.fetched += re.findall(r"url\(['\"]?([^'\")]+)", values.get("style", ""))


@pytest.fixture(scope="module")
def maker() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        yield importlib.import_module("make_site")
    sys.modules.pop("make_site", None)


@pytest.fixture(scope="module")
def site(maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once: half a minute at most."""
    folder = tmp_path_factory.mktemp("site") / "site"
    assert maker.build(folder) == 0
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_page_of_the_documentation_is_there(site: Path) -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        name = path.relative_to(ROOT / "docs").with_suffix(".html")
        moved = {"README.html": "contents.html", "architecture.html": "explanation/architecture.html"}
        assert (site / moved.get(name.as_posix(), name)).is_file()
    for name in ("index", "search", "project/security", "project/contributing", "benchmarks/index"):
        assert (site / f"{name}.html").is_file()


@pytest.mark.slow
def test_each_page_is_reached_from_the_first(site: Path, pages: dict[Path, Page]) -> None:
    """By links alone; the sidebar has all that is no file of the source."""
    sidebar = {(site / unquote(link.partition("#")[0])).resolve() for link in pages[site / "index.html"].links}
    left = {path for path in pages if path.resolve() not in sidebar and path.relative_to(site).parts[0] != "files"}
    assert left == {site / "index.html", site / "search.html"}


@pytest.mark.slow
def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    count = 0
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                assert link.startswith("https://"), f"{path}: {link}"
                continue
            name, _, place = link.partition("#")
            there = (path.parent / unquote(name)).resolve() if name else path
            assert there.is_file(), f"{path}: {link}"
            if place and there in pages:
                assert unquote(place) in pages[there].places, f"{path}: {link}"
            count += 1
    assert count > 3000


@pytest.mark.slow
def test_nothing_comes_from_another_host(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert page.fetched
        for each in page.fetched:
            assert not re.match(r"([a-z]+:)?//|https?:", each), f"{path}: {each}"
            if not each.startswith(("data:", "#")) and (name := re.split("[?#]", each)[0]):
                assert (path.parent / unquote(name)).is_file(), f"{path}: {each}"
    fetches = r"""(?:url\(|@import|fetch\(|import\(|importScripts\(|(?:src|href)\s*=)\s*['"`(]*(?:https?:)?//"""
    for path in (each for each in site.rglob("*") if each.suffix in (".css", ".js", ".svg")):
        found = re.search(fetches, path.read_text(encoding="utf-8"))
        assert found is None, f"{path}: {found and found[0]}"


@pytest.mark.slow
def test_it_can_be_searched_and_is_dark_at_night(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    found = json.loads(index[index.index("{") : index.rindex("}") + 1])
    errors = found["docnames"].index("reference/errors")
    for word in ("truncat", "sensor"):  # stems: what is typed is made one too
        hits = found["terms"][word]
        assert errors in (hits if isinstance(hits, list) else [hits])
    page = (site / "index.html").read_text(encoding="utf-8")
    assert 'role="search"' in page
    assert "theme-toggle" in page
    assert re.search(r"prefers-color-scheme: ?dark", (site / "_static/styles/furo.css").read_text() + page)


@pytest.fixture
def small(maker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of a few pages."""
    root = tmp_path / "small"
    for name in ("README.md", "docs/README.md", "docs/how-to/bake.md", *maker.PROJECT):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n\n## Some words\n")
    (root / "docs" / "conf.py").write_text((ROOT / "docs" / "conf.py").read_text(encoding="utf-8"))
    (root / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (root / "docs" / "theme").symlink_to(ROOT / "docs" / "theme")
    monkeypatch.setattr(maker, "ROOT", root)
    return root


PAGES = {
    "whole": "[a](../../README.md#some-words) `[b](no.md)`\n\n```sh\n[c](nowhere.md)\n```\n\n[d](../../script.py)\n",
    "anchor": "[a](../README.md#other-words)\n",
    "heading": "# One\n\n[a][b]\n\n#### Four\n",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("whole", 0), ("anchor", 1), ("heading", 1)])
def test_a_warning_is_an_error(
    maker: ModuleType, small: Path, name: str, status: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (small / "script.py").write_text('"""Does nothing."""\n')
    (small / "docs" / "how-to" / "bake.md").write_text(f"# Bake\n\n{PAGES[name]}")
    assert maker.build(tmp_path / "site") == status
    assert (tmp_path / "site").is_dir() == (status == 0)
    assert ("bake.md" in capfd.readouterr().err) == (status == 1)
    if status == 0:
        assert "Does nothing" in (tmp_path / "site" / "files" / "script.py.html").read_text()


def test_a_link_that_leads_nowhere_is_an_error(maker: ModuleType, small: Path, tmp_path: Path) -> None:
    (small / "docs" / "how-to" / "bake.md").write_text(
        "# Bake\n\n[a](eat.md), [b](../../../outside.md)\n\n[c]: fry.md\n"
    )
    with pytest.raises(maker.SiteError) as caught:
        maker.build(tmp_path / "site")
    assert str(caught.value).splitlines() == [
        "docs/how-to/bake.md:3: the link eat.md leads nowhere",
        "docs/how-to/bake.md:3: the link ../../../outside.md leads nowhere",
        "docs/how-to/bake.md:5: the link fry.md leads nowhere",
    ]


def test_a_folder_of_something_else_stays(maker: ModuleType, small: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear Ada")
    with pytest.raises(maker.SiteError, match="no site"):
        maker.build(tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").is_file()


def test_pages_of_the_sidebar_stand_as_the_contents_name_them(maker: ModuleType, small: Path, tmp_path: Path) -> None:
    for name in ("apples", "bread", "cake"):
        (small / "docs" / "how-to" / f"{name}.md").write_text(f"# {name}\n")
    (small / "docs" / "README.md").write_text("# All\n\n[c](how-to/cake.md), [b](how-to/bake.md#some-words)\n")
    (tmp_path / "stage").mkdir()
    maker.Stage(tmp_path / "stage").fill()
    named = re.findall(r"^how-to/(\w+)$", (tmp_path / "stage" / "index.md").read_text(), re.MULTILINE)
    assert named == ["cake", "bake", "apples", "bread"]
