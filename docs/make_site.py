"""Build the documentation as a static site, without a network: ``python docs/make_site.py [FOLDER]``.

The pages are those that are read in the repository. They are laid out in a folder of their own, where the README is the
first page, what lies under ``docs/`` comes next, and the other pages and files that are linked follow; only the targets
of links are written anew. Sphinx makes the site of that, and any warning is an error.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "site"
# Of the sidebar: the heading, and the folder of the stage whose pages stand below it.
SECTIONS = {
    "Begin": "",
    "Tutorial": "tutorial",
    "How-to": "how-to",
    "Reference": "reference",
    "Explanation": "explanation",
    "Measured": "benchmarks",
    "Project": "project",
}
# Pages outside of docs/ that are always part of it; others are where a page links them.
PROJECT = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
PICTURES = (".svg", ".png", ".jpg", ".gif")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,}).*?^ {0,3}\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"(\]\(<?|^ {0,3}\[[^\]\n]+\]:[ \t]+<?)([^\s)>]+)", re.MULTILINE)


class SiteError(Exception):
    """The site cannot be made: of which page, and why."""


def links(text: str) -> Iterator[re.Match[str]]:
    """The links of a page: the second group is where each leads to. What stands in code is none."""
    hidden = _CODE.sub(lambda each: " " * len(each[0]), _FENCE.sub(lambda each: " " * len(each[0]), text))
    yield from _LINK.finditer(hidden)


def place_of(path: Path) -> Path:
    """Where a file of the repository lies in the site's sources.

    Args:
        path: From the root of the repository.

    Returns:
        From the root of the sources; a page where the file is one, or a page that shows it.
    """
    if path == Path("README.md"):
        return Path("index.md")
    if path == Path("docs/README.md"):
        return Path("contents.md")
    if path == Path("docs/architecture.md"):
        return Path("explanation", path.name)
    if path.parts[0] == "docs" and path.suffix in (".md", *PICTURES):
        return path.relative_to("docs")
    if path.parts[0] == "benchmarks" and path.name == "README.md":
        return Path("benchmarks", f"{path.parent.name if len(path.parts) > 2 else 'index'}.md")
    if path.suffix == ".md" and len(path.parts) == 1:
        return Path("project", path.name.lower())
    return Path("files", path if path.suffix in PICTURES else f"{path.as_posix()}.md")


class Stage:
    """The sources of the site, as Sphinx takes them.

    Args:
        folder: Where they are written; empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._wanted: list[Path] = []
        self._done: set[Path] = set()
        self._problems: list[str] = []

    def fill(self) -> None:
        """Write all pages.

        Raises:
            SiteError: Links lead nowhere; all of them are named.
        """
        own = [each for each in (ROOT / "docs").rglob("*") if each.suffix in (".md", *PICTURES)]
        self._wanted = [Path("README.md"), *(Path(name) for name in PROJECT)]
        self._wanted += [each.relative_to(ROOT) for each in sorted(own)]
        while self._wanted:
            path = self._wanted.pop(0)
            if path not in self._done:
                self._done.add(path)
                self._write(path)
        if self._problems:
            raise SiteError("\n".join(self._problems))
        index = self.folder / "index.md"
        index.write_text(index.read_text(encoding="utf-8") + self._navigation(), encoding="utf-8")

    def _write(self, path: Path) -> None:
        source, target = ROOT / path, self.folder / place_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            target.write_text(self._listed(path), encoding="utf-8")
        elif path.suffix == ".md":
            text = source.read_text(encoding="utf-8")
            target.write_text(self._relinked(text, path, lambda to: self._resolved(text, path, to)), encoding="utf-8")
        elif path.suffix in PICTURES:
            shutil.copyfile(source, target)
        else:
            target.write_text(_shown(path, source.read_text(encoding="utf-8")), encoding="utf-8")

    def _relinked(self, text: str, path: Path, to: Callable[[str], str]) -> str:
        parts, end = [], 0
        for link in links(text):
            parts += [text[end : link.start(2)], to(link[2])]
            end = link.end(2)
        return "".join(parts) + text[end:]

    def _resolved(self, text: str, path: Path, link: str) -> str:
        if re.match(r"[a-z][a-z+.-]*:", link) or link.startswith("#"):
            return link
        name, _, anchor = link.partition("#")
        there = Path(os.path.normpath(path.parent / name))
        if there.parts[0] == ".." or not (ROOT / there).exists():
            line = text[: text.index(link)].count("\n") + 1
            self._problems.append(f"{path}:{line}: the link {link} leads nowhere")
            return link
        self._wanted.append(there)
        relative = Path(os.path.relpath(place_of(there), place_of(path).parent)).as_posix()
        return f"{relative}#{anchor}" if anchor and there.suffix == ".md" else relative

    def _listed(self, path: Path) -> str:
        """A folder: its files, each with the first line of what it says of itself."""
        rows = []
        for each in sorted((ROOT / path).iterdir()):
            if each.is_file() and each.suffix in (".py", ".toml", ".md"):
                inside = each.relative_to(ROOT)
                self._wanted.append(inside)
                to = os.path.relpath(place_of(inside), place_of(path).parent)
                rows.append(f"- [`{each.name}`]({to}){_summary(each)}")
        return f"---\norphan: true\n---\n\n# {path.as_posix()}/\n\n" + "\n".join(rows) + "\n"

    def _navigation(self) -> str:
        """Trees of pages for the sidebar; of each section first what ``docs/README.md`` names, in its order."""
        text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
        named = [Path(link[2].partition("#")[0]).with_suffix("").as_posix() for link in links(text)]
        pages = sorted(place_of(path).with_suffix("").as_posix() for path in self._done if path.suffix == ".md")
        pages.sort(key=lambda page: named.index(page) if page in named else len(named))
        trees = []
        for title, folder in SECTIONS.items():
            inside = [page for page in pages if page != "index" and str(Path(page).parent) == (folder or ".")]
            inside.sort(key=lambda page: page not in ("contents", "benchmarks/index"))
            if inside:
                trees.append("\n".join(["", "```{toctree}", ":hidden:", f":caption: {title}", "", *inside, "```", ""]))
        return "\n" + "".join(trees)


