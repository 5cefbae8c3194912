"""Options that several commands share, so that a word means the same in all of them.

Each function returns a decorator. Paths are not looked up here: the library does that, and says what to do next.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])

_DATA_HELP = {
    "data": "Training data.",
    "eval-data": "Evaluation data, for accuracy; never trained on.",
    "calibration": "Calibration data: what int8 takes its ranges from.",
}


class InputShape(click.ParamType[tuple[int, ...]]):
    """``1,3,32,32`` -> ``(1, 3, 32, 32)``: sizes of the input, the batch first."""

    name = "shape"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What the help shows.

        Args:
            param: Not used.
            ctx: Not used.
        """
        return "N,C,H,W"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse.

        Args:
            value: As typed, or a tuple already.
            param: The option, for the message.
            ctx: For the message.

        Raises:
            click.BadParameter: It says which part is wrong, and shows one that is right.
        """
        if not isinstance(value, str):
            return tuple(value)
        sizes = []
        for part in _parts(value):
            if not (part.isascii() and part.isdigit()):
                what = f"'{part}' is not a whole number" if part else "a size is missing"
                self.fail(f"{what} in '{value}'; write the sizes with commas, as in 1,3,32,32", param, ctx)
            if int(part) == 0:
                self.fail(f"a size of 0 in '{value}'; every size is at least 1, as in 1,3,32,32", param, ctx)
            sizes.append(int(part))
        if len(sizes) < 2:
            self.fail(f"'{value}' is one size only; write the batch first, then one sample's: 1,3,32,32", param, ctx)
        return tuple(sizes)


class Numbers(click.ParamType[tuple[float, ...]]):
    """``0.5,0.5,0.5`` -> ``(0.5, 0.5, 0.5)``: one number per channel.

    Args:
        positive: Refuse zero and less.
    """

    name = "numbers"

    def __init__(self, *, positive: bool = False) -> None:
        self.positive = positive

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What the help shows.

        Args:
            param: Not used.
            ctx: Not used.
        """
        return "X,Y,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
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
        numbers = []
        for part in _parts(value):
            try:
                number = float(part)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                self.fail(
                    f"'{part}' is not a number in '{value}'; write one per channel, as in 0.5,0.5,0.5", param, ctx
                )
            if self.positive and number <= 0:
                self.fail(f"{part} in '{value}' is not positive", param, ctx)
            numbers.append(number)
        return tuple(numbers)


def _parts(value: str) -> list[str]:
    return [part.strip() for part in value.strip().strip("()[]").split(",")]


def model_options(metavar: str = "MODEL") -> Callable[[_F], _F]:
    """``MODEL --input-shape --weights`` -> ``model: str``, ``input_shape: tuple | None``, ``weights: str | None``.

    ``weights`` stays text: besides a file it may be a word that the library knows.

    Args:
        metavar: What the help calls the argument, for example ``"MODEL|TASK"``.
    """
    return _all(
        click.argument("model", metavar=metavar),
        click.option(
            "--input-shape",
            type=InputShape(),
            help="Sizes of the model's input, the batch first: 1,3,32,32.",
        ),
        click.option(
            "--weights",
            metavar="FILE",
            help="Weights for the model: safetensors, or a PyTorch file of tensors only; 'random' for none.",
        ),
    )


def data_options(*names: str, required: tuple[str, ...] = ()) -> Callable[[_F], _F]:
    """Data sets and how they become inputs.

    ``--data``, ``--eval-data``, ``--calibration`` (those asked for) -> ``str | None``; ``--mean``, ``--std`` ->
    ``tuple[float, ...] | None``; ``--limit`` -> ``int | None``.

    Args:
        *names: Of the data options wanted: ``"data"``, ``"eval-data"``, ``"calibration"``.
        required: Which of them must be given.
    """
    data = [
        click.option(f"--{name}", metavar="DATA", required=name in required, help=_DATA_HELP[name]) for name in names
    ]
    return _all(
        *data,
        click.option(
            "--mean",
            type=Numbers(),
            help="Normalisation: subtracted from pixels in [0, 1], per channel. Recorded, so given only once.",
        ),
        click.option(
            "--std",
            type=Numbers(positive=True),
            help="Normalisation: what the difference is divided by, per channel.",
        ),
        click.option(
            "--limit",
            type=click.IntRange(min=1),
            metavar="N",
            help="Use a seeded, class-balanced part of N samples of each data set.",
        ),
    )


def output_options(what: str, *, required: bool = True) -> Callable[[_F], _F]:
    """``--output PATH --overwrite`` -> ``output: Path``, ``overwrite: bool``.

    Args:
        what: What is written, for the help: ``"The task file"``.
        required: ``--output`` must be given; else it may be None.
    """
    return _all(
        click.option(
            "-o", "--output", type=click.Path(path_type=Path), required=required, help=f"{what} that is written."
        ),
        click.option("--overwrite", is_flag=True, help="Replace what is there already."),
    )


def seed_option() -> Callable[[_F], _F]:
    """``--seed`` -> ``seed: int``, 0 by default."""
    return _all(
        click.option(
            "--seed",
            type=click.IntRange(min=0, max=2**32 - 1),
            default=0,
            show_default=True,
            help="Of everything random: the same seed gives the same result.",
        )
    )


def json_option() -> Callable[[_F], _F]:
    """``--json`` -> ``as_json: bool``."""
    return _all(click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table."))


def _all(*decorators: Callable[[Any], Any]) -> Callable[[_F], _F]:
    def decorate(function: _F) -> _F:
        # The last one applied comes first in the help.
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate
