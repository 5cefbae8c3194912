"""``edgespa ship``: send a bundle or a task to devices, check it there, and use it from now on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._devices import devices_option, fail_if_any, group_option, kib
from edgespa.cli._options import json_option
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._rollout import in_words, require_devices, rollout_options, say_stage, show_end, show_places
from edgespa.cli._sections import SHIP, SHIP_EXAMPLES
from edgespa.cli._terminal import aside, echo, harmless, secho
from edgespa.cli._trust import require_signers, signers_options

if TYPE_CHECKING:
    from edgespa.api.device_results import Shipping
    from edgespa.device.fleet import Outcome
    from edgespa.device.shipment.results import Shipped
    from edgespa.device.shipment.rollout import Place
    from edgespa.device.shipment.ship import Shipment


@click.command(name="ship", cls=Repeatable, sections=SHIP, examples=SHIP_EXAMPLES)
@click.argument("sources", type=click.Path(path_type=Path), nargs=-1, metavar="BUNDLE|TASK...")
@devices_option()
@group_option("The devices whose profiles have this tag; with --to: for devices in it. May be repeated.")
@click.option(
    "--to",
    metavar="FOLDER",
    help="Instead of --device: into a folder that devices pull from, which any web server or object store serves.",
)
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="With --to: for devices such as pi-5; likewise.")
@click.option("--downgrade", is_flag=True, help="With --to: devices are to go back to this older version.")
@click.option("--unsigned", is_flag=True, help="With --to: no signature; only devices that were set up so take it.")
@click.option("--task", metavar="NAME", help="The task's name on the device; default: the bundle's.")
@click.option("--keep", type=click.IntRange(min=1), default=3, show_default=True, help="Versions that stay there.")
@click.option("--with-base", is_flag=True, help="With a task file: send its base too, to devices that lack it.")
@click.option("--base", metavar="MODEL", help="Of a task file: its base, if it is not where it was.")
@click.option("--weights", metavar="FILE", help="Of a task file: the weights of its base.")
@click.option(
    "--sign",
    "sign_key",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Sign what is made of a task file, and with --to the index, with an OpenSSH key.",
)
@signers_options()
@click.option(
    "--trust",
    is_flag=True,
    help="Run code of the maker: what a task file names as its base; a bundle's own run.py for the check there.",
)
@click.option("--volatile", is_flag=True, help="Also to a device whose writes are gone after a reboot.")
@click.option("--remove", metavar="TASK", help="Instead: take TASK off the devices, with all its versions.")
@click.option("--yes", is_flag=True, help="With --remove: do not ask.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="For the self-check.")
@rollout_options()
@recipe_options()
@json_option()
def command(
    sources: tuple[Path, ...],
    devices: tuple[str, ...],
    groups: tuple[str, ...],
    to: str | None,
    kinds: tuple[str, ...],
    downgrade: bool,
    unsigned: bool,
    task: str | None,
    keep: int,
    with_base: bool,
    base: str | None,
    weights: str | None,
    sign_key: Path | None,
    signers: Path | None,
    identity: str | None,
    revoked: Path | None,
    trust: bool,
    volatile: bool,
    remove: str | None,
    yes: bool,
    threads: int,
    waves: str | None,
    abort_above: float | None,
    take_back: bool,
    watch_s: float | None,
    health_command: str | None,
    health_every_s: float | None,
    health_timeout_s: float,
    max_latency_ms: float | None,
    wait_for_lock_s: float,
    catch_up: bool,
    as_json: bool,
) -> None:
    """Send bundles or tasks to devices, check them there, and use them from now on.

    A BUNDLE is a folder or a packed file. Of a TASK file, the kilobytes that it adds go to a device that has its base:
    the weights are made there. Every file is checked there by its SHA-256, and by its signature with --signers; then
    the recorded inputs go through it, on the device, by edgespa's own runner: a bundle's run.py is sent for your
    programs, and not run without --trust. Only then it replaces what was in use, by one rename. Whatever fails before
    leaves the old version in use. Several devices are served at once; the exit status is 1 if any failed. What a device
    lacks (a base, a runtime, space, a disk that keeps what is written) is told before anything is sent.

    With --wave it reaches them in waves, and goes on only while devices stay well; with --watch each watches itself for
    a while and goes back by itself. What is shipped to a --group is what the group is to have: --catch-up gives it to
    its devices that were away.

    With --to nothing is connected to: the same files go into a folder, with a signed index of what devices get, and
    devices that were set up by `edgespa devices pull` fetch, check and use it themselves.

    Code that a TASK names as its base runs only if it was used here before, or with --trust.
    """
    import edgespa as es
    from edgespa.api.shell import adding

    require_signers(signers, identity, revoked)
    if task is not None and len(sources) > 1:
        raise click.UsageError("--task names one task, and several are shipped")
    if to is not None:
        from edgespa.cli._publishing import publish

        if devices:
            raise click.UsageError("--to is for devices that pull: leave --device out, or ship there by itself")
        publish(
            sources,
            as_json,
            yes,
            to=to,
            sign_key=sign_key,
            unsigned=unsigned,
            task=task,
            groups=groups,
            kinds=kinds,
            downgrade=downgrade,
            keep=keep,
            remove=remove,
            with_base=with_base,
            base=base,
            weights=weights,
            signers=signers,
            identity=identity,
            revoked=revoked,
            trust=trust,
        )
        return
    if remove is not None:
        from edgespa.cli._removal import take_off

        if sources:
            raise click.UsageError(f"--remove ships nothing: leave {sources[0]} out")
        require_devices(devices, groups)
        take_off(remove, devices, groups, yes, as_json)
        return
    window: dict[str, Any] = {
        "watch_s": watch_s,
        "health_command": health_command,
        "health_every_s": health_every_s,
        "health_timeout_s": health_timeout_s,
        "max_latency_ms": max_latency_ms,
        "wait_for_lock_s": wait_for_lock_s,
    }
    if catch_up:
        if sources:
            raise click.UsageError(f"--catch-up ships what groups are to have: leave {sources[0]} out")
        signed: dict[str, Any] = {"signers": signers, "identity": identity, "revoked": revoked}
        options: dict[str, Any] = {"volatile": volatile, "threads": threads}
        _tell(es.catch_up(groups, device=devices, **signed, **options, **window), as_json, waves=True)
        return
    if not sources:
        raise click.UsageError("Missing argument 'BUNDLE|TASK...'.")
    require_devices(devices, groups, " Or --to FOLDER, for devices that pull.")
    with adding(stage=say_stage):
        done = es.ship(
            sources,
            device=devices,
            group=groups,
            task=task,
            keep=keep,
            with_base=with_base,
            base=base,
            weights=weights,
            sign_key=sign_key,
            signers=signers,
            identity=identity,
            revoked=revoked,
            trust=trust,
            volatile=volatile,
            threads=threads,
            waves=waves,
            abort_above=abort_above,
            take_back=take_back,
            **window,
        )
    _tell(done, as_json, waves=waves is not None or bool(groups))


def _tell(done: Shipping, as_json: bool, *, waves: bool) -> None:
    """Show what came of it; exit with status 1 where a device failed."""
    from edgespa.cli._output import emit_json

    if as_json:
        places = {each.device: each for each in done.places}
        emit_json([_plain(outcome, done.shipped, places) for outcome in done.outcomes])
    elif waves:
        if done.places:
            show_places(done)
        for each in done.shipped:
            _remark(each, done.shipments[each.task], short=True)
    else:
        _show(done.shipped, done.shipments)
    show_end(done)
    fail_if_any(done.outcomes)


def _plain(outcome: Outcome[Any], done: Sequence[Shipped], places: Mapping[str, Place]) -> dict[str, Any]:
    error, place = outcome.error, places.get(outcome.device.name)
    return {
        "device": outcome.device.name,
        "state": None if place is None else place.state,
        "wave": None if place is None else place.wave,
        "in_use": {} if place is None else dict(place.in_use),
        "shipped": [each for each in done if each.device == outcome.device.name],
        "error": None if error is None else {"message": error.message, "hint": error.hint},
    }


def _show(results: Sequence[Shipped], shipments: Mapping[str, Shipment]) -> None:
    from edgespa.cli._output import table

    rows = []
    for each in results:
        passed = sum(check.status == "passed" for check in each.checks)
        rows.append(
            (
                each.device,
                each.task,
                harmless(each.version),
                kib(each.bytes_sent),
                f"{each.seconds:.1f}",
                f"{passed} of {len(each.checks)}",
            )
        )
    if rows:
        headings = ("device", "task", "version in use", "sent KiB", "seconds", "checked")
        table(headings, rows, right=headings[3:])
    for each in results:
        _remark(each, shipments[each.task])


def _remark(each: Shipped, shipment: Shipment, short: bool = False) -> None:
    """What is to be said of one of them; ``short``: only what is wanting, for there are many."""
    from edgespa.cli._report import how_well

    what = f"{each.device}: {each.task}"
    if not short:
        _say_sizes(each, shipment)
        if (words := how_well(shipment.manifest)) is not None:
            echo(harmless(f"{each.task}: {words}"))
    if each.signed_by is not None and not short:
        echo(f"{what}: signed by {each.signed_by}, checked {each.signature}")
    elif each.signature == "not checked":
        echo(f"note: {what} is signed, and the signature was not checked: use --signers", err=True)
    if each.cleaned:
        aside(f"{what}: removed what an interrupted shipment had left: {harmless(', '.join(each.cleaned))}")
    if each.repaired:
        aside(f"{what}: repaired what was damaged there: {harmless(', '.join(each.repaired))}")
    for note in each.notes:
        secho(f"note: {what}: {harmless(note)}", err=True, fg="yellow")
    for check in each.checks:
        if check.status == "not run":
            text = f"NOT RUN: {what}: {check.name}: {'; '.join(check.failures)}"
            secho(harmless(text), err=True, fg="yellow", bold=True)
        if check.remark is not None:
            secho(harmless(f"note: {what}: {check.remark}"), err=True, fg="yellow")
    if each.emulated:
        aside(f"note: {each.device} is emulated: its seconds mean nothing")
    if each.window is not None and not short:
        echo(harmless(f"{what}: {in_words(each.window)}"))
    if not short:
        echo(harmless(f"in use: {each.folder.rpartition('/')[0]}/current"))


def _say_sizes(each: Shipped, shipment: Shipment) -> None:
    """Of a task file: what went over, and what the whole bundle would have been."""
    if (weights := shipment.needs) is not None:
        whole = shipment.size_bytes + weights.made_bytes
        own, base = max(0, each.bytes_sent - each.base_bytes_sent), each.base_bytes_sent
        once = f" and, once, its base of {kib(base)} KiB" if base else ""
        echo(f"{each.task}: {kib(own)} KiB{once}; as a whole bundle: {kib(whole)} KiB")
