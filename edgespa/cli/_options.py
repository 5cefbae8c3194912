"""Options that several commands share, so that a word means the same in all of them.

Each function returns a decorator. Paths are not looked up here: the library does that, and says what to do next.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from edgespa.cli._kinds import OBJECTIVES, Named

if TYPE_CHECKING:
    from edgespa.models.inputs import InputSizes

_F = TypeVar("_F", bound=Callable[..., Any])

_DATA_HELP = {
    "data": "Training data.",
    "eval-data": "Evaluation data, for the objective's measure; never trained on.",
    "calibration": "Calibration images, labels not needed; or the name of a spec, see: edgespa calibration.",
}


class InputShape(click.ParamType[Any]):
    """``1,3,32,32`` -> ``(1, 3, 32, 32)``, the batch first; ``1,16:int64`` -> an `edgespa.models.inputs.InputSize`."""

    name = "shape"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What the help shows.

        Args:
            param: Not used.
            ctx: Not used.
        """
        return "N,C,H,W[:TYPE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse.

        Args:
            value: As typed, or sizes already.
            param: The option, for the message.
            ctx: For the message.

        Raises:
            click.BadParameter: It says which part is wrong, and shows one that is right.
        """
        if not isinstance(value, str):
            return value
        from edgespa.errors import ConfigError
        from edgespa.models.inputs import InputSize

        try:
            size = InputSize.parse(value)
        except ConfigError as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)
        return size if size.dtype else size.shape


def inputs_given(ctx: click.Context, param: click.Parameter, values: tuple[Any, ...]) -> InputSizes | None:
    """What was given as `edgespa.tasks.base.Base.open` takes it."""
    if len(values) <= 1:
        return (values[0] if isinstance(values[0], tuple) else values) if values else None
    from edgespa.models.inputs import InputSize

    return tuple(InputSize(value) if isinstance(value, tuple) else value for value in values)


class Numbers(click.ParamType[tuple[float, ...]]):
    """``0.5,0.5,0.5`` -> ``(0.5, 0.5, 0.5)``: one number per channel.

    Args:
        positive: Refuse zero and less.
        whole: They are whole numbers, from 0.
        metavar: What the help shows.
    """

    name = "numbers"

    def __init__(self, *, positive: bool = False, whole: bool = False, metavar: str = "X,Y,...") -> None:
        self.positive = positive
        self.whole = whole
        self.metavar = metavar

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What the help shows.

        Args:
            param: Not used.
            ctx: Not used.
        """
        return self.metavar

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
        numbers: list[float] = []
        for part in _parts(value):
            if self.whole:
                if not part.isdecimal():
                    self.fail(f"'{part}' is not a whole number in '{value}'; write {self.metavar}", param, ctx)
                numbers.append(int(part))
                continue
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


def model_options(metavar: str = "MODEL", *, required: bool = True) -> Callable[[_F], _F]:
    """``MODEL --input-shape --weights`` -> ``model: str``, ``input_shape: InputSizes | None``, ``weights: str | None``.

    ``weights`` stays text: besides a file it may be a word that the library knows.

    Args:
        metavar: What the help calls the argument, for example ``"MODEL|TASK"``.
        required: MODEL must be given; else it may be None.
    """
    return together(
        click.argument("model", metavar=metavar, required=required),
        click.option(
            "--input-shape",
            type=InputShape(),
            multiple=True,
            callback=inputs_given,
            help="Sizes of the model's input, the batch first: 1,3,32,32. Once for each input, in the order of "
            "forward; a type other than that of the weights goes behind: 1,16:int64.  [default: what the model's "
            "library records]",
        ),
        click.option(
            "--weights",
            metavar="FILE[:KEY]",
            help="Weights for the model: safetensors, or a checkpoint of PyTorch, of which only tensors are made, "
            "with the KEY of the state dict if it has several; 'random' for none.",
        ),
    )


def data_options(*names: str, required: tuple[str, ...] = (), limit: bool = True) -> Callable[[_F], _F]:
    """Data sets and how they become inputs.

    ``--data``, ``--eval-data``, ``--calibration`` (those asked for) -> ``str | None``; all else -> ``images: dict``,
    the arguments of `edgespa.api.options.DataOptions` but the seed.

    Args:
        *names: Of the data options wanted, if any: ``"data"``, ``"eval-data"``, ``"calibration"``.
        required: Which of them must be given.
        limit: There are data that ``--limit`` is of, others than ``--eval-data``.
    """
    data = [
        click.option(f"--{name}", metavar="DATA", required=name in required, help=_DATA_HELP[name]) for name in names
    ]
    return together(
        *data,
        click.option(
            "--mean",
            type=Numbers(),
            help="Normalisation: subtracted from pixels in [0, 1], or of --scale, per channel. Recorded, so given only "
            "once.  "
            "[default: what the model's library records, else 0]",
        ),
        click.option(
            "--std",
            type=Numbers(positive=True),
            help="Normalisation: what the difference is divided by, per channel.  [default: likewise, else 1]",
        ),
        *pixel_options(),
        *([_LIMIT] if limit else []),
        click.option(
            "--eval-limit",
            type=click.IntRange(min=1),
            metavar="N",
            help=f"{'The same' if limit else 'Use a seeded, class-balanced part of N samples'} of --eval-data.  "
            "[default: all of it]",
        ),
        click.option(
            "--labels",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Class names in the order of the model's outputs, one a line.  [default: the order of the data]",
        ),
        click.option(
            "--class-offset",
            type=int,
            metavar="N",
            help="Class k of the data is output k + N, and other outputs have no images: 1 where output 0 is a "
            "background, 0 where labels are the numbers of outputs.",
        ),
        click.option(
            "--objective",
            type=Named("edgespa.objectives", OBJECTIVES, own=True),
            help="What is learned and measured; your own by FILE.py:NAME or PACKAGE.MODULE:NAME.  [default: what the "
            "data are for]",
        ),
        click.option(
            "--skip-bad-files",
            is_flag=True,
            help="Leave out images and annotations that cannot be used, and say which, instead of ending there.",
        ),
        _gathered,
    )


