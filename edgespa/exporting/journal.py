"""Errors that were measured: an interrupted search goes on with them, one with another tolerance begins with them."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)


class Journal:
    """What was measured before, and is not measured again.

    Args:
        path: A line of JSON for each measurement; None: nothing is kept. Its name says what the measurements are of.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, float] = {}
        content = b""
        with contextlib.suppress(OSError):
            content = path.read_bytes() if path is not None else b""
        self._cut = not content.endswith(b"\n") and bool(content)
        for line in content.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # the last one may have been cut
                entry = json.loads(line)
                self._known[str(entry["what"])] = float(entry["error"])

    def error(self, what: str, measure: Callable[[], float]) -> float:
        """An error, measured unless it was.

        Args:
            what: Of which file.
            measure: Measures it.
        """
        if what not in self._known:
            self._known[what] = measure()
            self._note(what)
        return self._known[what]

    def _note(self, what: str) -> None:
        if self._path is None:
            return
        line = b"\n" * self._cut + json.dumps({"what": what, "error": self._known[what]}).encode() + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(line)
            self._cut = False
        except OSError as error:  # as with the cache: what cannot be kept is no error
            log.debug("%s cannot be written: %s", self._path, error)
