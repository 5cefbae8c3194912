"""``edgespa adapt``: learn a task on a frozen base while pruning it."""

from __future__ import annotations

import contextlib
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._kinds import CRITERIA, Named, Words
from edgespa.cli._options import data_options, json_option, model_options, output_options, seed_option, trust_option
from edgespa.cli._pruning import said_of, selection_options
from edgespa.cli._recipes import is_dry, recipe_options
from edgespa.cli._resuming import Resumable, asked_for, resume_options, saying_what_is_kept
from edgespa.cli._said import typed_in
from edgespa.cli._sections import ADAPT, ADAPT_EXAMPLES
from edgespa.cli._training import adapter_options, optimiser_options, tracker_options

if TYPE_CHECKING:
    from edgespa.models.inputs import InputSizes


@click.command(name="adapt", cls=Resumable, sections=ADAPT, examples=ADAPT_EXAMPLES)
@model_options("[MODEL]", required=False)
@click.option(
    "--from",
    "start",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="TASK.spa",
    help="Start from a task file: one of edgespa prune, whose channels and blocks are gone and whose weights are "
    "frozen; or one that was adapted, and cut since, whose adapters and head are trained further. MODEL may be left "
    "out.",
)
@trust_option()
@data_options("data", "eval-data", required=("data",))
@adapter_options("splora")
@selection_options(density=1.0)
@click.option(
    "--criterion",
    type=Named("edgespa.criteria", CRITERIA),
    default="taylor",
    show_default=True,
    help="How units are scored.",
)
@click.option(
    "--schedule",
    type=click.Choice(["one-shot", "linear", "cubic", "stepwise"]),
    default="cubic",
    show_default=True,
    help="How the density falls; 'stepwise' takes --prune-fraction of the network at each step.",
)
@click.option(
    "--prune-steps",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Steps of the linear and the cubic schedule.",
)
@click.option(
    "--prune-fraction",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.05,
    show_default=True,
    help="What a step of the stepwise schedule takes.",
)
@click.option(
    "--recovery-epochs",
    type=click.FloatRange(0, min_open=True),
    help="Epochs after each pruning step.  [default: spread over the first half of the training]",
)
@click.option("--lr-restart", is_flag=True, help="Begin the learning-rate schedule anew at each pruning step.")
@click.option(
    "--group-sparsity",
    type=click.FloatRange(0, max=1e6),
    default=0.0,
    show_default=True,
    help="Pull units that hold little towards zero before they are removed, ever more until the last pruning step: the "
    "strength, such as 0.0001.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True, help="Passes over the data.")
@click.option(
    "--quantise",
    type=click.Choice(["int8"]),
    help="Train the last part with weights and activations at the levels of int8 files, for what int8 would lose.",
)
@click.option(
    "--quantise-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.3,
    show_default=True,
    help="That part of the training.",
)
@optimiser_options()
@click.option(
    "--accumulate",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Batches whose gradients are averaged for one training step.",
)
@click.option(
    "--label-smoothing",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Share of each label that is spread over all classes.",
)
@click.option(
    "--class-weights",
    metavar="FILE|balanced",
    default="none",
    show_default=True,
    help="Weights of the classes in the loss; 'balanced' by their number of images. FILE is JSON, an object by class "
    "or a list, or CSV of class,weight.",
)
@click.option(
    "--augment",
    type=Words(("flip", "crop", "scale", "colour", "mix")),
    default="",
    help="Changes of the training images: flip (left to right), crop (shift by an eighth), scale (by 2/3 to 3/2), "
    "colour, mix (with other images; only where nothing but the base says what is right); several with commas. Masks, "
    "boxes and key points go along.",
)
@click.option(
    "--distill",
    metavar="base|TASK.spa",
    help="Learn from the outputs of the base, or of a task learned on it, too.",
)
@click.option(
    "--distill-weight",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Share of the teacher in the loss.",
)
@click.option(
    "--distill-temperature",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    help="Softens the outputs of teacher and task.",
)
@click.option(
    "--norms",
    type=click.Choice(["auto", "keep", "add"]),
    default="auto",
    show_default=True,
    help="'add' puts a batch norm behind each convolution without one, as after folding; 'auto' does where there is "
    "no norm at all and channels go.",
)
@click.option("--freeze-norms", is_flag=True, help="Leave norms and their statistics as in the base.")
@click.option(
    "--store",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Type of the adapter factors in the task file; what it costs in the measure is printed.",
)
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
@click.option(
    "--hold-out",
    type=click.Choice(["random", "block"]),
    default="random",
    show_default=True,
    help="Which part: any images, or of each class images that follow each other, as of a video.",
)
@click.option(
    "--validation-data",
    metavar="DATA",
    help="Choose the best epoch on these instead, such as the data's own validation split.",
)
@seed_option()
@click.option(
    "--log",
    "log_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a JSON document a line for each pruning step and epoch.",
)
@tracker_options()
@resume_options()
@output_options("The task file")
@recipe_options()
@json_option()
def command(
    model: str | None,
    start: Path | None,
    trust: bool,
    input_shape: InputSizes | None,
    weights: str | None,
    data: str,
    eval_data: str | None,
    images: dict[str, Any],
    adapter_settings: tuple[tuple[str, Any], ...],
    distill: str | None,
    log_file: Path | None,
    resume: bool,
    fresh: bool,
    output: Path,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Learn a task on a frozen MODEL while pruning it, and write a task file.

    The base's weights stay as they are; small adapters, norms and the head are trained, and units go for good along a
    schedule, so that later epochs are cheaper. The best epoch is chosen on a part of --data; --eval-data is only used
    for the measure in the report. Interrupt with Ctrl-C and go on with: edgespa adapt --resume OUTPUT.resume

    Several processes share the batches when Hugging Face accelerate starts them: accelerate launch -m edgespa adapt ...

    Code that --from TASK names as its base runs only if it was used here before, or with --trust.
    """
    import edgespa as es
    from edgespa.api.shell import Checked, adding
    from edgespa.cli._output import emit_json
    from edgespa.cli._report import show_task, to_export
    from edgespa.distributed.launch import cpu_processes_to_start, run_processes
    from edgespa.distributed.ranks import is_main

    ctx = click.get_current_context()
    said = said_of(ctx, settings)
    if adapter_settings:
        said["adapter_settings"] = dict(adapter_settings)
    call = partial(
        es.adapt,
        model,
        data=data,
        output=output,
        eval_data=eval_data,
        start=start,
        distill=distill,
        input_shape=input_shape,
        weights=weights,
        trust=trust,
        log_file=log_file,
        resume=resume,
        fresh=fresh,
        overwrite=overwrite,
        **images,
        **said,
    )
    if (count := cpu_processes_to_start()) > 1 and not is_dry(ctx):
        with contextlib.suppress(Checked), adding(only_check=True):
            call()
        with saying_what_is_kept(output):
            status = run_processes(count, ["-m", "edgespa", *sys.argv[1:]], typed_in(ctx))
        raise SystemExit(status)
    if not is_main():
        logging.getLogger("edgespa").setLevel(logging.ERROR)
    with saying_what_is_kept(output), adding(command=partial(asked_for, ctx, output)):
        task = call()
    if not is_main():
        return
    summary = task.to_dict()
    if as_json:
        emit_json(summary)
    else:
        show_task(summary, to_export(output))
