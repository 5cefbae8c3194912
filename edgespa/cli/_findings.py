"""Findings on the terminal: the tables of a result, as wide as it is, and what there is to say about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgespa.cli._terminal import echo

if TYPE_CHECKING:
    from edgespa.api.finding_results import Found


def show(found: Found) -> None:
    """Print the tables and the notes.

    Args:
        found: The result of a call.
    """
    from edgespa.api.tables import cell_text
    from edgespa.cli._output import table

    for each in found.tables:
        echo()
        rows = [[cell_text(cell) for cell in row] for row in each.rows]
        right = [name for name, own in zip(each.columns, each.to_the_right, strict=True) if own]
        table(each.columns, rows, title=each.title or None, right=right)
    if found.notes:
        echo()
    for note in found.notes:
        echo(note)
