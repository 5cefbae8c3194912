"""``edgespa inspect``: what can be removed from a model, and what a task has removed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._help import Explained
from edgespa.cli._options import json_option, model_options, trust_option
from edgespa.cli._sections import INSPECT, INSPECT_EXAMPLES
from edgespa.cli._terminal import echo

if TYPE_CHECKING:
    from edgespa.models.inputs import InputSizes

_NAMED = 4


@click.command(name="inspect", cls=Explained, sections=INSPECT, examples=INSPECT_EXAMPLES)
@model_options("MODEL|TASK|BUNDLE|FILE")
@click.option("--base", metavar="MODEL", help="For a task file: its base, if it is not where it was.")
@trust_option()
@click.option("--all", "show_all", is_flag=True, help="List every fixed slot, not only a summary by reason.")
@click.option(
    "--svg", type=click.Path(path_type=Path), help="Draw the channel groups over the module tree to this file."
)
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    help="Write the module tree with all that follows to this page, foldable.",
)
@click.option("--per-layer", is_flag=True, help="List every module: channels, parameters, MACs, what can go.")
@click.option("--overwrite", is_flag=True, help="Replace the drawing or page that is there already.")
@json_option()
def command(
    model: str,
    input_shape: InputSizes | None,
    weights: str | None,
    base: str | None,
    trust: bool,
    show_all: bool,
    svg: Path | None,
    html: Path | None,
    per_layer: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Show the channel groups of a MODEL, what is fixed and why, parameters and MACs.

    For a TASK file (.spa) the kept units and the recorded figures are shown too. With --json every slot is listed with
    the indices of each unit: enough to zero the removed units of the original network by hand and compare. --svg draws
    which layers share a group; --html is a page of the module tree.

    A BUNDLE, or a FILE of one (.tflite, .pte, .param of ncnn, .py), is no model to be opened: of it is shown what it
    says of itself, its task, classes, preprocessing, licence and base. Of .onnx and .pt2 files both are shown.

    A file runs nothing: code that a TASK names as its base runs only if it was used here before, or with --trust.
    """
    import edgespa as es
    from edgespa.api.describing import can_be_described
    from edgespa.cli._output import emit_json
    from edgespa.system.files import refuse_existing, write_whole

    if can_be_described(model):
        _describe(Path(model), as_json, {"--svg": svg, "--html": html, "--per-layer": per_layer, "--all": show_all})
        return
    for path in (svg, html):
        if path is not None:
            refuse_existing(path, overwrite)
    found = es.inspect(model, input_shape=input_shape, weights=weights, base=base, trust=trust)
    if svg is not None:
        write_whole(svg, found.to_svg().encode())
    if html is not None:
        write_whole(html, found.to_html().encode())
    if as_json:
        emit_json(found)
    else:
        _show(dict(found.details), show_all)
        if per_layer:
            _show_modules(found.details["modules"])
        if svg is not None:
            echo(f"drawing: {svg}")
        if html is not None:
            echo(f"page: {html}")


def _show(values: dict[str, Any], show_all: bool) -> None:
    from edgespa.cli._output import table

    task = values.get("task")
    columns = ["group", "units", "slots", "parameters", "MACs"]
    rows = []
    for group in values["groups"]:
        kept = f"{len(group['kept'])} of {group['units']}" if task else group["units"]
        rows.append([group["name"], kept, len(group["slots"]), group["parameters"], _millions(group["macs"])])
    table(columns, rows, title=f"Channel groups of {values['model']}", right=columns[1:])
    _show_fixed(values, show_all)
    _show_blocks(values)
    totals, prunable = values["totals"], values["prunable"]
    echo(
        f"{totals['parameters']:,} parameters, {_millions(totals['macs'])} MACs, {totals['size_bytes']:,} bytes; "
        f"input {' '.join(text.replace(',', 'x') for text in values['inputs'])}"
    )
    echo(
        f"can go: {prunable['units']:,} units in {_counted(prunable['groups'], 'group')}: {prunable['channels']:,} of "
        f"{prunable['all_channels']:,} channels ({prunable['channel_share']:.1%}),\n        up to "
        f"{prunable['parameter_share']:.1%} of the parameters and {prunable['mac_share']:.1%} of the MACs"
    )
    if task:
        _show_task(task)
    if "says" in values:
        from edgespa.api.describing import said_lines

        echo()
        for line in ["What the file says of itself", *said_lines(values["says"])]:
            echo(line)


