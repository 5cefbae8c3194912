"""``edgespa verify``: digests, signature, then the self-check of every variant that can run here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgespa.cli._options import json_option, seed_option
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._sections import VERIFY, VERIFY_EXAMPLES
from edgespa.cli._terminal import echo, harmless, secho
from edgespa.cli._trust import require_signers, signers_options

_LAYERS = 20

if TYPE_CHECKING:
    from edgespa.api.results import Verification
    from edgespa.device.measure.quality import DeviceQuality


@click.command(name="verify", cls=Repeatable, sections=VERIFY, examples=VERIFY_EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@signers_options()
@click.option("--no-run", is_flag=True, help="Check sizes, digests and signature only; run nothing.")
@click.option(
    "--python",
    "pythons",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Run in the runtimes of this environment too, ENV/bin/python: 3.8 or newer, with numpy. May be repeated.",
)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    metavar="NAME",
    help="Run the files that it runs in this runtime too: openvino. May be repeated.",
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of the runtime.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="S",
    help="End what runs the files after so many seconds.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="It may allocate so much. [default: 2 GiB and what sizes of files and tensors explain, at most 10 GiB]",
)
@click.option("--by-layer", is_flag=True, help="How far each layer of smaller files is from float32: where it is lost.")
@click.option("--device", metavar="NAME", help="Run the files there, on a device's name or profile, and not here.")
@click.option(
    "--eval-data",
    metavar="DATA",
    help="With --device: run a whole data set through the files, there and here, and measure both.",
)
@click.option(
    "--eval-limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use a seeded, class-balanced part of N samples of --eval-data.  [default: all of it]",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Class names in the order of the model's outputs, one a line.  [default: those of the bundle]",
)
@click.option("--class-offset", type=int, metavar="N", help="Class k of the data is output k + N.")
@click.option(
    "--skip-bad-files", is_flag=True, help="Leave out files of --eval-data that cannot be used, and say which."
)
@seed_option()
@click.option("--fresh", is_flag=True, help="Do not go on with what an interrupted run of the same has left.")
@recipe_options()
@json_option()
def command(
    bundle: Path,
    signers: Path | None,
    identity: str | None,
    revoked: Path | None,
    no_run: bool,
    pythons: tuple[Path, ...],
    runtimes: tuple[str, ...],
    threads: int,
    timeout: float,
    memory: int | None,
    by_layer: bool,
    device: str | None,
    eval_data: str | None,
    eval_limit: int | None,
    labels: Path | None,
    class_offset: int | None,
    skip_bad_files: bool,
    seed: int,
    fresh: bool,
    as_json: bool,
) -> None:
    """Check that a bundle, a folder or a packed file, is what was exported.

    Every file's size and SHA-256 are compared with the manifest, and the manifest with its seal and, on demand, with
    its signature. Then the recorded inputs are fed to every model file whose runtime is installed, and the outputs
    compared with the program's, within the manifest's bounds. No code of the bundle is run, and torch is not needed.

    With --device the files run there. With --eval-data too, every sample of a data set is sent there once, in batches,
    and what that device's runtimes say of it is measured beside what the same files say here. What was answered is kept
    at once: after a cut connection, or a killed run, the same command goes on.
    """
    import edgespa as es
    from edgespa.cli._output import emit_json

    require_signers(signers, identity, revoked)
    if no_run and (pythons or runtimes or by_layer):
        raise click.UsageError("--no-run runs nothing, no --python, --runtime or --by-layer either: give one of them")
    found = es.verify(
        bundle,
        signers=signers,
        identity=identity,
        revoked=revoked,
        run=not no_run,
        pythons=pythons,
        runtimes=runtimes,
        threads=threads,
        timeout_s=timeout,
        memory_mib=memory,
        by_layer=by_layer,
        device=device,
        eval_data=eval_data,
        eval_limit=eval_limit,
        labels=labels,
        class_offset=class_offset,
        skip_bad_files=skip_bad_files,
        seed=seed,
        fresh=fresh,
    )
    if as_json:
        emit_json(found)
    else:
        echo(f"{bundle}: {found.files} files, all as in the manifest")
        if found.signature["status"] == "good":
            echo(f"signed by {found.signature['identity']} with {found.signature['key']}")
        if found.variants:
            _show(found, runtimes=bool(pythons or runtimes or device))
        _show_layers(found)
        if found.there is not None:
            _show_quality(found.there)
    _remark(found)
    _fail(found, runtimes)


def _show_quality(there: DeviceQuality) -> None:
    from edgespa.api.results import quality_table
    from edgespa.cli._output import table

    echo()
    shown = quality_table(there)
    table(shown.columns, shown.rows, title=shown.title, right=shown.right)
    for each in there.rows:
        if each.error is not None:
            text = f"NOT RUN: {there.device}: {each.variant} in {each.runtime}: {each.error}"
            secho(harmless(text), err=True, fg="yellow", bold=True)
        if each.why_not_here is not None:
            secho(harmless(f"NOT RUN: here: {each.why_not_here}"), err=True, fg="yellow", bold=True)
    sent = f"{there.bytes_sent / 1e6:.1f} MB of samples sent"
    more = f", {there.taken_over} batches taken over" if there.taken_over else ""
    echo(harmless(f"{there.device}: {sent}{more}, {there.seconds:.0f} s"))


def _show_layers(found: Verification) -> None:
    from edgespa.cli._output import table

    for name, layers in found.layers.items():
        worst = sorted(layers, key=lambda each: -each.error)[:_LAYERS]
        echo()
        table(
            ("layer", "operator", "error", "dB"),
            [(each.layer, each.op, f"{each.error:.2g}", f"{each.snr_db:.1f}") for each in worst],
            title=f"{name}: the {len(worst)} of {len(layers)} layers that are farthest from float32",
            right=("error", "dB"),
        )


def _remark(found: Verification) -> None:
    for check in found.variants:
        if check.status == "not run":
            secho(f"NOT RUN: {check.name}: {'; '.join(check.failures)}", err=True, fg="yellow", bold=True)
        if check.remark is not None:
            secho(f"note: {check.remark}", err=True, fg="yellow")
    if not found.run:
        secho("NOT RUN: no variant, because of --no-run", err=True, fg="yellow", bold=True)
    if found.signature["status"] == "not checked":
        echo("note: the signature was not checked: pass --signers FILE", err=True)
    if not found.own_runner:
        echo("note: its run.py is not that of this edgespa, and was not run: look at it before you do", err=True)


def _fail(found: Verification, runtimes: Sequence[str]) -> None:
    from edgespa.bundle.variant import FOR_PYTORCH
    from edgespa.errors import BundleError, DeviceError
    from edgespa.system.started import extras_of

    checks = found.variants
    failed = [f"{check.name} ({'; '.join(check.failures)})" for check in checks if check.status == "failed"]
    if failed:
        hint = "do not ship these files; if another version of the runtime passes, report it"
        if re.search(r"[Mm]emory|[Aa]llocat", " ".join(failed)):
            hint = "it may need more memory than it was given: --memory MIB, if you trust its maker; else do not use it"
        raise BundleError(f"{found.bundle}: the self-check fails for {', '.join(failed)}", hint)
    if not found.passed and all(check.name.partition("-")[0] in FOR_PYTORCH for check in checks):
        raise BundleError(
            f"{found.bundle}: its files are to go on from in PyTorch, and nothing runs them on devices",
            "they were proved when they were written; pass --no-run to check digests only",
        )
    if not found.passed:
        raise DeviceError(
            f"{found.bundle}: no variant could be run, nothing is proved",
            f"install a runtime (pip install 'edgespa[{extras_of([check.name for check in checks], runtimes)}]'), "
            "or pass --no-run to check digests only",
        )


def _show(found: Verification, *, runtimes: bool) -> None:
    from edgespa.cli._output import table

    def cell(value: float | None, how: str) -> str | None:
        return None if value is None else format(value, how)

    checks, recorded = found.variants, found.recorded
    quality = next(iter(recorded.values()), None)
    figures = ["error", "correlation"]
    if not runtimes:
        top = any(check.top1_agreement is not None for check in checks)
        figures += [*(["same top-1"] if top else []), "samples", *([quality.of.title] if quality else [])]
    rows = []
    for check in checks:
        values = {
            "error": cell(check.component_error, ".1e"),
            "correlation": cell(check.correlation, ".5f"),
            "same top-1": cell(check.top1_agreement, ".1%"),
            "samples": cell(check.count, ","),
            **({quality.of.title: recorded[check.name].figure} if quality and check.name in recorded else {}),
        }
        where = [check.runtime] if runtimes else []
        rows.append([check.name, check.status, *where, *(values.get(each) for each in figures)])
    table(["variant", "check", *(["runtime"] if runtimes else []), *figures], rows, right=figures)
    ran = [check for check in checks if check.components]
    if quality and not runtimes:
        echo(f"{quality.of.title}: measured when it was exported, on {quality.count:,} samples of {quality.data}")
    if ran:
        of = f"{ran[0].components:,} components" if ran[0].components != 1 else "1 component"
        echo(f"error, against its own spread, and correlation: of the worst of {of}")
