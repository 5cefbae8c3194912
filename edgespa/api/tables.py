"""Results as tables: for a terminal, for Markdown, for a notebook."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        columns: The headings.
        rows: Cells; None is shown as ``-``, a bool as yes or no, an int with thousands separators, a float with four
            significant digits, anything else as its ``str``.
        title: A line above; may be empty.
        right: Headings of columns that are aligned to the right, besides those with nothing but numbers.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    title: str = ""
    right: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse rows that do not fit.

        Raises:
            ValueError: A row has another length than ``columns``.
        """
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns: {list(row)}")

    @property
    def to_the_right(self) -> tuple[bool, ...]:
        """Of each column."""
        return tuple(
            heading in self.right or _all_numbers([row[index] for row in self.rows])
            for index, heading in enumerate(self.columns)
        )

    def text(self) -> str:
        """Columns of even width, two blanks apart."""
        cells = [self.columns, *([cell_text(cell) for cell in row] for row in self.rows)]
        widths = [max(len(row[index]) for row in cells) for index in range(len(self.columns))]
        lines = [
            "  ".join(
                each.rjust(width) if right else each.ljust(width)
                for each, width, right in zip(row, widths, self.to_the_right, strict=True)
            ).rstrip()
            for row in cells
        ]
        return "\n".join([*([self.title] if self.title else []), lines[0], "-" * len(max(lines, key=len)), *lines[1:]])

    def markdown(self) -> str:
        """A table of pipes."""
        rules = ["---:" if right else "---" for right in self.to_the_right]
        rows = [self.columns, rules, *([_piped(cell_text(cell)) for cell in row] for row in self.rows)]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([*([f"**{self.title}**", ""] if self.title else []), *lines])

    def to_html(self) -> str:
        """A ``<table>``; whatever names hold is text."""
        heads = "".join(f"<th>{html.escape(each)}</th>" for each in self.columns)
        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align: {"right" if right else "left"}">{html.escape(cell_text(cell))}</td>'
                for cell, right in zip(row, self.to_the_right, strict=True)
            )
            + "</tr>"
            for row in self.rows
        )
        title = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        return f"<table>{title}<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def cell_text(cell: object) -> str:
    """What a cell shows.

    Args:
        cell: See `Table`.
    """
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return str(cell)


def _all_numbers(cells: Sequence[object]) -> bool:
    there = [cell for cell in cells if cell is not None]
    return bool(there) and all(isinstance(cell, (int, float)) and not isinstance(cell, bool) for cell in there)


def _piped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
