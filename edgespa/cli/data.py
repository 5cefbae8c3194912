"""``edgespa data``: the health of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgespa.cli._kinds import OBJECTIVES, Named
from edgespa.cli._options import InputShape, inputs_given, json_option, output_options
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._sections import DATA, DATA_EXAMPLES

if TYPE_CHECKING:
    from edgespa.models.inputs import InputSizes


@click.command(name="data", cls=Repeatable, sections=DATA, examples=DATA_EXAMPLES)
@click.argument("data", metavar="DATA")
@click.option("--eval-data", metavar="DATA", help="Test data, of which no picture should be in DATA.")
@click.option(
    "--objective",
    type=Named("edgespa.objectives", OBJECTIVES, own=True),
    help="What is to be learned, where the data have several answers.  [default: what the data are for]",
)
@click.option(
    "--input-shape",
    type=InputShape(),
    multiple=True,
    callback=inputs_given,
    help="Sizes of a model's input, 1,3,224,224: images smaller than that are told, and boxes that become tiny.",
)
@output_options("A JSON file with all that was found", required=False)
@recipe_options()
@json_option()
def command(
    data: str,
    eval_data: str | None,
    objective: str | None,
    input_shape: InputSizes | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Look at every image of DATA: what is in it, what cannot be used, what is there twice, what may mislead.

    Classes and how even they are, sizes, channels, damaged files, equal and nearly equal pictures (in the test data
    too), masks and boxes. Nothing is changed. The exit status is 1 if there are files that cannot be used.
    """
    import edgespa as es
    from edgespa.cli._output import emit_json, show

    found = es.check_data(
        data,
        eval_data=eval_data,
        output=output,
        input_shape=input_shape,
        objective=objective,
        overwrite=overwrite,
    )
    if as_json:
        emit_json(found)
    else:
        show(found)
    if not found.ok:
        raise click.exceptions.Exit(1)