_LIMIT = click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use a seeded, class-balanced part of N samples of each data set but --eval-data (and --validation-data).",
)
_LIBRARY = "  [default: what the model's library records, else {}]"


def pixel_options() -> tuple[Callable[[Any], Any], ...]:
    """How an image becomes an input, beside ``--mean`` and ``--std``: the fields of `edgespa.config.PixelSettings`."""
    return (
        click.option(
            "--resize",
            type=click.Choice(["stretch", "crop", "letterbox"]),
            help="How an image becomes as large as the input, turned as its EXIF orientation says: as a whole, its "
            "proportions not kept; until it covers it, and the middle of that; until it fits into it, and padded. "
            "Recorded, as all of these are." + _LIBRARY.format("stretch"),
        ),
        click.option(
            "--resize-to",
            type=Numbers(whole=True, metavar="N[,M]"),
            help="Shortest side before the middle is taken, or height and width that are covered.  [default: likewise, "
            "else the input's]",
        ),
        click.option(
            "--padding",
            type=Numbers(whole=True, metavar="V[,V,V]"),
            help="What is beside a letterboxed image, 0 to 255, for all channels or each.  [default: 114]",
        ),
        click.option(
            "--interpolation",
            type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
            help="Of resizing, as Pillow has it." + _LIBRARY.format("bilinear"),
        ),
        click.option(
            "--antialias/--no-antialias",
            default=None,
            help="Interpolate over all pixels that become one, as Pillow does; or between the nearest alone, as OpenCV "
            "does.  [default: antialias]",
        ),
        click.option(
            "--scale",
            type=click.Choice(["0-1", "-1-1", "0-255"]),
            help="Of pixels, before mean and std.  [default: 0-1]",
        ),
        click.option(
            "--channel-order",
            type=click.Choice(["rgb", "bgr"]),
            help="Of the input's channels; mean, std and padding are in it." + _LIBRARY.format("rgb"),
        ),
    )


_IMAGES = ("mean", "std", "limit", "eval_limit", "labels", "class_offset", "objective", "skip_bad_files")
PIXELS = ("resize", "resize_to", "padding", "interpolation", "antialias", "scale", "channel_order")


def _gathered(function: _F) -> _F:
    """What is said of images as one argument."""

    @functools.wraps(function)
    def command(*args: Any, **values: Any) -> Any:
        pixels = {name: values.pop(name) for name in PIXELS}
        values["images"] = {name: values.pop(name) for name in _IMAGES if name in values}
        values["images"] |= {name: value for name, value in pixels.items() if value is not None}
        require_both(values["images"]["mean"], values["images"]["std"])
        return function(*args, **values)

    return command  # type: ignore[return-value]  # the same but for its options


def require_both(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    """Ask for the other one where only one of the two is given.

    Raises:
        click.UsageError: It says what is likely meant.
    """
    from edgespa.pixels.normalisation import half_given

    if question := half_given(mean, std):
        raise click.UsageError(question)


def was_said(ctx: click.Context, name: str) -> bool:
    """Whether an option was given, on the command line or by the environment.

    Args:
        ctx: Of the command.
        name: Of its parameter.
    """
    return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT


def output_options(what: str, *, required: bool = True) -> Callable[[_F], _F]:
    """``--output PATH --overwrite`` -> ``output: Path``, ``overwrite: bool``.

    Args:
        what: What is written, for the help: ``"The task file"``.
        required: ``--output`` must be given; else it may be None.
    """
    return together(
        click.option(
            "-o", "--output", type=click.Path(path_type=Path), required=required, help=f"{what} that is written."
        ),
        click.option("--overwrite", is_flag=True, help="Replace what is there already."),
    )


def seed_option() -> Callable[[_F], _F]:
    """``--seed`` -> ``seed: int``, 0 by default."""
    return together(
        click.option(
            "--seed",
            type=click.IntRange(min=0, max=2**32 - 1),
            default=0,
            show_default=True,
            help="Of everything random: the same seed gives the same result.",
        )
    )


def trust_option() -> Callable[[_F], _F]:
    """``--trust`` -> ``trust: bool``."""
    return together(
        click.option(
            "--trust",
            is_flag=True,
            help="Run the code that a task file names as its base, also if it was not used here before.",
        )
    )


def json_option() -> Callable[[_F], _F]:
    """``--json`` -> ``as_json: bool``."""
    return together(
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table.")
    )


def together(*decorators: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """Several decorators as one, the first of them first in the help."""

    def decorate(function: _F) -> _F:
        # The last one applied comes first in the help.
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate
