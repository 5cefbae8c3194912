"""``edgespa prune``: remove units without training."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._depth import METHOD, depth_options, require_fitting_options, show_decision
from edgespa.cli._options import data_options, json_option, model_options, output_options, seed_option, trust_option
from edgespa.cli._pruning import said_of, selection_options
from edgespa.cli._recipes import recipe_options
from edgespa.cli._resuming import Resumable, asked_for, resume_options, saying_what_is_kept
from edgespa.cli._said import free, typed
from edgespa.cli._sections import PRUNE, PRUNE_EXAMPLES
from edgespa.cli._terminal import echo
from edgespa.cli._training import tracker_options

if TYPE_CHECKING:
    from edgespa.models.inputs import InputSizes

METHODS = (
    "l1", "l2", "random", "geometric-median", "bn-scale", "weight-norm", "layer-weight-norm", "layer-random",
    "layer-in-change", "seq-in-change", "asym-in-change", "layer-greedy-fs", "layer-greedy-fs-fd", "layer-sampling",
    "act-grad", "layer-act-grad", METHOD,
)  # fmt: skip


@click.command(name="prune", cls=Resumable, sections=PRUNE, examples=PRUNE_EXAMPLES)
@model_options("MODEL|TASK")
@data_options("calibration", "eval-data")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="l1",
    show_default=True,
    help="How units are chosen. Without --calibration: the first eight. With labelled --calibration: act-grad, "
    "layer-act-grad. sls removes whole blocks, by --data with a class for each image, or by --keep-depth. All others "
    "take unlabelled images; the best of them is asym-in-change.",
)
@selection_options(density=None, required=False)
@depth_options()
@click.option(
    "--allocation",
    type=click.Choice(["auto", "global", "uniform", "equal-error", "equal-accuracy", "knapsack"]),
    default="auto",
    show_default=True,
    help="How the budget is shared out over layers: by scores over all layers, the same fraction of each, the same "
    "reconstruction error, the same loss of accuracy on --held-out, or (knapsack) the least loss within it, each "
    "layer's width found for itself, for --budget latency_ms=X by the latency table of the device, which is made if "
    "it is absent; 'auto': the knapsack for a latency, else uniform for methods that rank within a layer, and global "
    "for others.",
)
@click.option(
    "--reweight/--no-reweight",
    default=None,
    help="Fit new weights for the layers that read removed channels.  [default: if there is --calibration]",
)
@click.option(
    "--activations",
    type=click.Choice(["layer", "seq", "asym"]),
    help="What new weights are fitted on: inputs in the original network, in the pruned one, or in the pruned one to "
    "give the original outputs.  [default: the method's own, or asym]",
)
@click.option(
    "--widen/--no-widen",
    default=True,
    show_default=True,
    help="For a latency without the allocation knapsack: give widths back that cost no time by the latency table of "
    "the device, where there is one.",
)
@click.option(
    "--blocks/--no-blocks",
    default=True,
    show_default=True,
    help="For a latency, or --allocation knapsack, with asym-in-change: whole residual blocks may go too, where that "
    "loses less for the same.",
)
@click.option(
    "--narrow-heads/--no-narrow-heads",
    default=True,
    show_default=True,
    help="Under the same conditions: heads of attention may get narrower too, each layer's for itself.",
)
@click.option(
    "--head-width",
    type=click.FloatRange(0, min_open=True),
    metavar="N|SHARE",
    help="Make the heads of attention narrower: to N dimensions, or to a share up to 1 of those that there are. Their "
    "new weights change least, on --calibration, what heads compare and hand on; --density may be left out.",
)
@click.option("--bn-reestimate", is_flag=True, help="Take batch-norm statistics anew on --calibration.")
@click.option(
    "--heal",
    is_flag=True,
    help="Then train what is left on --calibration towards the original, without labels; see: edgespa heal.",
)
@click.option(
    "--heal-steps", type=click.IntRange(min=1), default=1000, show_default=True, help="Training steps of --heal."
)
@tracker_options(" of --heal")
@click.option(
    "--spare",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    metavar="FRACTION",
    help="Part of --calibration that nothing is fitted on: those images that edgespa heal, with the same --seed and as "
    "much --validation, tells what is lost on. --heal spares its own.",
)
@click.option("--held-out", metavar="DATA", help="Labelled images to tell the accuracy by.")
@click.option("--base", metavar="MODEL", help="Of a task file: its base, if it is not where it was.")
@trust_option()
@seed_option()
@resume_options()
@output_options("The task file")
@recipe_options()
@json_option()
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    input_shape: InputSizes | None,
    weights: str | None,
    calibration: str | None,
    eval_data: str | None,
    images: dict[str, Any],
    held_out: str | None,
    resume: bool,
    fresh: bool,
    output: Path,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Remove units or blocks of a MODEL without training, and write a task file.

    By its weights alone, or by what a few hundred unlabelled images (--calibration) say: units are chosen so that the
    layers behind them can be made to compute nearly the same, and get new weights for it. That removing the units
    equals zeroing them is proved.

    With --method sls whole residual blocks go, of a MODEL or of a TASK file that adapt has made: from the last block
    down, until the classes of --data are no longer as far apart as --alpha asks for; of a task that learns anything
    else, by --keep-depth. What the task stored for them goes too. Then retrain with: edgespa adapt --from. Code that a
    TASK names as its base runs only if it was used here before, or with --trust.
    """
    require_fitting_options(ctx)
    import edgespa as es
    from edgespa.api.shell import adding
    from edgespa.cli._output import emit_json
    from edgespa.cli._report import show_task, to_export

    with saying_what_is_kept(output), adding(command=partial(asked_for, ctx, output)):
        task = es.prune(
            model,
            output=output,
            calibration=calibration,
            eval_data=eval_data,
            held_out=held_out,
            input_shape=input_shape,
            weights=weights,
            resume=resume,
            fresh=fresh,
            overwrite=overwrite,
            **images,
            **said_of(ctx, settings),
        )
    summary = task.to_dict()
    if task.decision is not None:
        summary["plot"] = settings["plot"] and str(settings["plot"])
    if as_json:
        emit_json(summary)
    elif task.decision is not None:
        show_decision(task.decision)
        show_task(summary, _to_train(output, settings["data"]) if settings["data"] else to_export(output))
        if settings["plot"] is not None:
            echo(f"drawing: {settings['plot']}")
    else:
        show_task(summary, to_export(output))
        _show_fit(summary)


