"""``edgespa tasks``: the task files of a folder, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._help import Explained
from edgespa.cli._options import json_option
from edgespa.cli._sections import TASKS_EXAMPLES
from edgespa.cli._terminal import echo

if TYPE_CHECKING:
    from edgespa.objectives.measured import Measured
    from edgespa.tasks.folder import Family


@click.command(name="tasks", cls=Explained, examples=TASKS_EXAMPLES)
@click.argument("paths", metavar="DIR | diff TASK TASK", nargs=-1, required=True)
@json_option()
def command(paths: tuple[str, ...], as_json: bool) -> None:
    """List the task files of a folder DIR over their bases, or compare two: edgespa tasks diff A.spa B.spa.

    For each base: bytes, density, how well its task files do by the measure of what they learned, what they take
    together with the base, what as many separately fine-pruned models would take (their parameters in float32), and
    from how many tasks on the shared base is the smaller one. No base is opened, and nothing of the files is run.
    """
    if len(paths) == 1:
        _list(Path(paths[0]), as_json)
    elif len(paths) == 3 and paths[0] == "diff":
        _diff(Path(paths[1]), Path(paths[2]), as_json)
    else:
        raise click.UsageError("Give one folder, or: diff A.spa B.spa.")


def _list(folder: Path, as_json: bool) -> None:
    from edgespa.cli._output import emit_json
    from edgespa.errors import TaskFileError
    from edgespa.tasks.folder import read_folder

    found = read_folder(folder)
    if as_json:
        derived = ("shared_bytes", "separate_bytes", "break_even")
        emit_json([{**vars(family), **{key: getattr(family, key) for key in derived}} for family in found.families])
    else:
        _show(found.families)
    if found.errors:
        what = "; ".join(error.message for error in found.errors)
        raise TaskFileError(what, found.errors[0].hint)


def _show(families: Iterable[Family]) -> None:
    from edgespa.cli._output import table

    for family in families:
        known = [each for entry in family.entries for each in (entry.validation, entry.test) if each is not None]
        titles = sorted({each.measure.title for each in known}, key=str.lower)
        rows = [
            [
                e.file,
                e.adapter,
                e.size_bytes,
                e.depth or "all",
                f"{e.channel_density:.1%}",
                f"{e.mac_density:.1%}",
                _quality(e.validation, named=len(titles) > 1),
                _quality(e.test, named=len(titles) > 1),
            ]
            for e in family.entries
        ]
        title = f"base {family.base} ({family.base_bytes:,} bytes, {family.digest[:19]})"
        columns = ["task", "adapter", "bytes", "blocks", "channels", "MACs", "validation", "test"]
        table(columns, rows, title=title, right=["bytes", "blocks", "channels", "MACs", "validation", "test"])
        if titles:
            echo(f"validation, test: {', '.join(titles)}, and of how many images; epochs were chosen by validation")
        together, apart = f"{family.shared_bytes:,}", f"{family.separate_bytes:,}"
        echo(f"together with the base {together} bytes; as separate fine-pruned models {apart} bytes")
        if family.break_even is None:
            echo("the shared base never pays: task files of this size are larger than fine-pruned models")
        else:
            echo(f"the shared base pays from {family.break_even} tasks of this mean size on")


def _diff(one: Path, other: Path, as_json: bool) -> None:
    from edgespa.cli._output import emit_json, table
    from edgespa.tasks.folder import compare
    from edgespa.tasks.task import Task

    found = compare(Task.load(one), Task.load(other))
    if as_json:
        emit_json({**vars(found), "same": found.same})
        return
    if found.fields:
        rows = [[name, _short(a), _short(b)] for name, (a, b) in found.fields.items()]
        table(["", one.name, other.name], rows)
    echo(f"units: {found.units_both} in both, {found.units_one} and {found.units_other} in one only")
    echo(f"tensors: {found.equal} equal, {len(found.tensors)} different, {found.unlike} in one only or reshaped")
    if found.tensors:
        furthest = sorted(found.tensors.items(), key=lambda item: -item[1])[:5]
        table(["furthest apart", "relative distance"], [[name, value] for name, value in furthest])
    if found.same:
        echo("both compute the same")


def _quality(found: Measured | None, *, named: bool) -> str | None:
    """The figure, named where there are several measures, and on how many images."""
    if found is None:
        return None
    title = f"{found.measure.title} " if named else ""
    return f"{title}{found.figure} of {found.images or '?'}{', seen' if found.seen else ''}"


def _short(value: Any) -> str | None:
    text = None if value is None else str(value)
    return text if text is None or len(text) <= 40 else f"{text[:37]}..."
