"""Options that adapt and heal share: what is trained, and how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgespa.cli._kinds import Named, Setting
from edgespa.cli._options import together

_F = TypeVar("_F", bound=Callable[..., Any])

ADAPTERS = ("splora", "lora", "mixing", "ssf", "repadapter", "convpass", "splopa", "full")


def adapter_options(default: str) -> Callable[[_F], _F]:
    """``--adapter --rank --kernel --adapter-option``.

    Args:
        default: The adapter.
    """
    return together(
        click.option(
            "--adapter",
            type=Named("edgespa.adapters", ADAPTERS),
            default=default,
            show_default=True,
            help="How weights are changed; 'full' trains and stores all of them.",
        ),
        click.option(
            "--rank", type=click.IntRange(min=1), default=8, show_default=True, help="Inner size of the adapters."
        ),
        click.option(
            "--kernel",
            type=click.Choice(["centre", "full"]),
            default="centre",
            show_default=True,
            help="Which taps of a convolution kernel the adapter changes.",
        ),
        click.option(
            "--adapter-option",
            "adapter_settings",
            type=Setting(),
            multiple=True,
            help="Another option of the adapter, such as alpha=16 for lora, or block=16 for splopa.",
        ),
    )


def optimiser_options() -> Callable[[_F], _F]:
    """``--batch-size --lr --mixed-precision``."""
    return together(
        click.option(
            "--batch-size", type=click.IntRange(min=2), default=64, show_default=True, help="Images at a time."
        ),
        click.option(
            "--lr",
            type=click.FloatRange(0, min_open=True),
            help="Peak learning rate.  [default: by adapter, lower where a few steps show that to be too high]",
        ),
        click.option(
            "--mixed-precision",
            type=click.Choice(["no", "bf16", "fp16"]),
            help="Precision of the training's passes.  [default: what accelerate was told, else no]",
        ),
    )


def tracker_options(of: str = "") -> Callable[[_F], _F]:
    """``--tensorboard FOLDER --mlflow URI``.

    Args:
        of: Of what training, where it is not all that the command does.
    """

    def decorate(function: _F) -> _F:
        tensorboard = click.option(
            "--tensorboard",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="FOLDER",
            help=f"Write event files{of} into a new folder below this one, for: tensorboard --logdir FOLDER",
        )
        mlflow = click.option(
            "--mlflow",
            metavar="URI",
            help=f"Tell MLflow how it goes{of}: http://HOST:5000, or sqlite:///FILE.db.",
        )
        return tensorboard(mlflow(function))

    return decorate
