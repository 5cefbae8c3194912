"""What `edgespa.search` gives; see `edgespa.api.results`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgespa.api.results import Result
from edgespa.api.tables import Table
from edgespa.trials.record import Search, Trial


@dataclasses.dataclass(frozen=True, repr=False)
class SearchResult(Result):
    """A search, as far as it is.

    Attributes:
        path: Its folder.
        record: All of it: what was asked for, and every trial.
        page: The report page; None where none could be made.
    """

    path: Path
    record: Search
    page: Path | None = None

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other beats, the fastest first; each has its task file and bundle below `path`."""
        return self.record.front

    def to_dict(self) -> dict[str, Any]:
        """As `edgespa search --json`."""
        return {
            "folder": str(self.path),
            "page": None if self.page is None else str(self.page),
            **self.record.model_dump(mode="json"),
        }

    def _title(self) -> str:
        found = self.record
        counts = ", ".join(f"{count} {state}" for state, count in found.counts().items())
        return f"{self.path}: {len(found.trials)} trials ({counts or 'none'}), {len(self.front)} on the front"

    def _tables(self) -> Sequence[Table]:
        found = self.record
        if not self.front:
            return []
        timed, tested = found.device is not None, any(each.test is not None for each in self.front)
        title = "quality" if found.measure is None else found.measure.title
        columns = ("", title, *(["test"] if tested else []), *(["ms"] if timed else []), "KiB", "recipe")
        rows = tuple(
            (
                each.front,
                self._figure(each.quality),
                *([self._figure(each.test)] if tested else []),
                *([None if each.time_ms is None else f"{each.time_ms:.3g}"] if timed else []),
                f"{(each.size_bytes or 0) / 1024:,.0f}",
                recipe_text(each),
            )
            for each in self.front
        )
        return [Table(columns, rows, "the front", right=(title, "test", "ms", "KiB"))]

    def _figure(self, value: float | None) -> str | None:
        measure = self.record.measure
        return None if value is None or measure is None else measure.figure(value)

    def _notes(self) -> Sequence[str]:
        found = list(self.record.notes)
        usual = next((each for each in self.record.trials if each.defaults and each.state == "complete"), None)
        if usual is not None:
            time_ms = None if usual.time_ms is None else f"{usual.time_ms:.3g} ms"
            figures = [self._figure(usual.quality), time_ms, f"{(usual.size_bytes or 0) / 1024:,.0f} KiB"]
            place = "on the front" if usual.front else "not on the front"
            found.append(f"the defaults ({recipe_text(usual)}): {', '.join(filter(None, figures))}; {place}")
        for goal, shares in self.record.importance.items():
            most = ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:3])
            found.append(f"{goal} hangs on {most}")
        if self.page is not None:
            found.append(f"page: {self.page}")
        return found


def recipe_text(trial: Trial) -> str:
    """What varies in a trial, short: numbers with their names, words by themselves.

    Args:
        trial: It.
    """
    return " ".join(
        str(value) if isinstance(value, str) else f"{name}={value:g}" for name, value in trial.recipe.items()
    )
