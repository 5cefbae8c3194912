"""The state of an unfinished front-to-back pass, beside the output."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.adapters.factors import Factors
from edgespa.checkpoint import Checkpoint
from edgespa.errors import ConfigError
from edgespa.prune.front import Pass, Progress
from edgespa.pruning import reconstruct

SECONDS = 5.0
"""Least time between two states; a pass over a small network leaves none."""


class Store:
    """Saves and loads the state of one pass.

    Args:
        path: The file.
        identity: What the pass depends on; a state with another one is refused.
        seconds: Least time between two states; `SECONDS` by default.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], seconds: float | None = None) -> None:
        self._path = path
        self._identity = dict(identity)
        self._seconds = SECONDS if seconds is None else seconds
        self._saved_at = time.monotonic()

    def save(self, what: Pass, now: Progress) -> None:
        """Write the state, unless the last one is hardly older."""
        if time.monotonic() - self._saved_at < self._seconds:
            return
        facts = {
            **self._identity,
            "counts": dict(what.counts),
            "orders": {name: [int(unit) for unit in order] for name, order in what.orders.items()},
            "done": list(now.done),
            "errors": dict(now.errors),
            "paths": {name: path_to_json(path) for name, path in now.paths.items()},
        }
        Checkpoint(now.kept, Factors({}, dict(now.changed)), facts=facts).save(self._path)
        self._saved_at = time.monotonic()

    def load(self) -> tuple[Mapping[str, int], Mapping[str, np.ndarray], Progress] | None:
        """Counts, orders and progress; None if there is no state.

        Raises:
            ConfigError: If it is of another run.
            TaskFileError: If it is damaged.
        """
        if not self._path.exists():
            return None
        state = Checkpoint.load(self._path)
        facts = state.facts
        for key, value in self._identity.items():
            if facts.get(key) != value:
                raise ConfigError(
                    f"the unfinished run was made with another {key}",
                    "start anew without --resume, or say the same again",
                )
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
