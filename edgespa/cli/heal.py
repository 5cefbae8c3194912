"""``edgespa heal``: train a cut network towards what it was, without labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from edgespa.cli._kinds import Words
from edgespa.cli._options import data_options, json_option, output_options, seed_option, trust_option
from edgespa.cli._pruning import said_of
from edgespa.cli._recipes import recipe_options
from edgespa.cli._resuming import Resumable, asked_for, resume_options, saying_what_is_kept
from edgespa.cli._sections import HEAL, HEAL_EXAMPLES
from edgespa.cli._training import adapter_options, optimiser_options, tracker_options


@click.command(name="heal", cls=Resumable, sections=HEAL, examples=HEAL_EXAMPLES)
@click.argument("model", metavar="TASK")
@click.option(
    "--original",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="TASK.spa",
    help="The task as it was before it was cut; needed for one that was learned.  [default: the base]",
)
@click.option("--base", metavar="MODEL", help="The base, if it is not where it was.")
@click.option("--weights", metavar="FILE[:KEY]", help="Weights for the base: see edgespa inspect --help.")
@trust_option()
@data_options("calibration", "eval-data", required=("calibration",))
@adapter_options("full")
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Training steps, to whole passes over the images. Twice as many are a little better.",
)
@click.option(
    "--quantise",
    type=click.Choice(["int8"]),
    help="Train with weights and activations at the levels of int8 files: also for a network that lost nothing else.",
)
@optimiser_options()
@click.option(
    "--augment",
    type=Words(("flip", "crop", "scale", "colour", "mix")),
    default=("flip", "crop", "mix"),
    show_default=True,
    help="Changes of the images, which both networks see: flip (left to right), crop (shift by an eighth), scale, "
    "colour, mix (a third each: as it is, laid over another, a rectangle of another). Inputs that are no images stay.",
)
@click.option(
    "--norms",
    type=click.Choice(["keep", "add"]),
    default="keep",
    show_default=True,
    help="'add' puts a batch norm behind each convolution without one, as after folding; merged again on export.",
)
@click.option("--freeze-norms", is_flag=True, help="Leave norms and their statistics as they are.")
@click.option(
    "--store",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Type of the adapter factors in the task file.",
)
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Part of --calibration that is held out; what was lost is told on it.",
)
@seed_option()
@click.option(
    "--log",
    "log_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a JSON document a line for each look at what is held out.",
)
@tracker_options()
@resume_options()
@output_options("The task file")
@recipe_options()
@json_option()
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    original: Path | None,
    base: str | None,
    weights: str | None,
    trust: bool,
    calibration: str,
    eval_data: str | None,
    images: dict[str, Any],
    adapter_settings: tuple[tuple[str, Any], ...],
    log_file: Path | None,
    resume: bool,
    fresh: bool,
    output: Path,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a cut TASK to compute again what it did before it was cut, without labels.

    What its residual blocks give (elsewhere, what its layers read) and its outputs are drawn towards the original's,
    at the units that are left, on a few hundred images. Channels and blocks stay as they are, so it becomes neither
    larger nor slower. How far the outputs are from the original's is told on images that are held out, before and
    after. Interrupt with Ctrl-C and go on with: edgespa heal --resume OUTPUT.resume

    Code that the TASK names as its base runs only if it was used here before, or with --trust.
    """
    import edgespa as es
    from edgespa.api.shell import adding
    from edgespa.cli._output import emit_json
    from edgespa.cli._report import show_task, to_export

    said = said_of(ctx, settings)
    if adapter_settings:
        said["adapter_settings"] = dict(adapter_settings)
    with saying_what_is_kept(output), adding(command=partial(asked_for, ctx, output)):
        task = es.heal(
            model,
            calibration=calibration,
            output=output,
            original=original,
            eval_data=eval_data,
            base=base,
            weights=weights,
            trust=trust,
            log_file=log_file,
            resume=resume,
            fresh=fresh,
            overwrite=overwrite,
            **images,
            **said,
        )
    summary = task.to_dict()
    if as_json:
        emit_json(summary)
    else:
        show_task(summary, to_export(output))
