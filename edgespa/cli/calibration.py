"""``edgespa calibration``: calibration sets by name."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._help import ExplainedGroup
from edgespa.cli._options import (
    Numbers,
    json_option,
    output_options,
    pixel_options,
    require_both,
    seed_option,
    together,
)
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._sections import CALIBRATION_EXAMPLES, CALIBRATION_MAKE
from edgespa.cli._terminal import echo

if TYPE_CHECKING:
    from edgespa.data.calibration import Named


@click.group(name="calibration", cls=ExplainedGroup, examples=CALIBRATION_EXAMPLES)
def command() -> None:
    """List, show, check or make calibration specs: images under a name, for prune and export --calibration.

    A spec is a TOML file: source, count, seed, balance, normalisation. NAME is one that comes with edgespa, whose
    images are looked for in the folder EDGESPA_DATA, or the path of a .toml file.
    """


@command.command(name="list")
@json_option()
def list_(as_json: bool) -> None:
    """List the specs that come with edgespa."""
    from edgespa.cli._output import emit_json, table
    from edgespa.data.calibration import shipped

    specs = shipped()
    if as_json:
        emit_json([_plain(named) for named in specs.values()])
    else:
        rows = [[name, n.spec.count, n.spec.source, n.spec.description] for name, n in specs.items()]
        table(["name", "images", "source", "what"], rows)


@command.command()
@click.argument("name")
@json_option()
def show(name: str, as_json: bool) -> None:
    """Print a spec."""
    from edgespa.cli._output import emit_json
    from edgespa.data.calibration import require_spec

    named = require_spec(name)
    if as_json:
        emit_json(_plain(named))
    else:
        echo(named.spec.to_toml(), nl=False)


@command.command()
@click.argument("name")
@json_option()
def check(name: str, as_json: bool) -> None:
    """Read every image of a spec, and compare their digest with the recorded one."""
    from edgespa.cli._output import emit_json
    from edgespa.data.calibration import check as check_spec
    from edgespa.data.calibration import require_spec
    from edgespa.errors import DataError

    found = check_spec(require_spec(name))
    if as_json:
        emit_json(found)
    else:
        balance = (
            f", {found['fewest_of_a_class']} to {found['most_of_a_class']} of each of {found['classes']} classes"
            if found["classes"]
            else ""
        )
        echo(f"{name}: {found['images']} images{balance}")
        echo(str(found["digest"]) + (", as recorded" if found["same"] else ""))
    if found["same"] is False:
        raise DataError(
            f"{name}: these are not the images that the spec was made of", "get those, or make the spec anew"
        )


@command.command(cls=Repeatable, sections=CALIBRATION_MAKE)
@click.option("--data", required=True, metavar="DATA", help="Where the images are from.")
@click.option("--count", type=click.IntRange(min=1), help="Number of images.  [default: all]")
@click.option(
    "--balance",
    type=click.Choice(["classes", "none"]),
    default="classes",
    show_default=True,
    help="As many of each class as there are, or any, labelled or not.",
)
@click.option("--mean", type=Numbers(), help="Normalisation: subtracted from pixels in [0, 1], per channel.")
@click.option("--std", type=Numbers(positive=True), help="Normalisation: what the difference is divided by.")
@together(*pixel_options())
@click.option("--description", default="", help="For people.")
@seed_option()
@output_options("The .toml file")
@recipe_options()
@json_option()
def make(
    data: str,
    count: int | None,
    balance: str,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    description: str,
    seed: int,
    output: Path,
    overwrite: bool,
    as_json: bool,
    **pixels: Any,
) -> None:
    """Write a spec, with the digest of its images."""
    from edgespa.api.shell import checked
    from edgespa.cli._output import emit_json
    from edgespa.data.calibration import CalibrationSpec, Named
    from edgespa.data.calibration import make as make_spec
    from edgespa.errors import ConfigError
    from edgespa.system.files import expanded, refuse_existing, write_whole

    require_both(mean, std)
    if output.suffix != ".toml":
        raise ConfigError(f"{output}: a calibration spec ends in .toml", f"write it to {output.with_suffix('.toml')}")
    refuse_existing(output, overwrite)
    values = {"source": data, "count": count, "seed": seed, "balance": balance, "mean": mean, "std": std}
    spec = CalibrationSpec.parse({**values, **pixels, "description": description}, "edgespa calibration make")
    checked()
    # A path is taken as the shell means it, not from the folder of the file.
    found = expanded(data.partition(":")[0])
    if found.exists() and not found.is_absolute():
        spec = spec.model_copy(update={"source": str(found.absolute()) + data[len(data.partition(":")[0]) :]})
    spec = make_spec(spec, output.absolute().parent)
    write_whole(output, spec.to_toml().encode())
    if as_json:
        emit_json(_plain(Named(str(output), output.absolute().parent, spec)))
    else:
        echo(f"{output}: {spec.digest}")
        echo(f"for prune and export: --calibration {shlex.quote(str(output))}")


def _plain(named: Named) -> dict[str, object]:
    return {"name": named.name, **named.spec.model_dump(mode="json")}
