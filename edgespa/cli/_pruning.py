"""Options that adapt and prune share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


def selection_options(*, density: float | None, required: bool = True) -> Callable[[_F], _F]:
    """``--density --budget --normalisation --round-to --min-width --keep --only``.

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
            type=click.Choice(["channels", "parameters", "macs"]),
            default="channels",
            show_default=True,
            help="What --density is a fraction of.",
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
            default=8,
            show_default=True,
            help="Keep channel counts at multiples of this (narrow layers: of a quarter of their width).",
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
