"""What the trials of a search take, by the latency tables of its device; kept, so that going on finds the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgespa.api.search_stages import TASK
from edgespa.errors import ConfigError
from edgespa.system.files import plain_text, write_whole

if TYPE_CHECKING:
    from edgespa.latency.known import Foretold

KEPT = "foretold.json"


class Foreteller:
    """Foretells from the tasks that stages wrote.

    Args:
        make: Gives the device's tables for the network, by variant; None where latencies do not count. It is asked
            when something has to be foretold that was not before.
    """

    def __init__(self, make: Callable[[], Mapping[str, Foretold]] | None) -> None:
        self._make = make
        self._tables: Mapping[str, Foretold] | None = None

    def latency_ms(self, folder: Path, variant: str) -> float | None:
        """What the task of a stage takes; None where no table can say that.

        Args:
            folder: Of the stage.
            variant: Of what file.
        """
        if self._make is None:
            return None
        known = _kept(folder)
        if known is None:
            known = self._foretold(folder)
            write_whole(folder / KEPT, json.dumps(known).encode())
        if variant not in known:
            raise ConfigError(f"{folder / KEPT} has no {variant}", "begin the search anew, with --fresh")
        return known[variant]

    def _foretold(self, folder: Path) -> dict[str, float | None]:
        import edgespa as es

        assert self._make is not None
        if self._tables is None:
            self._tables = self._make()
        kept = es.open_task(folder / TASK).task.kept
        return {
            name: round(each.latency_ms(kept), 6) if set(kept) == set(each.base.groups.groups) else None
            for name, each in self._tables.items()
        }


def _kept(folder: Path) -> dict[str, float | None] | None:
    try:
        found = json.loads(plain_text(folder / KEPT))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