def _describe(path: Path, as_json: bool, of_a_model: dict[str, object]) -> None:
    """What is no model to be opened."""
    from edgespa.api.describing import describe
    from edgespa.cli._output import emit_json, show
    from edgespa.errors import ConfigError

    if asked := [option for option, value in of_a_model.items() if value]:
        raise ConfigError(
            f"{', '.join(asked)}: of a model's layers, and of {path} it is shown what it says of itself",
            "give the model or the task that it was made of, or leave out the option",
        )
    found = describe(path)
    if as_json:
        emit_json(found)
    else:
        show(found)


def _show_fixed(values: dict[str, Any], show_all: bool) -> None:
    from edgespa.cli._output import table

    fixed = values["fixed"]
    if show_all:
        rows = [[f"{item['tensor']}[{item['dim']}]", len(item["indices"]), item["reason"]] for item in fixed]
        table(["slot", "indices", "fixed because"], rows, title="Fixed", right=["indices"])
        return
    outputs = {(layer["tensor"], layer["out"]) for layer in values["layers"] if layer["operator"] != "parameter"}
    causes: dict[str, list[dict[str, Any]]] = {}
    for item in fixed:
        if item["kind"] == "inner":
            causes.setdefault(item["cause"], []).append(item)
    rows = []
    for cause, items in sorted(causes.items(), key=lambda pair: -len(pair[1])):
        channels = sum(len(item["indices"]) for item in items if (item["tensor"], item["dim"]) in outputs)
        rows.append([cause, len(items), channels, f"{items[0]['tensor']}[{items[0]['dim']}]"])
    if rows:
        table(
            ["fixed because of", "slots", "channels", "for example"], rows, title="Fixed", right=["slots", "channels"]
        )
    kernels, boundary = (sum(item["kind"] == kind for item in fixed) for kind in ("kernel", "boundary"))
    echo(
        f"{'also fixed' if rows else 'fixed'}: kernel extents ({_counted(kernels, 'slot')}), the network's inputs and "
        f"outputs ({_counted(boundary, 'slot')})"
    )


def _show_blocks(values: dict[str, Any]) -> None:
    """One line per stage: its blocks are alike."""
    from edgespa.cli._output import table

    stages: dict[str, list[dict[str, Any]]] = {}
    for block in values["blocks"]:
        stages.setdefault(block["stage"], []).append(block)
    rows = [
        [
            stage,
            len(own),
            sum(block["removable"] for block in own),
            "x".join(map(str, own[-1]["shape"])),
            sum(block["parameters"] for block in own) // len(own),
            _millions(sum(block["macs"] for block in own) // len(own)),
        ]
        for stage, own in stages.items()
    ]
    if rows:
        columns = ["stage", "blocks", "removable", "output", "parameters each", "MACs each"]
        table(columns, rows, title="Residual blocks", right=columns[1:])
    for block in values["blocks"]:
        if block["reason"]:
            echo(f"stays: {block['name']}: {block['reason']}")
    if values["removed"]:
        echo(f"removed blocks: {', '.join(values['removed'])}")


def _show_modules(rows: list[dict[str, Any]]) -> None:
    from edgespa.cli._output import table

    cells = []
    for row in rows:
        before, now = row["base_channels"], row["channels"]
        width = "" if before is None else f"{now}" if now == before else f"{now} of {before}"
        free = (
            "" if before is None else "all" if row["units"] == before else "none" if not row["units"] else row["units"]
        )
        cells.append(
            [
                row["module"],
                row["operator"],
                width,
                f"{row['parameters']:,}" if row["parameters"] else "",
                _macs(row["macs"]),
                free,
            ]
        )
    columns = ["module", "operator", "channels", "parameters", "MACs", "can go"]
    echo()
    table(columns, cells, title="Modules", right=columns[2:])


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _show_task(task: dict[str, Any]) -> None:
    from edgespa.objectives.measured import measured, others

    figures = task["figures"]
    echo(
        f"task {task['file']}: {task['size_bytes']:,} bytes, channel density {figures['channel_density']:.1%}, "
        f"parameters {figures['parameters'] / max(figures['base_parameters'], 1):.1%}, "
        f"MACs {figures['macs'] / max(figures['base_macs'], 1):.1%}"
    )
    widths: dict[str, int] = task["head_widths"]
    for width in sorted(set(widths.values())):
        names = [name for name, each in widths.items() if each == width]
        more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        echo(f"  heads of {_counted(width, 'dimension')}: {', '.join(names[:_NAMED])}{more}")
    for each in measured(task["metrics"]):
        echo(f"  {each.name}: {each}")
    for name, value in others(task["metrics"]).items():
        echo(f"  {name.replace('_', ' ')}: {value:.4g}")


def _macs(macs: int) -> str:
    return "" if not macs else _millions(macs) if macs >= 100_000 else f"{macs:,}"


def _millions(macs: int) -> str:
    return f"{macs / 1e6:,.1f}M"
