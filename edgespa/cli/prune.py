"""``edgespa prune``: remove units without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgespa.cli._options import json_option, model_options, output_options, seed_option
from edgespa.cli._pruning import selection_options


@click.command(name="prune")
@model_options()
@click.option(
    "--method",
    type=click.Choice(["l1", "l2", "random"]),
    default="l1",
    show_default=True,
    help="How units are scored; none of these needs data.",
)
@selection_options(density=None)
@seed_option()
@output_options("The task file")
@json_option()
def command(
    model: str,
    input_shape: tuple[int, ...] | None,
    weights: str | None,
    output: Path,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Remove units of a MODEL by its weights alone, and write a task file.

    Needs no data and trains nothing; that removing the units equals zeroing them is proved on random inputs.
    """
    from edgespa.cli._output import emit_json
    from edgespa.cli._report import show_task, task_summary
    from edgespa.prune import PruneConfig
    from edgespa.recipes import prune_to_file

    config = PruneConfig.parse(settings, "edgespa prune")
    task = prune_to_file(model, output, config, input_shape=input_shape, weights=weights, overwrite=overwrite)
    summary = task_summary(task, output)
    if as_json:
        emit_json(summary)
    else:
        show_task(summary, f"edgespa export {output} --output {output.stem}/")
