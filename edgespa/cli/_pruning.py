"""Options that adapt and prune share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from edgespa.cli._kinds import BudgetOf
from edgespa.cli._options import was_said

_F = TypeVar("_F", bound=Callable[..., Any])


VARIANTS = ("onnx-fp32", "onnx-fp16", "onnx-int8", "tflite-fp32", "tflite-fp16", "tflite-int8")
_OF_LATENCY = ("device", "threads", "variant")


def said_of(ctx: click.Context, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of the call that were said; the library has the defaults of the others.

    Args:
        ctx: Of the command; says what was given.
        settings: Of the command, with ``budget`` as a quantity, or as a latency.

    Raises:
        click.UsageError: Options do not go together.
    """
    said = {name: value for name, value in settings.items() if was_said(ctx, name)}
    quantity, latency_ms = said.pop("budget", (None, None))
    if latency_ms is None:
        for name in _OF_LATENCY:
            if name in said:
                raise click.UsageError(f"--{name} is for --budget latency_ms=X")
        return {**said, **({"budget": quantity} if quantity else {})}
    if "density" in said:
        raise click.UsageError("--density and --budget latency_ms=X exclude each other: the density is found")
    return {**said, "latency_ms": latency_ms}


def selection_options(*, density: float | None, required: bool = True) -> Callable[[_F], _F]:
    """``--density --budget --device --threads --variant --normalisation --round-to --min-width --keep --only``.

    Args:
        density: Default; None if there is none.
        required: Without a default, it must be given.
    """
    decorators = [
        click.option(
            "--density",
            type=click.FloatRange(0, 1, min_open=True),
            default=density,
            required=required and density is None,
            show_default=density is not None,
            help="Fraction to keep, of what --budget says.",
        ),
        click.option(
            "--budget",
            type=BudgetOf(("channels", "parameters", "macs")),
            default="channels",
            show_default=True,
            help="What --density is a fraction of. Or latency_ms=X, in place of --density: candidates are measured "
            "on --device until one takes X ms.",
        ),
        click.option(
            "--device", metavar="NAME", default="local", show_default=True, help="Where latency_ms is measured."
        ),
        click.option(
            "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="With how many latency_ms is."
        ),
        click.option(
            "--variant", type=click.Choice(VARIANTS), default=VARIANTS[0], show_default=True, help="Of what file it is."
        ),
        click.option(
            "--normalisation",
            type=click.Choice(["mean", "l1", "l2", "none"]),
            default="mean",
            show_default=True,
            help="How the scores of a layer are scaled before layers are ranked against each other.",
        ),
        click.option(
            "--round-to",
            type=click.IntRange(min=1),
            default=16,
            show_default=True,
            help="Keep channel counts at multiples of this (halved until it is at most half of a layer's width).",
        ),
        click.option(
            "--min-width",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Least number of channels of a group.",
        ),
        click.option("--keep", multiple=True, metavar="PATTERN", help="Layers that stay whole, such as 'layer1.*'."),
        click.option("--only", multiple=True, metavar="PATTERN", help="The only layers that may be pruned."),
    ]

    def decorate(function: _F) -> _F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate
