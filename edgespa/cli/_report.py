"""What adapt and prune say about the task that they leave."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgespa.task import Task


def task_summary(task: Task, path: Path) -> dict[str, Any]:
    """A task file's figures as plain values."""
    figures = task.header.figures
    return {
        "file": str(path),
        "size_bytes": path.stat().st_size,
        "channel_density": figures.channel_density,
        "parameters": figures.parameters,
        "base_parameters": figures.base_parameters,
        "macs": figures.macs,
        "base_macs": figures.base_macs,
        "stored_parameters": figures.stored_parameters,
        "metrics": dict(task.header.metrics),
        "frozen": task.header.provenance.get("frozen", {}),
    }


def show_task(summary: dict[str, Any], next_command: str) -> None:
    """Print a task's figures and what can be done with it."""
    from edgespa.cli._output import table

    rows = [
        ["parameters", f"{summary['parameters']:,}", f"{summary['base_parameters']:,}", _share(summary, "parameters")],
        ["MACs", f"{summary['macs']:,}", f"{summary['base_macs']:,}", _share(summary, "macs")],
        ["channels", "", "", f"{summary['channel_density']:.1%}"],
    ]
    for name, value in summary["metrics"].items():
        if name.endswith("accuracy"):
            rows.append([name.replace("_", " "), f"{value:.2%}", "", ""])
    table(["", "task", "base", "density"], rows, right=["task", "base", "density"])
    if summary["frozen"]:
        click.echo(f"left frozen: {', '.join(f'{name} ({why})' for name, why in summary['frozen'].items())}")
    click.echo(f"{summary['file']}: {summary['size_bytes']:,} bytes")
    click.echo(f"next: {next_command}")


def _share(summary: dict[str, Any], what: str) -> str:
    return f"{summary[what] / summary[f'base_{what}']:.1%}" if summary[f"base_{what}"] else "-"
