"""``edgespa export``: a bundle of proved model files."""

from __future__ import annotations

from collections.abc import Sequence
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
    was_said,
)
from edgespa.cli._otherwise import PACKED, Otherwise
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._said import said, say_next, typed
from edgespa.cli._sections import EXPORT, EXPORT_EXAMPLES
from edgespa.cli._terminal import echo, secho

if TYPE_CHECKING:
    from edgespa.bundle import Manifest, Variant
    from edgespa.models.inputs import InputSizes


@click.command(name="export", cls=Repeatable, sections=EXPORT, examples=EXPORT_EXAMPLES)
@model_options("MODEL|TASK")
@click.option("--base", metavar="MODEL", help="For a task file: its base, if it is not where it was.")
@trust_option()
@click.option(
    "--format",
    "formats",
    type=click.Choice(["onnx", "tflite", "ncnn", "executorch", "pt2", "python"]),
    multiple=True,
    default=["onnx", "tflite"],
    show_default=True,
    help="File formats; may be repeated. ncnn and executorch are for fp32 and fp16, ncnn one sample at a time; pt2 and "
    "python are to go on from in PyTorch, in fp32.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "fp16", "int8", "int8-weights"]),
    multiple=True,
    default=["fp32"],
    show_default=True,
    help="Precisions; may be repeated. int8 needs --calibration; int8-weights has only its weights in int8.",
)
@data_options("calibration", "eval-data")
@click.option(
    "--int8-tolerance",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.3,
    show_default=True,
    help="Most that any component of the outputs of an int8 file may be off, as a share of how much it varies. The "
    "layers that int8 hurts most stay in float until it is kept.",
)
@click.option(
    "--int8-max-loss",
    type=click.FloatRange(min=0),
    metavar="X",
    help="In place of the tolerance: most that an int8 file may lose of the objective's measure on --eval-data; 0.01 "
    "of accuracy or mIoU is one in a hundred.",
)
@click.option(
    "--fp32-tolerance",
    type=click.FloatRange(1e-4, 1e-3),
    default=1e-4,
    show_default=True,
    help="The same of float32 files, where the network's own rounding does not explain more.",
)
@click.option(
    "--int8-calibration",
    type=click.Choice(["auto", "minmax", "percentile", "entropy", "mse"]),
    default="auto",
    show_default=True,
    help="How the ranges of int8 activations are found; auto takes the nearest to the program.",
)
@click.option(
    "--int8-rounding",
    type=click.Choice(["auto", "nearest"]),
    default="auto",
    show_default=True,
    help="Weights to their nearest levels; or, auto, so that outputs come nearest, with biases moved too.",
)
@click.option(
    "--int8-scheme",
    type=click.Choice(["asymmetric", "symmetric"]),
    default="asymmetric",
    show_default=True,
    help="Of ONNX files; symmetric levels are what TensorRT takes, and what --device of a Jetson asks for.",
)
@click.option(
    "--int8-io",
    type=click.Choice(["float32", "int8", "uint8"]),
    default="float32",
    show_default=True,
    help="Of TFLite files: inputs and outputs in integers, and every operator too, as Coral and NPUs take them.",
)
@click.option(
    "--int8-slowdown",
    type=click.FloatRange(0, min_open=True),
    help="Leave out a file smaller than fp32 that takes more than so many times fp32's time: on this machine, or by "
    "what is published of --device; default: write it and say so.",
)
@click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="At most so many images of --calibration are used.",
)
@click.option(
    "--layout",
    type=Otherwise(["nhwc", "nchw"], dict.fromkeys(("oci", "tar"), PACKED)),
    default="nhwc",
    show_default=True,
    help="Of the images that TFLite files take.",
)
@click.option(
    "--also-size",
    "also_sizes",
    multiple=True,
    metavar="HxW",
    help="Of TFLite files: another size of the image that they take, 160x160, by a signature, with the same weights; "
    "may be repeated.",
)
@click.option(
    "--batch", type=click.IntRange(min=1), help="A fixed batch size; default: any in ONNX files, 1 in TFLite files."
)
@click.option(
    "--onnx-runtime",
    metavar="VERSION",
    help="The oldest ONNX Runtime that loads the files: 1.19 is JetPack 5's, 1.10 JetPack 4's.  [default: 1.19, or the "
    "oldest of --device]",
)
@click.option(
    "--device",
    metavar="NAME",
    help="Write the files for this device, by its profile (the oldest ONNX Runtime, the time of int8); nothing is "
    "connected.",
)
@click.option(
    "--opset", type=click.IntRange(min=1), help="Of ONNX files; default: what that runtime knows, at most 20."
)
@click.option(
    "--preprocess",
    type=click.Choice(["outside", "in-graph"]),
    default="outside",
    show_default=True,
    help="in-graph: the files take pixels, uint8 N,H,W,C, and normalise them by themselves.",
)
@click.option(
    "--decode",
    type=click.Choice(["outside", "in-graph"]),
    default="outside",
    show_default=True,
    help="Of a detector. in-graph: the files give boxes, classes, scores and their count, overlaps suppressed, as "
    "MediaPipe takes them; outside: their raw outputs, which run.py reads.",
)
@click.option(
    "--cache/--no-cache", default=True, show_default=True, help="Take files from the cache where nothing changed."
)
@click.option("--strict", is_flag=True, help="No bundle, and exit 1, unless every file that is asked for is there.")
@click.option(
    "--max-latency",
    "max_latency_ms",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help="What an inference may take at most, as a median, on the devices that this is for: one whose health window "
    "(--watch of edgespa ship) measures more goes back.",
)
@click.option(
    "--sign",
    "sign_key",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Sign the bundle with this OpenSSH key, as edgespa sign does.",
)
@click.option("--license", metavar="TEXT", help="Licence of the base's weights, for the model card: Apache-2.0.")
@seed_option()
@output_options("The bundle, a folder,")
@recipe_options()
@json_option()
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    input_shape: InputSizes | None,
    weights: str | None,
    base: str | None,
    trust: bool,
    calibration: str | None,
    eval_data: str | None,
    images: dict[str, Any],
    device: str | None,
    sign_key: Path | None,
    license: str | None,
    output: Path,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Compact, merge, convert and prove a MODEL or TASK, and write a bundle.

    Every file is run and compared with the program it came from, component by component, on real images if there are
    any. One that cannot be made, or is not near enough, is left out, and you are told.

    Code that a TASK names as its base runs only if it was used here before, or with --trust.
    """
    import edgespa as es
    from edgespa.cli._output import emit_json

    if device is not None and settings["onnx_runtime"] is not None:
        raise click.UsageError("--device names an ONNX Runtime too: leave out --onnx-runtime")
    said = {name: value for name, value in settings.items() if was_said(ctx, name)}
    for name in ("formats", "precisions", "also_sizes"):
        if name in said:
            said[name] = tuple(dict.fromkeys(said[name]))
    bundle = es.export(
        model,
        output=output,
        calibration=calibration,
        eval_data=eval_data,
        input_shape=input_shape,
        weights=weights,
        base=base,
        trust=trust,
        device=device,
        sign_key=sign_key,
        license=license,
        overwrite=overwrite,
        **images,
        **said,
    )
    if as_json:
        emit_json(bundle)
    else:
        _show(bundle.manifest, output, device)


def _show(manifest: Manifest, output: Path, device: str | None) -> None:
    from edgespa.cli._output import table

    agreed = next((each.agreement for each in manifest.variants if each.agreement), None)
    title = [manifest.measure.title] if any(each.accuracy for each in manifest.variants) else []
    same = ["same signs" if agreed.what == "signs" else "same top"] if agreed else []
    rows = []
    for variant in manifest.variants:
        parity, agreement = variant.parity, variant.agreement
        rows.append(
            [
                variant.name,
                f"{variant.size_bytes:,}",
                *([variant.accuracy.figure if variant.accuracy else "-"] if title else []),
                f"{parity.component_error:.1e}",
                "-" if parity.correlation is None else f"{parity.correlation:.5f}",
                *(["-" if agreement is None else f"{agreement.value:.1%}"] if same else []),
            ]
        )
    columns = ["variant", "bytes", *title, "error", "correlation", *same]
    table(columns, rows, right=columns[1:])
    reference = manifest.reference_accuracy
    if reference is not None:
        of = f"on {reference.count:,} images of {reference.data}"
        echo(f"test {reference.of.title}: {of}; the program itself: {reference.figure}")
    if agreed is not None:
        echo(f"same {agreed.what} as the program: on {agreed.count:,} images of {agreed.data}")
    parity = manifest.variants[0].parity
    components = f"the worst of {parity.components:,} components" if parity.components != 1 else "the output"
    echo(f"error, against its own spread, and correlation: of {components}, on {parity.inputs}")
    for variant in manifest.variants:
        if (gained := _gained(variant)) is not None:
            echo(f"{variant.name}: {gained}")
        if variant.float_layers:
            echo(f"{variant.name}: {_layers(variant.float_layers)} in float, where int8 hurts")
        if variant.max_loss is not None and (lost := manifest.lost(variant)) is not None:
            of = f"{max(lost, 0.0):.3g} of {manifest.measure.title}"
            echo(f"{variant.name}: loses {of}, and may lose {variant.max_loss:g}")
        if variant.time_ratio is not None and variant.time_ratio > SLOWER:
            there = _known_there(device, variant.precision)
            echo(
                f"{variant.name}: takes {variant.time_ratio:.2f} times fp32's time on this machine; {there}profile it "
                "there, or leave out what is slower with --int8-slowdown 1.1"
            )
    for smaller, plain in _larger_than_float32(manifest.variants):
        echo(f"{smaller}: larger than {plain}; what it gains can be time only: profile both")
    left_out = manifest.provenance.get("left_out")
    for each in left_out if isinstance(left_out, list) else []:
        if isinstance(each, dict):
            secho(f"NOT WRITTEN: {each['variant']}: {each['reason']}", err=True, fg="yellow", bold=True)
            if each.get("hint"):
                echo(f"hint: {said(str(each['hint']))}", err=True)
    echo(f"bundle: {output}")
    say_next(f"edgespa profile {typed(output)}")


SLOWER = 1.1


def _larger_than_float32(variants: Sequence[Variant]) -> list[tuple[str, str]]:
    """Names of int8 files, each with the float32 file of its format, which is smaller."""
    plain = {each.format: each for each in variants if each.precision == "fp32"}
    return [
        (each.name, plain[each.format].name)
        for each in variants
        if each.precision == "int8" and each.format in plain and each.size_bytes > plain[each.format].size_bytes
    ]


def _known_there(device: str | None, precision: str) -> str:
    """What is known of a precision's time on the device that files are for."""
    from edgespa.device import load_device

    board = load_device(device) if device is not None else None
    ratio = board.int8_ratio() if board is not None and precision == "int8" else None
    if ratio is not None:
        return f"published for int8 on the device: {ratio:.2f}; "
    if board is not None and board.gpu is not None and precision == "fp16":
        return "on the device it is for the GPU; "
    return ""


def _gained(variant: Variant) -> str | None:
    """What rounded weights and moved biases brought; None where it is nothing."""
    if (gained := variant.gained) is None:
        return None
    how, error, plain = gained
    return f"with {' and '.join(how)} the error is {error:.3g}, with nearest levels {plain:.3g} (all layers in int8)"


def _layers(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} layer{'s' if len(names) > 1 else ''} ({shown}{', ...' if len(names) > 3 else ''})"
