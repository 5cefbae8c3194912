"""``edgespa verify``: digests, then the self-check of every variant that can run here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgespa.cli._options import json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgespa.device.results import Check


@click.command(name="verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--no-run", is_flag=True, help="Check sizes and digests only; run nothing.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of the runtime.")
@json_option()
def command(bundle: Path, no_run: bool, threads: int, as_json: bool) -> None:
    """Check that a bundle is what was exported.

    Every file's size and SHA-256 are compared with the manifest. Then the bundle's own run.py feeds the recorded
    inputs to every model file whose runtime is installed, and compares with the program's outputs. A bundle from
    an unknown source brings its own code with run.py: look at it with --no-run first.
    """
    from edgespa.bundle import verify_files
    from edgespa.cli._output import emit_json
    from edgespa.device.profile import run_selfcheck

    manifest = verify_files(bundle)
    checks = () if no_run else run_selfcheck(bundle, threads=threads)
    ran = [check for check in checks if check.status != "not run"]
    passed = no_run or (bool(ran) and all(check.status == "passed" for check in ran))
    if as_json:
        result = {
            "bundle": str(bundle),
            "task": manifest.task,
            "files": len(manifest.files),
            "size_bytes": sum(entry.size_bytes for entry in manifest.files),
            "run": not no_run,
            "variants": checks,
            "passed": passed,
        }
        emit_json(result)
    else:
        click.echo(f"{bundle}: {len(manifest.files)} files, all as in the manifest")
        if checks:
            _show(checks)
    for check in checks:
        if check.status == "not run":
            click.secho(f"NOT RUN: {check.name}: {'; '.join(check.failures)}", err=True, fg="yellow", bold=True)
    if no_run:
        click.secho("NOT RUN: no variant, because of --no-run", err=True, fg="yellow", bold=True)
    _fail(bundle, checks, bool(ran) or no_run)


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


def _show(checks: Sequence[Check]) -> None:
    from edgespa.cli._output import table

    def cell(value: float | None, how: str) -> str | None:
        return None if value is None else format(value, how)

    figures = ("abs error", "rel. error", "cosine", "same top-1")
    rows = [
        (
            check.name,
            check.status,
            cell(check.max_abs_error, ".2e"),
            cell(check.relative_error, ".2e"),
            cell(check.cosine, ".6f"),
            cell(check.top1_agreement, ".1%"),
        )
        for check in checks
    ]
    table(("variant", "self-check", *figures), rows, right=figures)
