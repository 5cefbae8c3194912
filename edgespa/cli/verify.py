"""``edgespa verify``: digests, signature, then the self-check of every variant that can run here."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._options import json_option
from edgespa.cli._trust import require_signers, signers_options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgespa.bundle import OpenBundle
    from edgespa.device.measure.results import Check


@click.command(name="verify")
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
@json_option()
def command(
    bundle: Path,
    signers: Path | None,
    identity: str | None,
    revoked: Path | None,
    no_run: bool,
    pythons: tuple[Path, ...],
    threads: int,
    timeout: float,
    memory: int | None,
    as_json: bool,
) -> None:
    """Check that a bundle, a folder or a packed file, is what was exported.

    Every file's size and SHA-256 are compared with the manifest, and the manifest with its seal and, on demand, with
    its signature. Then the recorded inputs are fed to every model file whose runtime is installed, and the outputs
    compared with the program's, within the manifest's bounds. No code of the bundle is run, and torch is not needed.
    """
    from edgespa.bundle import open_bundle
    from edgespa.cli._output import emit_json
    from edgespa.device.measure.profile import is_own_runner, run_selfcheck

    require_signers(signers, identity, revoked)
    if no_run and pythons:
        raise click.UsageError("--no-run runs nothing in any --python either: give one of them")
    with open_bundle(bundle, signers=signers, identity=identity, revoked=revoked) as opened:
        checks = (
            ()
            if no_run
            else _checks(
                opened.folder, pythons, partial(run_selfcheck, threads=threads, timeout_s=timeout, memory_mib=memory)
            )
        )
        same_runner = is_own_runner(opened.folder)
    ran = [check for check in checks if check.status != "not run"]
    passed = no_run or (bool(ran) and all(check.status == "passed" for check in ran))
    if as_json:
        emit_json(_result(opened, checks, no_run, passed, same_runner))
    else:
        click.echo(f"{bundle}: {len(opened.manifest.files)} files, all as in the manifest")
        if opened.signed is not None:
            click.echo(f"signed by {opened.signed.identity} with {opened.signed.key}")
        if checks:
            _show(checks, runtimes=bool(pythons))
    _remark(opened, checks, no_run, same_runner)
    _fail(bundle, checks, bool(ran) or no_run)


def _checks(folder: Path, pythons: Sequence[Path], run: Callable[..., tuple[Check, ...]]) -> tuple[Check, ...]:
    """Of this environment and of others; what has run in one of them is not reported as not run."""
    from edgespa.errors import DeviceError

    here = run(folder)
    found: list[Check] = []
    for python in pythons:
        there = run(folder, python=python)
        ran = [check for check in there if check.status != "not run"]
        if not ran:
            reasons = "; ".join(dict.fromkeys(reason for check in there for reason in check.failures))
            raise DeviceError(f"{python}: no variant can be run there: {reasons}", "install a runtime in it")
        found += ran
    elsewhere = {check.name for check in found}
    return (*(check for check in here if check.status != "not run" or check.name not in elsewhere), *found)


def _result(
    opened: OpenBundle, checks: Sequence[Check], no_run: bool, passed: bool, same_runner: bool
) -> dict[str, Any]:
    manifest, signed = opened.manifest, opened.signed
    return {
        "bundle": str(opened.given),
        "task": manifest.task,
        "files": len(manifest.files),
        "size_bytes": sum(entry.size_bytes for entry in manifest.files),
        "signature": {
            "status": "good" if signed else "not checked" if opened.is_signed else "absent",
            "identity": signed.identity if signed else None,
            "key": signed.key if signed else None,
        },
        "own_runner": same_runner,
        "run": not no_run,
        "variants": checks,
        "passed": passed,
    }


def _remark(opened: OpenBundle, checks: Sequence[Check], no_run: bool, same_runner: bool) -> None:
    for check in checks:
        if check.status == "not run":
            click.secho(f"NOT RUN: {check.name}: {'; '.join(check.failures)}", err=True, fg="yellow", bold=True)
    if no_run:
        click.secho("NOT RUN: no variant, because of --no-run", err=True, fg="yellow", bold=True)
    if opened.signed is None and opened.is_signed:
        click.echo("note: the signature was not checked: pass --signers FILE", err=True)
    if not same_runner:
        click.echo("note: its run.py is not that of this edgespa, and was not run: look at it before you do", err=True)


def _fail(bundle: Path, checks: Sequence[Check], proved: bool) -> None:
    from edgespa.errors import BundleError, DeviceError

    failed = [f"{check.name} ({'; '.join(check.failures)})" for check in checks if check.status == "failed"]
    if failed:
        raise BundleError(
            f"{bundle}: the self-check fails for {', '.join(failed)}",
            "do not ship these files; if another version of the runtime passes, report it",
        )
    if not proved:
        raise DeviceError(
            f"{bundle}: no variant could be run, nothing is proved",
            "install a runtime (pip install 'edgespa[onnx]'), or pass --no-run to check digests only",
        )


def _show(checks: Sequence[Check], *, runtimes: bool) -> None:
    from edgespa.cli._output import table

    def cell(value: float | None, how: str) -> str | None:
        return None if value is None else format(value, how)

    figures = ["error", "correlation"] if runtimes else ["error", "correlation", "same top-1", "samples"]
    rows = []
    for check in checks:
        values = {
            "error": cell(check.component_error, ".1e"),
            "correlation": cell(check.correlation, ".5f"),
            "same top-1": cell(check.top1_agreement, ".1%"),
            "samples": cell(check.count, ","),
        }
        where = [check.runtime] if runtimes else []
        rows.append([check.name, check.status, *where, *(values[each] for each in figures)])
    table(["variant", "check", *(["runtime"] if runtimes else []), *figures], rows, right=figures)
    ran = [check for check in checks if check.components]
    if ran:
        of = f"{ran[0].components:,} components" if ran[0].components != 1 else "1 component"
        click.echo(f"error, against its own spread, and correlation: of the worst of {of}")
