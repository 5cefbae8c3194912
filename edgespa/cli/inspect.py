"""``edgespa inspect``: what can be removed from a model, and what a task has removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgespa.cli._options import json_option, model_options


@click.command(name="inspect")
@model_options("MODEL|TASK")
@click.option("--base", metavar="MODEL", help="For a task file: its base, if it is not where it was.")
@click.option("--all", "show_all", is_flag=True, help="List every fixed slot, not only a summary by reason.")
@json_option()
def command(
    model: str,
    input_shape: tuple[int, ...] | None,
    weights: str | None,
    base: str | None,
    show_all: bool,
    as_json: bool,
) -> None:
    """Show the channel groups of a MODEL, what is fixed and why, parameters and MACs.

    For a TASK file (.spa) the kept units and the recorded figures are shown too. With --json every slot is listed with
    the indices of each unit: enough to zero the removed units of the original network by hand and compare.
    """
    from edgespa.base import Base
    from edgespa.cli._output import emit_json
    from edgespa.inspection import describe, describe_task
    from edgespa.task import Task, is_task_file

    if is_task_file(model):
        path = Path(model)
        task = Task.load(path)
        values = describe_task(task, task.open_base(path.absolute().parent, base, weights), path)
    else:
        values = describe(Base.open(model, input_shape, weights))
    if as_json:
        emit_json(values)
    else:
        _show(values, show_all)


def _show(values: dict[str, Any], show_all: bool) -> None:
    from edgespa.cli._output import table

    task = values.get("task")
    columns = ["group", "units", "slots", "parameters", "MACs"]
    rows = []
    for group in values["groups"]:
        kept = f"{len(group['kept'])} of {group['units']}" if task else group["units"]
        rows.append([group["name"], kept, len(group["slots"]), group["parameters"], _millions(group["macs"])])
    table(columns, rows, title=f"Channel groups of {values['model']}", right=columns[1:])
    _show_fixed(values["fixed"], show_all)
    totals, prunable = values["totals"], values["prunable"]
    click.echo(
        f"{totals['parameters']:,} parameters, {_millions(totals['macs'])} MACs, {totals['size_bytes']:,} bytes; "
        f"input {'x'.join(str(size) for size in values['input_shape'])}"
    )
    click.echo(
        f"can go: {prunable['units']:,} units ({prunable['channels']:,} channels) in {prunable['groups']} groups, "
        f"up to {prunable['parameter_share']:.1%} of the parameters and {prunable['mac_share']:.1%} of the MACs"
    )
    if task:
        _show_task(task)


def _show_fixed(fixed: list[dict[str, Any]], show_all: bool) -> None:
    from edgespa.cli._output import table

    if show_all:
        rows = [[f"{item['tensor']}[{item['dim']}]", len(item["indices"]), item["reason"]] for item in fixed]
        table(["slot", "indices", "fixed because"], rows, title="Fixed", right=["indices"])
        return
    reasons: dict[str, list[str]] = {}
    for item in fixed:
        reasons.setdefault(item["reason"].partition(" (at")[0], []).append(f"{item['tensor']}[{item['dim']}]")
    rows = [[reason, len(slots), slots[0]] for reason, slots in sorted(reasons.items(), key=lambda item: -len(item[1]))]
    table(["fixed because", "slots", "for example"], rows, title="Fixed", right=["slots"])


def _show_task(task: dict[str, Any]) -> None:
    figures = task["figures"]
    click.echo(
        f"task {task['file']}: {task['size_bytes']:,} bytes, channel density {figures['channel_density']:.1%}, "
        f"parameters {figures['parameters'] / figures['base_parameters']:.1%}, "
        f"MACs {figures['macs'] / figures['base_macs']:.1%}"
    )
    for name, value in task["metrics"].items():
        click.echo(f"  {name.replace('_', ' ')}: {value:.4g}")


def _millions(macs: int) -> str:
    return f"{macs / 1e6:,.1f}M"
