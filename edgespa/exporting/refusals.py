"""What a quantiser does not take: layers, found one by one, as one ends the whole file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from edgespa.quantisation.ranges import Range
from edgespa.system.guarded import private_folder
from edgespa.system.quiet import first_line


class Writer(Protocol):
    """Of the two quantisers, what is needed here."""

    @property
    def layers(self) -> tuple[str, ...]: ...  # noqa: D102
    def write_static(self, path: Path, ranges: Mapping[str, Range], *, only: Any = ()) -> None: ...  # noqa: D102


def refused(quantiser: Writer, ranges: Mapping[str, Range], suffix: str) -> dict[str, str]:
    """Layers that cannot be written in int8, with the quantiser's words.

    Args:
        quantiser: Of a float file.
        ranges: Of all activations.
        suffix: Of its files.

    Returns:
        Empty if all layers together can be written; also if each can be alone, as then no single one is to blame.
    """
    found: dict[str, str] = {}
    with private_folder() as folder:
        trial = folder / f"trial.{suffix}"
        try:
            quantiser.write_static(trial, ranges)
        except Exception:  # quantisers raise whatever they like
            for name in quantiser.layers:
                try:
                    quantiser.write_static(trial, ranges, only=(name,))
                except Exception as error:
                    found[name] = f"its quantiser refuses it: {first_line(error)}"
    return found
