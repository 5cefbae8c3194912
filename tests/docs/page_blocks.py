"""The blocks of code of the pages, and what each page says about running them.

A comment before a block says so where it is not run in the page's folder by ``make test``:

    <!-- not run: needs a board -->     one of REASONS, and more words behind it if they help
    <!-- run by: tests/test_x.py -->    a test of its own runs it; it names the page
    <!-- run: more -->                  it and what comes behind it take long: make test-all
    <!-- run in: bundle -->             in that folder of the page's

A block of Python or TOML whose first line is a comment with the name of a file is that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
RUN = ("sh", "python", "toml")
SHOWN = ("", "text", "json")  # what is printed, and formulas
OTHERS = ("cpp", "kotlin", "yaml", "ini")  # of other tools: never run here, and it is said why not
REASONS = (
    "a sketch",  # of something that the reader writes in full
    "a signature",
    "installs",  # packages or a whole environment, which takes a network
    "needs a board",
    "needs a camera",
    "needs an accelerator",
    "needs downloads",  # pretrained weights, data sets
    "needs torchvision",  # the product is tested without it; tests/zoo with it
    "needs other runtimes",
    "by hand",  # it asks, or wants to be looked at
)
_MARK = re.compile(r"<!--\s*(not run|run by|run in|run)\s*:\s*(.*?)\s*-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: From the root of the repository.
        line: Of its first line of code, from 1.
        language: As the fence says it; ``indented`` for a block without a fence.
        text: What stands in it.
        marks: What comments before it say: name -> words.
    """

    page: str
    line: int
    language: str
    text: str
    marks: dict[str, str]

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that it is, by its first line."""
        match = re.match(r"# ([\w./-]+\.(?:py|toml))\n", self.text)
        return match[1] if match else None

    @property
    def is_run(self) -> bool:
        """Whether it is run with its page."""
        return self.language in RUN and not self.marks.keys() & {"not run", "run by"}


def pages() -> list[str]:
    """All pages whose blocks are looked at."""
    found = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in found)]


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    return list(blocks_in((ROOT / page).read_text(encoding="utf-8"), page))


def blocks_in(text: str, page: str = "page.md") -> Iterator[Block]:
    """The blocks of a text; a comment belongs to the block that comes next, with nothing in between."""
    marks: dict[str, str] = {}
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "html_block":
            marks |= dict(_MARK.findall(token.content))
        elif token.type in ("fence", "code_block"):
            assert token.map is not None
            fenced = token.type == "fence"
            language = token.info.split()[0] if token.info.strip() else ""
            yield Block(page, token.map[0] + 1 + fenced, language if fenced else "indented", token.content, marks)
            marks = {}
        elif token.nesting != -1:
            marks = {}
