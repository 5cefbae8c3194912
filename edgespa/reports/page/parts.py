"""What a page is made of: sections of tables, charts, trees, pictures and text, as plain values.

Nothing here is HTML but `Drawing`: texts come from strangers' files too, and the template escapes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

Value = str | int | float | bool | None


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: As it is shown.
        value: What it is sorted by; None for the text.
        link: A relative path to a file, or ``#id``; None for no link.
        mark: ``good``, ``bad``, ``doubt`` or nothing.
        title: Shown under the pointer.
    """

    text: str
    value: float | str | None = None
    link: str | None = None
    mark: str = ""
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows that can be sorted by each column, filtered by words, and, where asked for, laid side by side.

    Attributes:
        columns: Their heads.
        rows: Of texts, numbers or cells.
        caption: What it shows.
        right: Columns of numbers.
        compare: Two rows may be chosen and compared.
        note: Under it.
    """

    kind: ClassVar[str] = "table"

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | Value]]
    caption: str = ""
    right: Sequence[str] = ()
    compare: bool = False
    note: str = ""

    @property
    def cells(self) -> list[list[Cell]]:
        """All of them as cells."""
        return [[each if isinstance(each, Cell) else cell(each) for each in row] for row in self.rows]


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart of plotly.

    Attributes:
        figure: ``data`` and ``layout``, as plotly has them in JSON.
        caption: What it shows, and how it is read.
        height: Pixels.
        wide: It needs the whole width.
    """

    kind: ClassVar[str] = "chart"

    figure: dict[str, Any]
    caption: str = ""
    height: int = 380
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Branch:
    """A line of a tree, with those below it.

    Attributes:
        label: Its name.
        cells: One for each column of the tree.
        bar: From 0 to 1: how much of the whole it has; None for no bar.
        was: Likewise, before.
        children: Below it.
        open: Unfolded at first.
        note: Why it is as it is.
    """

    label: str
    cells: Sequence[Cell]
    bar: float | None = None
    was: float | None = None
    children: Sequence[Branch] = ()
    open: bool = False
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Tree:
    """Lines that fold."""

    kind: ClassVar[str] = "tree"

    columns: Sequence[str]
    roots: Sequence[Branch]
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture with words under it.

    Attributes:
        uri: ``data:image/...``.
        alt: What it shows.
        lines: Under it, each with a mark as of `Cell`.
        more: Further pictures of the same thing, each with its own words.
    """

    uri: str
    alt: str
    lines: Sequence[tuple[str, str]] = ()
    more: Sequence[Picture] = ()


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures beside each other."""

    kind: ClassVar[str] = "gallery"

    pictures: Sequence[Picture]
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """A few figures that are seen first: words, figure, what it is against, mark."""

    kind: ClassVar[str] = "tiles"

    tiles: Sequence[tuple[str, str, str, str]]
    title: str = ""
    link: str | None = None


@dataclasses.dataclass(frozen=True)
class Folded:
    """A long text that is shown when it is asked for."""

    kind: ClassVar[str] = "folded"

    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class Words:
    """Paragraphs."""

    kind: ClassVar[str] = "words"

    lines: Sequence[str]
    mark: str = ""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """SVG of our own making, such as channel groups."""

    kind: ClassVar[str] = "drawing"

    svg: str
    caption: str = ""


Piece = Table | Chart | Tree | Gallery | Tiles | Folded | Words | Drawing


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        name: Of its anchor.
        title: Its heading.
        pieces: What is in it; a section without any is left out.
        intro: How it is read.
    """

    name: str
    title: str
    pieces: Sequence[Piece]
    intro: str = ""


def cell(value: Value) -> Cell:
    """A plain value as a cell: a dash for nothing."""
    if value is None:
        return Cell("–", "")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, int):
        return Cell(f"{value:,}", value)
    if isinstance(value, float):
        return Cell(f"{value:.4g}", value)
    return Cell(value)


def number_cell(value: float | None, form: str, mark: str = "") -> Cell:
    """A number as a format says; a dash for none."""
    return cell(None) if value is None else Cell(format(value, form), value, mark=mark)


def bytes_cell(size: int) -> Cell:
    """Bytes as people read them."""
    for unit, step in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= step:
            return Cell(f"{size / step:.3g} {unit}" if size < 1000 * step else f"{size / step:,.0f} {unit}", size)
    return Cell(f"{size} B", size)


def count_cell(count: float | None) -> Cell:
    """A large number in thousands, millions or billions."""
    if count is None:
        return cell(None)
    for unit, step in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= step:
            return Cell(f"{count / step:.3g}{unit}", count)
    return Cell(f"{count:.3g}", count)


def ms_cell(value: float | None) -> Cell:
    """Milliseconds."""
    return cell(None) if value is None else Cell(f"{value:.3g}" if value < 1000 else f"{value:,.0f}", value)
