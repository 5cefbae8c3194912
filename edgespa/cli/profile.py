"""``edgespa profile``: latency and memory of a bundle's variants, on one device or on several at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgespa.cli._devices import group_option
from edgespa.cli._options import json_option
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._said import said
from edgespa.cli._sections import PROFILE, PROFILE_EXAMPLES
from edgespa.cli._terminal import aside, echo
from edgespa.cli._trust import require_signers, signers_options

if TYPE_CHECKING:
    from edgespa.api.results import Profile
    from edgespa.device.fleet import Outcome

_SECONDS = click.FloatRange(min=0, min_open=True)


@click.command(name="profile", cls=Repeatable, sections=PROFILE, examples=PROFILE_EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--device",
    "devices",
    multiple=True,
    default=("local",),
    show_default=True,
    metavar="NAME",
    help="Where to measure, see: edgespa devices; 'local' is this machine. May be repeated: all at once.",
)
@group_option()
@click.option("--variant", "variants", multiple=True, metavar="NAME", help="Only this variant; may be repeated.")
@click.option(
    "--threads", type=click.IntRange(min=1), multiple=True, default=(1,), show_default=True, help="May be repeated."
)
@click.option(
    "--tune",
    is_flag=True,
    help="Try numbers of threads, and the fast cores alone where some are faster; write the fastest into the bundle, "
    "as --pick fastest does.",
)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    metavar="NAME",
    help="What runs the files, such as onnxruntime or openvino. May be repeated. [default: all that are there]",
)
@click.option(
    "--arithmetic",
    "arithmetics",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    multiple=True,
    help="What float32 is computed in. May be repeated. [default: all that a runtime can on the processor]",
)
@click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME",
    help="What computes: cpu, cuda, tensorrt, or a name of ONNX Runtime's. May be repeated. [default: cpu]",
)
@click.option(
    "--pick",
    type=click.Choice(["fastest"]),
    help="Write into the bundle what run.py takes by itself from now on: the fastest file and runtime of those "
    "measured whose recorded outputs come out on the device.",
)
@click.option("--runs", type=click.IntRange(min=1), help="At most so many inferences per process. [default: 200]")
@click.option("--seconds", type=_SECONDS, help="Stop after so long per process.")
@click.option("--duration", type=_SECONDS, metavar="S", help="As --seconds, and read the sensors meanwhile.")
@click.option(
    "--cooldown",
    type=_SECONDS,
    metavar="S",
    help="Before each process, wait until the device is as cool as at the beginning, at most so many seconds.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    help="Repeat every measurement in fresh processes. [default: 1; 3 with --against]",
)
@click.option("--power-mode", metavar="NAME", help="Refuse a Jetson that is in another one (nvpmodel): MAXN, 15W.")
@click.option("--fixed-clocks", is_flag=True, help="Refuse a device whose clocks are not held, as by jetson_clocks.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Another bundle, folder or packed file, measured in alternation, for ratios.",
)
@signers_options()
@click.option("--trust", is_flag=True, help="Let the bundle's own run.py measure, not edgespa's: code of its maker.")
@click.option("--by-layer", is_flag=True, help="What each operator takes, too, beside the device's latency table.")
@click.option("--again", is_flag=True, help="Measure all anew, also what an interrupted run of the same has left.")
@click.option("--no-save", is_flag=True, help="Do not write the profile into BUNDLE/profiles/.")
@recipe_options()
@json_option()
def command(
    bundle: Path,
    devices: tuple[str, ...],
    groups: tuple[str, ...],
    variants: tuple[str, ...],
    threads: tuple[int, ...],
    tune: bool,
    runtimes: tuple[str, ...],
    arithmetics: tuple[str, ...],
    providers: tuple[str, ...],
    pick: str | None,
    runs: int | None,
    seconds: float | None,
    duration: float | None,
    cooldown: float | None,
    rounds: int | None,
    power_mode: str | None,
    fixed_clocks: bool,
    against: Path | None,
    signers: Path | None,
    identity: str | None,
    revoked: Path | None,
    trust: bool,
    by_layer: bool,
    again: bool,
    no_save: bool,
    as_json: bool,
) -> None:
    """Measure latency and memory of a bundle, a folder or a packed file.

    Each variant runs in a process of its own, by edgespa's own runner (no code of the bundle, without --trust): load,
    first run, at least 10 warm-ups, then the runs. p95 is given from 130 runs on and p99 from 662. Ratios between two
    bundles hold only when both were measured in one run: use --against.

    On another device the bundle is copied once; what was slowed down, short of cores, beside other work or swapping
    meanwhile is said to be, and so is what of that cannot be read there. With several devices one that fails does not
    stop the others; the exit status is 1 then. Each measurement is kept at once: after an interruption the same command
    goes on with the rest, within a day.
    """
    import edgespa as es
    from edgespa.api.profiling import kept_words
    from edgespa.bundle import read_manifest
    from edgespa.cli._output import emit_json
    from edgespa.cli._profile import remark, show, show_fleet, show_layers, way_of
    from edgespa.cli._report import how_well

    require_signers(signers, identity, revoked)
    try:
        measured = es.profile(
            bundle,
            device=devices,
            group=groups,
            against=against,
            variants=variants or None,
            threads=threads,
            tune=tune,
            runtimes=runtimes or None,
            arithmetics=arithmetics,
            providers=providers,
            pick=pick,
            runs=runs,
            seconds=seconds,
            duration=duration,
            cooldown=cooldown,
            rounds=rounds,
            signers=signers,
            identity=identity,
            revoked=revoked,
            trust=trust,
            power_mode=power_mode,
            fixed_clocks=fixed_clocks,
            by_layer=by_layer,
            again=again,
            save=not no_save,
        )
    except SystemExit as error:
        for note in getattr(error, "__notes__", ()):
            aside(note)
        raise
    found = [each.measured for each in measured.profiles]
    several = len(measured.outcomes) > 1
    if as_json and found and not several:
        emit_json(found[0])
    elif as_json:
        emit_json([_plain(outcome) for outcome in measured.outcomes])
    else:
        for profile in found:
            show(profile, titled=several)
            if by_layer:
                show_layers(profile, bundle)
        if several:
            show_fleet(measured.outcomes)
        if found and bundle.is_dir() and (words := how_well(read_manifest(bundle))) is not None:
            echo(words)
    for each in measured.profiles:
        remark(each.measured)
        if (pick is not None or tune) and not as_json and each.measured.fastest is not None:
            aside(f"written into {bundle}: run.py takes {way_of(each.measured.fastest)} by itself from now on")
        if each.unsaved is not None:
            raise each.unsaved
        if each.saved is not None:
            aside(f"saved as {each.saved}")
        elif not no_save:
            aside(f"not saved: {bundle} is packed; unpack it to keep profiles beside it")
    if measured.kept:
        aside(kept_words(measured.kept))
    _fail_if_any(measured.outcomes)


def _plain(outcome: Outcome[Profile]) -> dict[str, object]:
    error = outcome.error
    return {
        "device": outcome.device.name,
        "profile": None if outcome.result is None else outcome.result.to_dict(),
        "error": None if error is None else {"message": error.message, "hint": error.hint},
    }


def _fail_if_any(outcomes: Sequence[Outcome[Profile]]) -> None:
    from edgespa.errors import DeviceError

    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if len(outcomes) == 1 and failed and failed[0].error is not None:
        raise failed[0].error
    if failed:
        names = ", ".join(outcome.device.name for outcome in failed)
        for outcome in failed:
            if outcome.error is not None:
                echo(f"{outcome.device.name}: {outcome.error.message}", err=True)
                if outcome.error.hint:
                    echo(f"  Hint: {said(outcome.error.hint)}", err=True)
        raise DeviceError(f"{len(failed)} of {len(outcomes)} devices failed: {names}", "what went wrong is above")
