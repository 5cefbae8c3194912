"""``edgespa evaluate``: what a model, a task or the files of a bundle do on test data, by class and by sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._options import (
    data_options,
    json_option,
    model_options,
    output_options,
    seed_option,
    trust_option,
)
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._sections import EVALUATE, EVALUATE_EXAMPLES
from edgespa.cli._trust import require_signers, signers_options

if TYPE_CHECKING:
    from edgespa.models.inputs import InputSizes


@click.command(name="evaluate", cls=Repeatable, sections=EVALUATE, examples=EVALUATE_EXAMPLES)
@model_options("MODEL|TASK|BUNDLE")
@click.option("--base", metavar="MODEL", help="For a task file: its base, if it is not where it was.")
@trust_option()
@data_options("eval-data", required=("eval-data",), limit=False)
@seed_option()
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME",
    help="Of a bundle: a file to run, onnx-int8; may be repeated.  [default: all]",
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of a bundle: threads of the runtime."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="S",
    help="Of a bundle: end what runs a file where one batch takes so many seconds.",
)
@signers_options()
@click.option(
    "--wrong",
    type=click.IntRange(0, 1000),
    default=100,
    show_default=True,
    metavar="N",
    help="List so many wrong samples of each file; the table shows ten.",
)
@output_options("A JSON file with all that was found", required=False)
@recipe_options()
@json_option()
def command(
    model: str,
    input_shape: InputSizes | None,
    weights: str | None,
    base: str | None,
    trust: bool,
    eval_data: str,
    images: dict[str, Any],
    seed: int,
    variants: tuple[str, ...],
    threads: int,
    timeout: float,
    signers: Path | None,
    identity: str | None,
    revoked: Path | None,
    wrong: int,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Measure a MODEL, a TASK or every file of a BUNDLE on test data: by class, what is taken for what, what is wrong.

    Of classes precision, recall and the samples that are wrong, the surest first; of masks the IoU of each class; of
    boxes the average precision of each. Files of a bundle run in a process of their own, with bounds of memory and
    time, and no code of the bundle is run.
    """
    import edgespa as es
    from edgespa.cli._output import emit_json, show

    require_signers(signers, identity, revoked)
    found = es.evaluate(
        model,
        eval_data=eval_data,
        output=output,
        input_shape=input_shape,
        weights=weights,
        base=base,
        trust=trust,
        variants=variants,
        threads=threads,
        timeout_s=timeout,
        signers=signers,
        identity=identity,
        revoked=revoked,
        wrong=wrong,
        seed=seed,
        overwrite=overwrite,
        **images,
    )
    if as_json:
        emit_json(found)
    else:
        show(found)
