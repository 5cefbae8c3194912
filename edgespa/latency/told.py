"""What a task will take on the devices that have latency tables, said beside its MACs; and where a cut buys no time."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pydantic import JsonValue

from edgespa.device.board import LOCAL
from edgespa.errors import EdgespaError
from edgespa.graph.head_widths import VARIABLE
from edgespa.latency.known import Foretold, still_here
from edgespa.latency.predict import missing
from edgespa.latency.table import LatencyTable, saved_tables, tables_folder
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

log = logging.getLogger(__name__)

NO_GAIN = 0.97
"""Of the unpruned time: what is above it is no gain that is worth a cut."""
_CUT = 0.9
_SHARE = 0.75


def with_foretold(task: Task, base: Base) -> Task:
    """The task with what it takes by every table that covers its network, in its header; a useless cut is told.

    Args:
        task: Made of the base.
        base: Its base; one to which an adapter has added modules is left out.
    """
    whole = base.wide or base.whole or base
    base = whole.without_blocks(task.header.depth.removed) if task.header.depth is not None else whole
    if set(task.kept) != set(base.groups.groups):
        return task
    heads = {VARIABLE + name: size for name, size in task.header.widths.items()}
    rows: list[JsonValue] = []
    for table in every_table():
        try:
            if missing(whole.layers, table):
                continue
            row = _row(Foretold.of(whole, table), Foretold.of(base, table).latency_ms(task.kept, heads))
        except (EdgespaError, KeyError) as error:
            log.debug("%s is not used: %s", table.origin, error)
            continue
        rows.append(row)
        _tell(task, table, row)
    if not rows:
        return task
    return task.with_provenance(foretold=rows)


def every_table() -> list[LatencyTable]:
    """The tables of all devices; one of this machine only if its runtime is still the one that is installed."""
    folder = tables_folder()
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    tables = [table for name in names for table in saved_tables(name)]
    return [table for table in tables if table.origin.device != LOCAL or still_here(table)]


def _row(whole: Foretold, latency_ms: float) -> dict[str, JsonValue]:
    origin = whole.table.origin
    return {
        "device": origin.device,
        "variant": origin.variant,
        "threads": origin.threads,
        "runtime": origin.runtime,
        "latency_ms": round(latency_ms, 5),
        "whole_ms": round(whole.latency_ms(), 5),
        "corrected": whole.corrected,
    }


def _tell(task: Task, table: LatencyTable, row: Mapping[str, JsonValue]) -> None:
    """A warning where fewer MACs are not less time, with what would help."""
    figures, origin = task.header.figures, table.origin
    latency, whole = float(str(row["latency_ms"])), float(str(row["whole_ms"]))
    if figures.macs > _CUT * figures.base_macs or latency <= NO_GAIN * whole:
        return
    config = task.header.provenance.get("config")
    step = config.get("round_to") if isinstance(config, dict) else None
    if isinstance(step, int) and step % table.step:
        hint = f"--round-to {table.step} keeps to the blocks of its runtime"
    else:
        hint = (
            f"ask for the time itself: --budget latency_ms={_SHARE * whole:.3g} --device {origin.device} "
            f"--threads {origin.threads} --variant {origin.variant}"
        )
    log.warning(
        "%.0f%% of the MACs take %.3g ms of %.3g on %s (%s): the cut buys no time there; %s",
        100 * figures.macs / max(figures.base_macs, 1),
        latency,
        whole,
        origin.device,
        origin.variant,
        hint,
    )
