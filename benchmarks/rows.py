"""What the benchmarks share: rows that are measured once, and tables of them in a README.

A row is a JSON document on a line of its own, found again by what was asked; so an interrupted run goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Rows:
    """Rows in a file; `get` measures what is not there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def find(self, key: Row) -> Row | None:
        return next((row for row in self.rows if all(row.get(name) == value for name, value in key.items())), None)

    def get(self, key: Row, measure: Callable[[], Row]) -> Row:
        """The row of a key, with the wall and processor seconds that it took unless it has its own."""
        row = self.find(key)
        if row is None:
            began, used = time.perf_counter(), time.process_time()
            row = {**key, **measure()}
            row.setdefault("seconds", time.perf_counter() - began)
            row.setdefault("cpu_seconds", time.process_time() - used)
            self.rows.append(row)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
        return row


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in body]
    if not lines:
        return "No row is measured yet."
    return "\n".join(["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |", *lines])


def fill(readme: Path, parts: Mapping[str, str]) -> None:
    """Put each part between its marks, ``<!-- name -->`` and ``<!-- end of name -->``."""
    text = readme.read_text()
    for name, made in parts.items():
        before, mark, rest = text.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not end:
            raise SystemExit(f"{readme} has no marks for {name}")
        text = f"{before}{mark}\n{made}\n{end}{after}"
    readme.write_text(text)
