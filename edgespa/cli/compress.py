"""``edgespa compress``: from a network and a board to a bundle that is fast enough there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._kinds import LATENCY, Bound
from edgespa.cli._options import data_options, json_option, model_options, output_options, seed_option, was_said
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._resuming import saying_when_left
from edgespa.cli._said import say_next, typed
from edgespa.cli._sections import COMPRESS, COMPRESS_EXAMPLES
from edgespa.cli._terminal import aside

if TYPE_CHECKING:
    from edgespa.models.inputs import InputSizes


@click.command(name="compress", cls=Repeatable, sections=COMPRESS, examples=COMPRESS_EXAMPLES)
@model_options()
@click.option(
    "--images",
    "photos",
    metavar="DATA",
    required=True,
    help="Some hundred images like those that it will see, labels not needed: a folder, a zip, NAME:SPLIT.",
)
@data_options("eval-data")
@click.option(
    "--budget",
    type=Bound(LATENCY, "speedup"),
    required=True,
    help="How fast it is to be: so many milliseconds for one inference, or so many times as fast as its fastest "
    "float32 file.",
)
@click.option("--device", metavar="NAME", default="local", show_default=True, help="Where: see edgespa devices list.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the runtime.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(["onnx", "tflite"]),
    multiple=True,
    default=("onnx", "tflite"),
    show_default=True,
    help="Files that may be chosen among; may be repeated.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "fp16", "int8"]),
    multiple=True,
    default=("fp32", "int8"),
    show_default=True,
    help="Likewise. The fastest that is near enough to the program is taken.",
)
@click.option(
    "--int8-max-loss",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="What int8 may lose of the measure on --eval-data, such as 0.01.  [default: a bound on each output]",
)
@click.option(
    "--heal/--no-heal",
    default=True,
    show_default=True,
    help="Train what is left towards the original, without labels.",
)
@click.option(
    "--heal-steps", type=click.IntRange(min=1), default=1000, show_default=True, help="For so many training steps."
)
@click.option("--keep", multiple=True, metavar="PATTERN", help="Layers that stay whole, such as 'layer1.*'.")
@click.option("--only", multiple=True, metavar="PATTERN", help="The only layers that may be pruned.")
@click.option(
    "--save-task",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="TASK.spa",
    help="Write the task file, too: for other files of the same network, and for a board that has the base.",
)
@click.option("--fresh", is_flag=True, help="Give up the state of another run, which is in the way.")
@seed_option()
@output_options("The bundle, a folder")
@recipe_options()
@json_option()
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    input_shape: InputSizes | None,
    weights: str | None,
    photos: str,
    eval_data: str | None,
    images: dict[str, Any],
    budget: tuple[str, float],
    save_task: Path | None,
    fresh: bool,
    output: Path,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Make a MODEL as fast on a device as asked, losing as little as possible: all of it in one command.

    Its files are measured on the device as it is. If none is fast enough, channels and blocks are removed until one is,
    the rest is trained towards the original on the images, without labels, and the fastest file is proved and written.
    Where it was interrupted, the same command goes on.
    """
    import edgespa as es
    from edgespa.api.shell import adding
    from edgespa.cli._output import emit_json, show

    said = {name: value for name, value in settings.items() if was_said(ctx, name)}
    said[budget[0]] = budget[1]
    with adding(stage=_say), saying_when_left(lambda: _kept(output)):
        found = es.compress(
            model,
            images=photos,
            output=output,
            eval_data=eval_data,
            input_shape=input_shape,
            weights=weights,
            save_task=save_task,
            fresh=fresh,
            overwrite=overwrite,
            **images,
            **said,
        )
    if as_json:
        emit_json(found.to_dict())
    else:
        show(found)
        say_next(f"edgespa ship {typed(output)} --device {found.device}")


def _kept(output: Path) -> str:
    """What there is of a run that was left."""
    from edgespa.tasks.unfinished import state_path

    state = state_path(output)
    return f"{state} keeps the stages that are done: the same command goes on" if state.is_dir() else ""


def _say(stage: str) -> None:
    aside(f"compress: {stage}")
