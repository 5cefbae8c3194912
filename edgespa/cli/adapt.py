"""``edgespa adapt``: learn a task on a frozen base while pruning it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgespa.cli._options import data_options, json_option, model_options, output_options, seed_option
from edgespa.cli._pruning import selection_options


@click.command(name="adapt")
@model_options()
@data_options("data", "eval-data", required=("data",))
@click.option(
    "--adapter",
    type=click.Choice(["splora", "full"]),
    default="splora",
    show_default=True,
    help="How weights are changed; 'full' trains and stores all of them.",
)
@click.option("--rank", type=click.IntRange(min=1), default=8, show_default=True, help="Inner size of the adapters.")
@click.option(
    "--kernel",
    type=click.Choice(["centre", "full"]),
    default="centre",
    show_default=True,
    help="Which taps of a convolution kernel the adapter changes.",
)
@selection_options(density=1.0)
@click.option(
    "--criterion",
    type=click.Choice(["taylor", "l1", "l2", "random"]),
    default="taylor",
    show_default=True,
    help="How units are scored.",
)
@click.option(
    "--schedule",
    type=click.Choice(["one-shot", "linear", "cubic"]),
    default="cubic",
    show_default=True,
    help="How the density falls.",
)
@click.option("--prune-steps", type=click.IntRange(min=1), default=10, show_default=True, help="Steps of the schedule.")
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=click.IntRange(min=2), default=64, show_default=True, help="Images per step.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Peak learning rate.  [default: by adapter]")
@click.option(
    "--head",
    type=click.Choice(["auto", "keep", "new"]),
    default="auto",
    show_default=True,
    help="Keep the last layer of the base, or train a new one; 'auto' keeps one that is better than a guess.",
)
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Part of --data that the best epoch is chosen on.",
)
@seed_option()
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@output_options("The task file")
@json_option()
def command(
    model: str,
    input_shape: tuple[int, ...] | None,
    weights: str | None,
    data: str,
    eval_data: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    limit: int | None,
    resume: bool,
    output: Path,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Learn a task on a frozen MODEL while pruning it, and write a task file.

    The base's weights stay as they are; small adapters, norms and the head are trained, and units go for good along a
    schedule, so that later epochs are cheaper. The best epoch is chosen on a part of --data; --eval-data is only used
    for the accuracy in the report. Interrupt with Ctrl-C and go on with --resume.
    """
    from edgespa.adapt import AdaptConfig
    from edgespa.cli._output import emit_json, progress
    from edgespa.cli._report import show_task, task_summary
    from edgespa.recipes import DataOptions, adapt_to_file, checkpoint_path

    config = AdaptConfig.parse(settings, "edgespa adapt")
    try:
        with progress("adapt") as report:
            task = adapt_to_file(
                model,
                data,
                output,
                config,
                input_shape=input_shape,
                weights=weights,
                options=DataOptions(mean, std, limit, config.seed),
                evaluation=eval_data,
                overwrite=overwrite,
                resume=resume,
                progress=report,
            )
    except KeyboardInterrupt:
        state = checkpoint_path(output)
        raise KeyboardInterrupt(f"state saved in {state}: go on with --resume" if state.exists() else "") from None
    summary = task_summary(task, output)
    if as_json:
        emit_json(summary)
    else:
        show_task(summary, f"edgespa export {output} --output {output.stem}/")
