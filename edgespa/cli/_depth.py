"""What ``edgespa prune --method sls`` has of its own: options, the call, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from edgespa.cli._terminal import echo

if TYPE_CHECKING:
    from edgespa.pruning.depth import Decision

_F = TypeVar("_F", bound=Callable[..., Any])

METHOD = "sls"
METRICS = ("tsne-silhouette", "silhouette", "calinski-harabasz", "davies-bouldin")
OWN = ("data", "alpha", "metric", "keep_depth", "score_images", "plot", "base", "trust")
"""Options that no other method has."""
SHARED = (
    "model",
    "method",
    "input_shape",
    "weights",
    "eval_data",
    "mean",
    "std",
    "limit",
    "eval_limit",
    "labels",
    "class_offset",
    "objective",
    "skip_bad_files",
    "seed",
    "output",
    "overwrite",
)
"""Options that all methods have; those that are in neither are for the removal of units."""


class Depth(click.ParamType[tuple[int, ...]]):
    """``8`` -> ``(8,)``; ``2,2,4,1`` -> ``(2, 2, 4, 1)``."""

    name = "depth"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What the help shows.

        Args:
            param: Not used.
            ctx: Not used.
        """
        return "N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse.

        Args:
            value: As typed, or a tuple already.
            param: The option, for the message.
            ctx: For the message.

        Raises:
            click.BadParameter: It says which part is wrong.
        """
        if not isinstance(value, str):
            return tuple(value)
        parts = [part.strip() for part in value.split(",")]
        for part in parts:
            if not part.isdecimal() or int(part) < 1:
                self.fail(
                    f"'{part}' is not a number of blocks; give 8, or one number per stage, as in 2,2,4,1", param, ctx
                )
        return tuple(int(part) for part in parts)


def depth_options() -> Callable[[_F], _F]:
    """``--data --alpha --metric --keep-depth --score-images --plot``."""
    decorators = [
        click.option("--data", metavar="DATA", help="Labelled images of the task, such as its training data."),
        click.option(
            "--alpha",
            type=click.FloatRange(0, 1, min_open=True),
            default=0.3,
            show_default=True,
            help="Threshold, as a fraction of the score of the last block; less keeps fewer blocks.",
        ),
        click.option(
            "--metric",
            type=click.Choice(METRICS),
            default=METRICS[0],
            show_default=True,
            help="How far classes are apart; all but the first on the features themselves. Davies-Bouldin, which "
            "is less for classes further apart, counts as one over it.",
        ),
        click.option(
            "--keep-depth",
            type=Depth(),
            help="Keep the first N blocks of every stage, or as many as listed of each, instead of scoring.",
        ),
        click.option(
            "--score-images",
            type=click.IntRange(min=8),
            default=1000,
            show_default=True,
            metavar="N",
            help="Images of --data to score on, a seeded, class-balanced part.",
        ),
        click.option(
            "--plot",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Draw the classes at every block and the score per depth to this SVG or PNG file.",
        ),
    ]

    def decorate(function: _F) -> _F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def require_fitting_options(ctx: click.Context) -> None:
    """Refuse options that the chosen method does not look at.

    Args:
        ctx: Of the command.

    Raises:
        click.UsageError: It names them.
    """
    given = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    sls = ctx.params["method"] == METHOD
    names = {parameter.name: parameter.opts[-1] for parameter in ctx.command.params}
    odd = [name for name in given if (name not in (*OWN, *SHARED, "as_json")) == sls and (sls or name in OWN)]
    if odd:
        listed = ", ".join(names[name] for name in odd)
        other = "is for removing channels" if sls else f"is for --method {METHOD}"
        raise click.UsageError(f"{listed} {other}, and the method is {ctx.params['method']}.")
    narrows = ctx.params["head_width"] is not None
    if not sls and ctx.params["density"] is None and ctx.params["budget"][1] is None and not narrows:
        raise click.UsageError("Missing option '--density' (or --budget latency_ms=X): what is to be kept.")


def show_decision(decision: Decision) -> None:
    """Print which blocks go, and what they scored.

    Args:
        decision: What was seen of the blocks.
    """
    from edgespa.cli._output import table

    scores = {each.block.name: each.score for each in decision.scored}
    kept = set(decision.kept)
    rows = []
    for block in decision.blocks:
        threshold = decision.thresholds.get(block.stage)
        state = "kept" if block.name in kept else "removed"
        if block.reason and block.name in kept:
            state = f"kept: {block.reason}"
        rows.append([block.name, *_numbers(scores.get(block.name), threshold), state])
    title = f"{len(kept)} of {len(decision.blocks)} blocks are kept"
    columns = ["block", "score", "threshold", ""] if scores else ["block", ""]
    table(columns, rows if scores else [[row[0], row[-1]] for row in rows], title=title, right=columns[1:-1])
    for stage, why in decision.whole.items():
        echo(f"kept whole: {stage}: {why}")
    if not decision.removed:
        echo("no block goes: give a lower --alpha, or --keep-depth N")


def _numbers(score: float | None, threshold: float | None) -> Sequence[str]:
    return ["" if value is None else f"{value:.4f}" for value in (score, threshold)]
