"""``edgespa adapt``: learn a task on a frozen base while pruning it."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgespa.cli._kinds import CRITERIA, Named, Setting, Words
from edgespa.cli._options import data_options, json_option, model_options, output_options, seed_option, trust_option
from edgespa.cli._pruning import latency_budget, selection_options
from edgespa.cli._recipes import checked, recipe_options
from edgespa.cli._resuming import Resumable, asked_for, resume_options, saying_what_is_kept, typed_in
from edgespa.cli._sections import ADAPT, ADAPT_EXAMPLES

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
@click.option(
    "--adapter",
    type=Named("edgespa.adapters", ("splora", "lora", "ssf", "repadapter", "convpass", "splopa", "full")),
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
@click.option(
    "--adapter-option",
    "adapter_settings",
    type=Setting(),
    multiple=True,
    help="Another option of the adapter, such as alpha=16 for lora, or block=16 for splopa.",
)
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
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=click.IntRange(min=2), default=64, show_default=True, help="Images at a time.")
@click.option(
    "--accumulate",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Batches whose gradients are averaged for one training step.",
)
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    help="Peak learning rate.  [default: by adapter, lower where a few steps show that to be too high]",
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
    type=Words(("flip", "crop", "colour")),
    default="",
    help="Changes of the training images: flip, crop, colour; several with commas.",
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
    "--mixed-precision",
    type=click.Choice(["no", "bf16", "fp16"]),
    help="Precision of the training's passes.  [default: what accelerate was told, else no]",
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
    help="Type of the adapter factors in the task file; what it costs in accuracy is printed.",
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
@seed_option()
@click.option(
    "--log",
    "log_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a JSON document a line for each pruning step and epoch.",
)
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
    for the accuracy in the report. Interrupt with Ctrl-C and go on with: edgespa adapt --resume OUTPUT.resume

    Several processes share the batches when Hugging Face accelerate starts them: accelerate launch -m edgespa adapt ...

    Code that --from TASK names as its base runs only if it was used here before, or with --trust.
    """
    from edgespa.api.early import require_log_possible, require_outputs_possible, require_there
    from edgespa.distributed.ranks import is_main

    weighed = settings["class_weights"] if settings["class_weights"] not in ("none", "balanced") else None
    require_there(
        model=model,
        weights=weights,
        data={"--data": data, "--eval-data": eval_data},
        tasks={"--from": start, "--distill": None if distill == "base" else distill},
        files={"--labels": images["labels"], "--class-weights": weighed},
    )
    if is_main():
        require_outputs_possible(output, overwrite=overwrite, resume=resume, fresh=fresh)
        require_log_possible(log_file)
    latency = latency_budget(click.get_current_context(), settings)

    from edgespa.adaptation.config import AdaptConfig
    from edgespa.api.options import DataOptions
    from edgespa.api.tasks import adapt_to_file
    from edgespa.cli._output import emit_json, progress
    from edgespa.cli._report import show_task, task_summary
    from edgespa.distributed.launch import cpu_processes_to_start, run_processes, said_once
    from edgespa.distributed.processes import Processes
    from edgespa.objectives.class_weights import read_weights

    if weighed is not None:
        settings["class_weights"] = read_weights(Path(weighed))
    source = click.get_current_context().get_parameter_source
    for name in ("adapter", "rank", "kernel"):  # what is not said is the task's that is started from, if it has any
        if source(name) is ParameterSource.DEFAULT:
            del settings[name]
    if adapter_settings:
        settings["adapter_settings"] = dict(adapter_settings)
    config = AdaptConfig.parse(settings, "edgespa adapt")
    checked()
    if (count := cpu_processes_to_start()) > 1:
        folder = typed_in(click.get_current_context())
        with saying_what_is_kept(output):
            status = run_processes(count, ["-m", "edgespa", *sys.argv[1:]], folder)
        raise SystemExit(status)
    if not is_main():
        logging.getLogger("edgespa").setLevel(logging.ERROR)
    processes = Processes.start(config.mixed_precision)
    shown = progress("adapt") if processes.is_main else contextlib.nullcontext()
    with saying_what_is_kept(output), said_once(processes.index), shown as report:
        task = adapt_to_file(
            model,
            data,
            output,
            config,
            input_shape=input_shape,
            weights=weights,
            trust=trust,
            options=DataOptions(**images, seed=config.seed),
            evaluation=eval_data,
            overwrite=overwrite,
            resume=resume,
            fresh=fresh,
            command=asked_for(click.get_current_context(), output),
            distill=distill,
            start=start,
            log_file=log_file,
            progress=report,
            processes=processes,
            latency=latency,
        )
    processes.end()
    if not processes.is_main:
        return
    summary = task_summary(task, output)
    if as_json:
        emit_json(summary)
    else:
        show_task(summary, f"edgespa export {shlex.quote(str(output))} --output {shlex.quote(output.stem)}/")
