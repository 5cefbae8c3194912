"""``edgespa profile``: latency and memory of a bundle's variants."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgespa.cli._options import json_option

if TYPE_CHECKING:
    from edgespa.device.results import Profile


@click.command(name="profile")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--device", default="local", show_default=True, help="Where to measure; 'local' is this machine.")
@click.option("--variant", "variants", multiple=True, metavar="NAME", help="Only this variant; may be repeated.")
@click.option(
    "--threads", type=click.IntRange(min=1), multiple=True, default=(1,), show_default=True, help="May be repeated."
)
@click.option("--runs", type=click.IntRange(min=1), help="At most so many inferences per process. [default: 200]")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Stop after so long per process.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    help="Repeat every measurement in fresh processes. [default: 1; 3 with --against]",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Another bundle, folder or packed file, measured in alternation, for ratios.",
)
@click.option("--no-save", is_flag=True, help="Do not write the profile into BUNDLE/profiles/.")
@json_option()
def command(
    bundle: Path,
    device: str,
    variants: tuple[str, ...],
    threads: tuple[int, ...],
    runs: int | None,
    seconds: float | None,
    rounds: int | None,
    against: Path | None,
    no_save: bool,
    as_json: bool,
) -> None:
    """Measure latency and memory of a bundle, a folder or a packed file.

    Each variant runs in a process of its own, by the bundle's own run.py: load, first run, at least 10 warm-ups, then
    the runs. p95 is given from 130 runs on and p99 from 662. Ratios between two bundles hold only when both were
    measured in one run: use --against.
    """
    from edgespa.bundle import open_bundle
    from edgespa.cli._output import emit_json, progress
    from edgespa.device.profile import profile_local, save_profile
    from edgespa.errors import DeviceError

    if device != "local":
        raise DeviceError(f"there is no device '{device}'", "this version measures on --device local only")
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(open_bundle(bundle))
        other = stack.enter_context(open_bundle(against)).folder if against else None
        report = stack.enter_context(progress("measuring"))
        profile = profile_local(
            opened.folder,
            against=other,
            variants=variants or None,
            threads=threads,
            runs=runs,
            seconds=seconds,
            rounds=rounds or (3 if against else 1),
            progress=report,
        )
    # Shown before it is saved: a folder that cannot be written must not cost the measurements.
    if as_json:
        emit_json(profile)
    else:
        _show(profile)
    _remark(profile)
    if opened.packed and not no_save:
        click.echo(f"not saved: {bundle} is packed; unpack it to keep profiles beside it", err=True)
    elif not no_save:
        click.echo(f"saved as {save_profile(profile, bundle)}", err=True)


def _show(profile: Profile) -> None:
    from edgespa.cli._output import table

    for bundle in dict.fromkeys(result.bundle for result in profile.results):
        results = [each for each in profile.results if each.bundle == bundle]
        names = [(each.variant, each.threads) for each in results]
        figures = ("min_ms", "mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms")
        times = [tuple(_number(getattr(each, figure)) for figure in figures) for each in results]
        headings = [figure.replace("_", " ") for figure in figures]
        table(
            ("variant", "threads", *headings),
            [(*name, *row) for name, row in zip(names, times, strict=True)],
            title=f"{bundle}: latency of one inference, batch 1",
            right=headings,
        )
        headings = ["file KiB", "load ms", "first run ms", "peak memory MiB"]
        costs = [
            (
                *name,
                f"{each.size_bytes / 1024:.0f}",
                _number(each.load_ms),
                _number(each.first_run_ms),
                _number(None if each.peak_kib is None else each.peak_kib / 1024),
            )
            for name, each in zip(names, results, strict=True)
        ]
        click.echo()
        table(("variant", "threads", *headings), costs, title=f"{bundle}: start and memory", right=headings)
        click.echo()
    if profile.ratios:
        table(
            ("variant", "threads", "ratio", "lowest round", "highest round"),
            [(each.variant, each.threads, each.ratio, each.low, each.high) for each in profile.ratios],
            title=f"p50 of {profile.bundle} / p50 of {profile.against}",
        )
        click.echo()
    rounds = "1 round" if profile.rounds == 1 else f"medians of {profile.rounds} rounds"
    cores = profile.host.affinity or profile.host.logical_cores
    click.echo(f"{profile.host.cpu_model or profile.host.machine}, {cores} cores; {rounds}")


def _number(value: float | None) -> str:
    """Three digits or so: the rest is noise."""
    if value is None:
        return "-"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def _remark(profile: Profile) -> None:
    """Say on stderr what makes these figures incomplete or doubtful."""
    for each in profile.skipped:
        click.secho(f"NOT MEASURED: {each.bundle}: {each.variant}: {each.reason}", err=True, fg="yellow", bold=True)
    load, cores = profile.before.load_average, profile.host.logical_cores
    if load and cores and load[0] > 0.5 * cores:
        click.echo(f"note: the machine was busy before the first run (load {load[0]:.1f}, {cores} cores)", err=True)
    for result in profile.results:
        if result.spread is not None and result.spread > 0.1:
            what = f"{result.bundle}: {result.variant}, {result.threads} thread{'s' if result.threads > 1 else ''}"
            click.echo(f"note: {what}: p50 differs by {result.spread:.0%} between rounds", err=True)
