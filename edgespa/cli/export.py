"""``edgespa export``: a bundle of proved model files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgespa.cli._options import data_options, json_option, model_options, output_options, seed_option

if TYPE_CHECKING:
    from edgespa.bundle import Manifest
    from edgespa.inputs import InputSizes


@click.command(name="export")
@model_options("MODEL|TASK")
@click.option("--base", metavar="MODEL", help="For a task file: its base, if it is not where it was.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(["onnx", "tflite"]),
    multiple=True,
    default=["onnx", "tflite"],
    show_default=True,
    help="File formats; may be repeated.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "int8"]),
    multiple=True,
    default=["fp32"],
    show_default=True,
    help="Precisions; may be repeated. int8 needs --calibration.",
)
@data_options("calibration", "eval-data")
@click.option(
    "--int8-cosine",
    type=click.FloatRange(-1, 1),
    default=0.95,
    show_default=True,
    help="Least cosine between the outputs of an int8 file and of the program.",
)
@click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="At most so many images of --calibration are used.",
)
@seed_option()
@output_options("The bundle, a folder,")
@json_option()
def command(
    model: str,
    input_shape: InputSizes | None,
    weights: str | None,
    base: str | None,
    formats: tuple[str, ...],
    precisions: tuple[str, ...],
    calibration: str | None,
    eval_data: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    limit: int | None,
    int8_cosine: float,
    calibration_images: int,
    seed: int,
    output: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Compact, merge, convert and prove a MODEL or TASK, and write a bundle.

    Every file is run and compared with the program it came from, on real images if there are any; if one does not keep
    its bound, no bundle is written.
    """
    from edgespa.cli._output import emit_json, progress
    from edgespa.export.bundle import ExportConfig
    from edgespa.recipes import DataOptions, export_bundle

    config = ExportConfig.parse(
        {
            "formats": tuple(dict.fromkeys(formats)),
            "precisions": tuple(dict.fromkeys(precisions)),
            "int8_cosine": int8_cosine,
            "calibration_images": calibration_images,
            "seed": seed,
        },
        "edgespa export",
    )
    with progress("export") as report:
        manifest = export_bundle(
            model,
            output,
            config,
            input_shape=input_shape,
            base=base,
            weights=weights,
            options=DataOptions(mean, std, limit, seed),
            calibration=calibration,
            evaluation=eval_data,
            overwrite=overwrite,
            progress=report,
        )
    if as_json:
        emit_json(manifest)
    else:
        _show(manifest, output)


def _show(manifest: Manifest, output: Path) -> None:
    from edgespa.cli._output import table

    rows = []
    for variant in manifest.variants:
        parity = variant.parity
        rows.append(
            [
                variant.name,
                f"{variant.size_bytes:,}",
                f"{variant.accuracy.value:.2%}" if variant.accuracy else "-",
                f"{parity.relative_error:.1e}",
                f"{parity.cosine:.5f}",
                "-" if parity.top1_agreement is None else f"{parity.top1_agreement:.1%}",
            ]
        )
    columns = ["variant", "bytes", "accuracy", "rel. error", "cosine", "same top-1"]
    table(columns, rows, right=columns[1:])
    reference = manifest.reference_accuracy
    if reference is not None:
        click.echo(f"the program itself: {reference.value:.2%} on {reference.data}")
    click.echo(f"proved on {manifest.variants[0].parity.inputs}")
    click.echo(f"bundle: {output}")
    click.echo(f"next: edgespa profile {output}")
