"""``edgespa profile``: latency and memory of a bundle's variants, on one device or on several at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgespa.cli._options import json_option
from edgespa.cli._recipes import Repeatable, checked, recipe_options
from edgespa.cli._said import said
from edgespa.cli._sections import PROFILE, PROFILE_EXAMPLES
from edgespa.cli._terminal import echo
from edgespa.cli._trust import require_signers, signers_options

if TYPE_CHECKING:
    from edgespa.device.board import Device
    from edgespa.device.fleet import Outcome
    from edgespa.device.measure.profile import Settings
    from edgespa.device.measure.results import Profile
    from edgespa.device.measure.saved import Journal

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
@click.option("--variant", "variants", multiple=True, metavar="NAME", help="Only this variant; may be repeated.")
@click.option(
    "--threads", type=click.IntRange(min=1), multiple=True, default=(1,), show_default=True, help="May be repeated."
)
@click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME",
    help="What computes: cpu, cuda, tensorrt, or a name of ONNX Runtime's. May be repeated. [default: cpu]",
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
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Another bundle, folder or packed file, measured in alternation, for ratios.",
)
@signers_options()
@click.option("--trust", is_flag=True, help="Let the bundle's own run.py measure, not edgespa's: code of its maker.")
@click.option("--again", is_flag=True, help="Measure all anew, also what an interrupted run of the same has left.")
@click.option("--no-save", is_flag=True, help="Do not write the profile into BUNDLE/profiles/.")
@recipe_options()
@json_option()
def command(
    bundle: Path,
    devices: tuple[str, ...],
    variants: tuple[str, ...],
    threads: tuple[int, ...],
    providers: tuple[str, ...],
    runs: int | None,
    seconds: float | None,
    duration: float | None,
    cooldown: float | None,
    rounds: int | None,
    against: Path | None,
    signers: Path | None,
    identity: str | None,
    revoked: Path | None,
    trust: bool,
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
    from edgespa.bundle import open_bundle
    from edgespa.cli._output import emit_json
    from edgespa.cli._profile import remark, show, show_fleet
    from edgespa.device import load_device
    from edgespa.device.measure.profile import Settings, save_profile
    from edgespa.device.measure.saved import Journal, journal_folder

    require_signers(signers, identity, revoked)
    settings = Settings(
        variants=variants or None,
        threads=threads,
        providers=providers,
        runs=runs,
        seconds=seconds,
        duration=duration,
        cooldown=cooldown,
        rounds=rounds or (3 if against else 1),
        trust=trust,
    )
    settings.check()
    chosen = [load_device(name) for name in dict.fromkeys(devices)]
    checked(bundle, *([against] if against else []))
    with contextlib.ExitStack() as stack:
        opening = partial(open_bundle, signers=signers, identity=identity, revoked=revoked)
        opened = stack.enter_context(opening(bundle))
        other = stack.enter_context(opening(against)).folder if against else None
        journals = {device.name: Journal(journal_folder(), fresh=again) for device in chosen}
        try:
            outcomes = _measure(opened.folder, other, chosen, settings, journals)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(_kept(journals) or "") from error
        except SystemExit:
            echo(_kept(journals) or "nothing was measured yet", err=True)
            raise
    found = [outcome.result for outcome in outcomes if outcome.result is not None]
    # Shown before it is saved: a folder that cannot be written must not cost the measurements.
    if as_json and len(chosen) == 1 and found:
        emit_json(found[0])
    elif as_json:
        emit_json([_plain(outcome) for outcome in outcomes])
    else:
        for profile in found:
            show(profile, titled=len(chosen) > 1)
        if len(chosen) > 1:
            show_fleet(outcomes)
    for profile in found:
        remark(profile)
        if opened.packed and not no_save:
            echo(f"not saved: {bundle} is packed; unpack it to keep profiles beside it", err=True)
        elif not no_save:
            echo(f"saved as {save_profile(profile, bundle)}", err=True)
        journals[profile.device].forget()
    if kept := _kept({each.device.name: journals[each.device.name] for each in outcomes if each.error is not None}):
        echo(kept, err=True)
    _fail_if_any(outcomes)


def _kept(journals: Mapping[str, Journal]) -> str | None:
    """What can be gone on with; None where it is nothing."""
    counts = [f"{name}: {journal.count}" for name, journal in journals.items() if journal.count]
    return f"measurements kept: {', '.join(counts)}; the same command goes on with the rest" if counts else None


def _measure(
    bundle: Path,
    against: Path | None,
    devices: Sequence[Device],
    settings: Settings,
    journals: Mapping[str, Journal],
) -> tuple[Outcome[Profile], ...]:
    from edgespa.cli._output import progress
    from edgespa.device.fleet import on_each
    from edgespa.device.link.transport import Connection
    from edgespa.device.measure.profile import profile

    with progress("measuring") as report:

        def tell(connection: Connection) -> Callable[[int, int, str], None]:
            # Several devices take turns in one line.
            name = "" if len(devices) == 1 else f"{connection.device.name}: "
            return lambda done, total, text: report(done, total, f"{name}{text}")

        return on_each(
            devices,
            lambda connection: profile(
                bundle,
                connection,
                settings,
                against=against,
                progress=tell(connection),
                journal=journals[connection.device.name],
            ),
        )


def _plain(outcome: Outcome[Profile]) -> dict[str, object]:
    error = outcome.error
    return {
        "device": outcome.device.name,
        "profile": outcome.result,
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