def _to_train(output: Path, data: str) -> str:
    tuned = free(Path(f"{output.stem}-tuned.spa"))
    return f"edgespa adapt --from {typed(output)} --data {shlex.quote(data)} --output {typed(tuned)}"


def _show_fit(summary: dict[str, Any]) -> None:
    from edgespa.cli._output import table

    errors = summary.get("reconstruction_error")
    if errors:
        worst = sorted(errors.items(), key=lambda item: -item[1])[:_SHOWN]
        table(
            ["layer", "reconstruction error"],
            [[name, f"{value:.3f}"] for name, value in worst],
            title=f"largest of {len(errors)} layers that read removed channels (mean {_mean(errors):.3f})",
            right=["reconstruction error"],
        )
    _show_heads(summary.get("heads", {}))
    _show_curves(summary.get("curves", {}))
    for name, why in summary.get("whole", {}).items():
        echo(f"kept whole: {name} ({why})")


def _show_heads(heads: dict[str, Any]) -> None:
    """The products of attention that were changed most, and those that could not be."""
    from edgespa.cli._output import table

    rows, whole = [], {}
    for name, found in heads.items():
        for what, own in found.items():
            if "whole" in own:
                whole[f"{name}, {what}"] = own["whole"]
            elif own["width"] < own["of"]:
                rows.append((own["error"], name, what, f"{own['width']} of {own['of']}"))
    if rows:
        table(
            ["attention", "product", "width", "error"],
            [[name, what, width, f"{error:.3f}"] for error, name, what, width in sorted(rows, reverse=True)[:_SHOWN]],
            title=f"largest of {len(rows)} products of heads that are narrower",
            right=["width", "error"],
        )
    for name, why in list(whole.items())[:_SHOWN]:
        echo(f"as wide as before: {name} ({why})")
    if len(whole) > _SHOWN:
        echo(f"as wide as before: {len(whole) - _SHOWN} more products of heads; --json has all")


def _show_curves(curves: dict[str, Any]) -> None:
    """The groups whose choice of units leaves most, beside what no choice of as many could go below."""
    from edgespa.cli._output import table

    found = []
    for name, curve in curves.items():
        if curve["kept"] is not None:
            at = curve["units"].index(curve["kept"])
            found.append((curve["error"][at], curve["least_error"][at], name, curve["kept"], curve["units"][-1]))
    if found:
        table(
            ["group", "kept", "left by this choice", "by any, at least"],
            [
                [name, f"{kept} of {units}", f"{error:.3f}", f"{least:.3f}"]
                for error, least, name, kept, units in sorted(found, reverse=True)[:_SHOWN]
            ],
            title=f"largest of {len(found)} groups: what the chosen units leave unexplained",
            right=["kept", "left by this choice", "by any, at least"],
        )


_SHOWN = 5


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)
