"""``edgespa search``: settings for a task, by several goals at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._kinds import LATENCY, Bound, Setting, Words
from edgespa.cli._options import data_options, json_option, model_options, seed_option, was_said
from edgespa.cli._recipes import recipe_options
from edgespa.cli._resuming import saying_when_left
from edgespa.cli._said import say_next, typed
from edgespa.cli._search_recipe import Searched
from edgespa.cli._sections import SEARCH, SEARCH_EXAMPLES
from edgespa.cli._terminal import echo
from edgespa.cli._training import tracker_options

if TYPE_CHECKING:
    from edgespa.models.inputs import InputSizes


@click.command(name="search", cls=Searched, sections=SEARCH, examples=SEARCH_EXAMPLES)
@model_options()
@data_options("data", "eval-data", required=("data",))
@click.option(
    "--validation-data",
    metavar="DATA",
    required=True,
    help="Labelled images that trials are compared on: all of them, and none of --data.",
)
@click.option(
    "--space",
    type=Setting(),
    multiple=True,
    metavar="NAME=VALUES",
    help="What varies: choices (rank=4,8,16) or a range (density=0.3..1:0.05, lr=1e-4..1e-2:log); may be repeated.  "
    "[default: density, rank, adapter, criterion, schedule, round-to, precision]",
)
@click.option(
    "--set",
    "fixed",
    type=Setting(),
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of edgespa adapt that is the same in all trials, or precision or format; may be repeated.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True, help="Of a full training.")
@click.option("--batch-size", type=click.IntRange(min=2), default=64, show_default=True, help="Images at a time.")
@click.option(
    "--augment",
    type=Words(("flip", "crop", "scale", "colour", "mix")),
    default="",
    help="Changes of the training images: flip, crop, scale, colour, mix; several with commas.",
)
@click.option(
    "--goal",
    "goals",
    type=click.Choice(["quality", "latency", "bytes"]),
    multiple=True,
    default=("quality", "latency", "bytes"),
    show_default=True,
    help="What counts; may be repeated.",
)
@click.option(
    "--budget",
    type=Bound(LATENCY, "size_bytes"),
    multiple=True,
    help="What one inference may take, or the file may have: what is beyond it by the latency table, or by its "
    "parameters, is rejected before it is trained. May be repeated.",
)
@click.option("--device", metavar="NAME", default="local", show_default=True, help="Where: see edgespa devices list.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the runtime.")
@click.option(
    "--sampler",
    type=click.Choice(["tpe", "nsga2", "random", "grid"]),
    default="tpe",
    show_default=True,
    help="Who proposes trials: tpe and nsga2 learn from what was; a grid goes through all there is.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many; more than before goes on with a search.  [default: 24, of a grid all]",
)
@click.option(
    "--bracket",
    type=click.IntRange(min=2),
    default=12,
    show_default=True,
    help="Trials that go through the stages together: the best third of them goes on, twice.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Begin nothing new after so long; the same command goes on later.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes at a time.")
@click.option("--ray", metavar="ADDRESS", help="A Ray cluster in their place: auto, local or HOST:PORT.")
@tracker_options(" of each training")
@click.option("--fresh", is_flag=True, help="Give up what an earlier search left in the folder.")
@seed_option()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder of the search; it goes on there."
)
@click.option(
    "--trust",
    is_flag=True,
    expose_value=False,
    help="Take RECIPE.toml as if you had typed it: code, devices, and files anywhere.",
)
@recipe_options()
@json_option()
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    input_shape: InputSizes | None,
    weights: str | None,
    data: str,
    eval_data: str | None,
    images: dict[str, Any],
    space: tuple[tuple[str, Any], ...],
    fixed: tuple[tuple[str, Any], ...],
    budget: tuple[tuple[str, float], ...],
    timeout: float | None,
    output: Path,
    as_json: bool,
    **settings: Any,
) -> None:
    """Search settings for a task: what no other trial beats in quality, time on a device and bytes.

    Trials are cut and foretold first, and what is too slow is not trained. The best third is trained for few epochs,
    the best third of those to the end. Files of the front are proved and measured on the device; --eval-data is looked
    at for those alone. Where it was interrupted, the same command goes on, and repeats no trial.

    In place of MODEL a RECIPE.toml may stand: its table [search] has these options as keys, or its table [adapt] the
    settings of all trials. Needs the extra edgespa[search], but for --sampler grid.
    """
    import edgespa as es
    from edgespa.cli._output import emit_json

    said = {name: value for name, value in settings.items() if was_said(ctx, name)}
    said |= _once("--set", fixed)
    said |= {name: int(value) if name == "size_bytes" else value for name, value in _once("--budget", budget).items()}
    if space:
        said["space"] = _once("--space", space)
    if timeout is not None:
        said["timeout_s"] = timeout
    with saying_when_left(lambda: _kept(output)):
        found = es.search(
            model,
            data=data,
            output=output,
            eval_data=eval_data,
            input_shape=input_shape,
            weights=weights,
            **images,
            **said,
        )
    if as_json:
        emit_json(found.to_dict())
        return
    echo(str(found))
    if found.front:
        best = output / str(found.front[0].folder) / "bundle"
        say_next(f"edgespa ship {typed(best)} --device {found.record.device or 'local'}")


def _once(option: str, pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Names with their values, of which none is said twice, and none that has an option of its own."""
    import inspect

    from edgespa.api.search_verb import search

    found: dict[str, Any] = {}
    for name, value in pairs:
        plain = name.replace("-", "_")
        if plain in found:
            raise click.UsageError(f"{option} {name} is said twice")
        own = option == "--set" and plain in {*inspect.signature(search).parameters, "epochs", "batch_size"}
        if own and plain not in ("settings", "trials"):
            raise click.UsageError(f"{option} {name}: say it with its own option, --{plain.replace('_', '-')}")
        found[plain] = value
    return found


def _kept(output: Path) -> str:
    """What there is of a search that was left."""
    kept = (output / "search.json").is_file()
    return f"{output} keeps what is done: the same command goes on, and repeats nothing" if kept else ""
