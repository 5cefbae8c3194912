"""The state of an unfinished pruning, beside the output: the plan, and how far a front-to-back pass has come."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgespa.adapters.factors import Factors
from edgespa.errors import TaskFileError
from edgespa.pruning.front import Pass, Progress
from edgespa.selection import reconstruct
from edgespa.tasks.checkpoint import Checkpoint, require_same

SECONDS = 5.0
"""Least time between two states; a pass over a small network that is not interrupted leaves none."""

_OPTIONS = MappingProxyType({"digest": "MODEL (or --weights)", "data": "--calibration"})


class Store:
    """Saves and loads the state of one pass.

    Args:
        path: The file.
        identity: What the pass depends on; a state with another one is refused.
        seconds: Least time between two states; `SECONDS` by default.
        more: What the state says besides.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        seconds: float | None = None,
        more: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._path = path
        self._identity = dict(identity)
        self._seconds = SECONDS if seconds is None else seconds
        self._more = more or dict
        self._saved_at = time.monotonic()
        self._unsaved: tuple[Pass, Progress] | None = None

    def save(self, what: Pass, now: Progress) -> None:
        """Write the state, unless the last one is hardly older: then it is kept for `flush`."""
        self._unsaved = what, now
        if time.monotonic() - self._saved_at >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Write what was not: for a run that is left."""
        if self._unsaved is None:
            return
        what, now = self._unsaved
        facts = {
            **self._more(),
            **self._identity,
            "counts": dict(what.counts),
            "orders": {name: [int(unit) for unit in order] for name, order in what.orders.items()},
            "done": list(now.done),
            "errors": dict(now.errors),
            "paths": {name: path_to_json(path) for name, path in now.paths.items()},
        }
        Checkpoint(now.kept, Factors({}, dict(now.changed)), facts=facts).save(self._path)
        self._saved_at, self._unsaved = time.monotonic(), None

    def load(self) -> tuple[Mapping[str, int], Mapping[str, np.ndarray], Progress] | None:
        """Counts, orders and progress; None if there is no state.

        Raises:
            ConfigError: If it is of another run; it names the option that differs.
            TaskFileError: If it is damaged.
        """
        if not self._path.exists():
            return None
        state = Checkpoint.load(self._path)
        facts = state.facts
        require_same(facts, self._identity, _OPTIONS)
        if "done" not in facts:
            raise TaskFileError(f"{self._path}: not the state of a pruning", "start anew with --fresh")
        progress = Progress(
            tuple(facts["done"]),
            state.kept,
            state.factors.tensors,
            facts["errors"],
            {name: path_from_json(path) for name, path in facts["paths"].items()},
        )
        orders = {name: np.array(order, dtype=np.int64) for name, order in facts["orders"].items()}
        return facts["counts"], orders, progress


def path_to_json(path: reconstruct.Path) -> dict[str, Any]:
    """A greedy path as plain values."""
    return {
        "order": path.order.tolist(),
        "errors": path.errors.tolist(),
        "least_errors": path.least_errors.tolist(),
        "ratio": path.ratio,
    }


def path_from_json(values: Mapping[str, Any]) -> reconstruct.Path:
    """The inverse of `path_to_json`."""
    arrays = {key: np.array(values[key], dtype=np.float64) for key in ("errors", "least_errors")}
    return dataclasses.replace(
        reconstruct.Path(np.array(values["order"], dtype=np.int64), arrays["errors"], arrays["least_errors"], 0.0),
        ratio=float(values["ratio"]),
    )