def _summary(path: Path) -> str:
    if path.suffix != ".py":
        return ""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return f": {said.splitlines()[0]}" if said else ""


def _shown(path: Path, text: str) -> str:
    """A page that shows a file which is no page."""
    fence = "`" * (max([2, *(len(found) for found in re.findall(r"`+", text))]) + 1)
    language = {".py": "python", ".toml": "toml", ".sh": "sh"}.get(path.suffix, "text")
    return f"---\norphan: true\n---\n\n# {path.as_posix()}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def build(target: Path = SITE) -> int:
    """Make the site.

    Args:
        target: The folder, which is replaced.

    Returns:
        Sphinx's exit status: 0 where there was no warning.

    Raises:
        SiteError: A link leads nowhere, or the folder holds something else.
    """
    if target.exists() and any(target.iterdir()) and not (target / "searchindex.js").is_file():
        raise SiteError(f"{target} holds something that is no site: name an empty folder")
    with tempfile.TemporaryDirectory(prefix="edgespa-site-") as folder:
        stage, made = Path(folder) / "stage", Path(folder) / "site"
        stage.mkdir()
        Stage(stage).fill()
        options = ["-W", "--keep-going", "-q", "-E", "-b", "html", "-c", str(ROOT / "docs"), "-d", f"{folder}/read"]
        done = subprocess.run([sys.executable, "-m", "sphinx", *options, str(stage), str(made)], check=False)
        if done.returncode == 0:
            for rest in (".buildinfo", "objects.inv"):
                (made / rest).unlink(missing_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(made, target)
        return done.returncode


def cli(arguments: list[str] | None = None) -> int:
    """Make the site, and say where it is.

    Args:
        arguments: Of the command line; the process's own by default.

    Returns:
        The exit status: 0 where there was no warning.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=SITE, help="where the site is made; build/site if not said"
    )
    folder: Path = parser.parse_args(arguments).folder
    try:
        status = build(folder)
    except SiteError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if status == 0:
        sys.stdout.write(f"the documentation: {os.path.relpath(folder / 'index.html')}\n")
    return status


if __name__ == "__main__":
    sys.exit(cli())
