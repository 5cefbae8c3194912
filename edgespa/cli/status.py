"""``edgespa status``: what is on devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._devices import devices_option, group_option, kib, show_errors
from edgespa.cli._help import Explained
from edgespa.cli._options import json_option
from edgespa.cli._pulls import show_pull
from edgespa.cli._rollout import in_words
from edgespa.cli._said import said
from edgespa.cli._sections import STATUS_EXAMPLES
from edgespa.cli._terminal import aside, echo, harmless, secho

if TYPE_CHECKING:
    from edgespa.device.fleet import Outcome
    from edgespa.device.shipment.results import DeviceStatus, TaskStatus


@click.command(name="status", cls=Explained, examples=STATUS_EXAMPLES)
@devices_option(text="May be repeated; default: your own profiles, and this machine.")
@group_option()
@click.option("--selfcheck", is_flag=True, help="Run the recorded inputs through what is in use, too.")
@click.option(
    "--timeout",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="Give a device up that has not answered for so long.",
)
@json_option()
def command(devices: tuple[str, ...], groups: tuple[str, ...], selfcheck: bool, timeout: int, as_json: bool) -> None:
    """List the tasks on devices: their versions, sizes and health.

    The devices are asked at once, and one that does not answer keeps none of the others. The files of the versions in
    use are read there, and compared with what was shipped. What was shipped from here and is gone is told, too, and so
    are health windows, and what a device lacks of what its groups are to have. The exit status is 1 if a device cannot
    be reached, or something on it is not as it should be.
    """
    import edgespa as es
    from edgespa.cli._output import emit_json

    asked = es.status(devices or None, group=groups, selfcheck=selfcheck, timeout_s=timeout)
    outcomes, found = asked.outcomes, list(asked.devices)
    if as_json:
        emit_json([_plain(each) for each in outcomes])
    else:
        _show(found, {each.device.name: each.device.asked for each in outcomes})
    show_errors(outcomes)
    if not asked.ok:
        raise click.exceptions.Exit(1)


def _plain(outcome: Outcome[DeviceStatus]) -> dict[str, Any]:
    error = outcome.error
    return {
        "device": outcome.device.name,
        "status": outcome.result,
        "error": None if error is None else {"message": error.message, "hint": error.hint},
    }


def _show(found: list[DeviceStatus], asked: Mapping[str, str]) -> None:
    from edgespa.cli._output import table

    rows: list[tuple[object, ...]] = []
    for device in found:
        for task in device.tasks:
            for version in reversed(task.versions):
                used = version.version == task.current
                state = (
                    ("ok" if task.healthy else "NOT HEALTHY") if used else "kept" if version.finished else "unfinished"
                )
                base = f" + {kib(version.base_bytes)}" if version.base_bytes else ""
                rows.append(
                    (
                        device.device,
                        task.task,
                        f"{'*' if used else ' '} {version.version}",
                        f"{kib(version.size_bytes - version.base_bytes)}{base}",
                        (version.shipped or "-")[:16].replace("T", " "),
                        state,
                    )
                )
            if task.current is None:
                rows.append((device.device, task.task, "  none in use", "", "", "NOT HEALTHY"))
    if rows:
        table(("device", "task", "version", "KiB + base", "shipped (UTC)", "health"), rows, right=("KiB + base",))
        echo("* in use")
    for device in found:
        if not device.tasks:
            echo(f"{device.device}: no tasks")
        echo(f"{device.device}: {_gib(device.free_bytes)} free, in {device.folder}")
    for device in found:
        for task in device.tasks:
            _remark(device, task, asked[device.device])
        _remarks(device, asked[device.device])


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.1f} MiB"


def _remark(device: DeviceStatus, task: TaskStatus, asked: str) -> None:
    if task.window is not None and task.window.state in ("watching", "rolled back"):
        text = harmless(f"{device.device}: {task.task} {task.window.version}: {in_words(task.window)}")
        if task.window.state == "watching":
            echo(text)
        else:
            secho(f"ROLLED BACK: {text}", err=True, fg="yellow", bold=True)
    if not task.healthy:
        secho(f"NOT HEALTHY: {device.device}: {task.task}: {task.health}", err=True, fg="red", bold=True)
        earlier = [each for each in task.versions if each.version != task.current and each.finished]
        back = f"; or use an earlier version: edgespa rollback {task.task} --device {asked}" if earlier else ""
        # What is odd beside the version in use is not put right by shipping that one again.
        off = (
            f"; or take it off first: edgespa ship --remove {task.task} --device {asked}"
            if "odd: " in task.health
            else ""
        )
        echo(said(f"Hint: ship it again{back}{off}"), err=True)


def _remarks(device: DeviceStatus, asked: str) -> None:
    name = device.device
    for what in device.odd:
        secho(f"ODD: {name}: {what}", err=True, fg="red", bold=True)
    for each in device.gone:
        when = each.shipped[:16].replace("T", " ")
        text = f"GONE: {name}: {each.task} {each.version} was shipped on {when} from here, and is not there any more"
        secho(text, err=True, fg="red", bold=True)
        why = "what is written there is gone after a reboot; " if device.in_memory else ""
        what = f"edgespa ship --remove {each.task} --device {asked}"
        echo(said(f"Hint: {why}ship it again, or do not expect it any more: {what}"), err=True)
    for each in device.older:
        text = f"note: {name}: {each.task} {each.version} was shipped from here later than what is there, and is gone"
        secho(text, err=True, fg="yellow")
    for lag in device.lags:
        text = f"LAGS: {name}: {lag.task} of the group {lag.group} is not in use: {lag.why}"
        secho(harmless(text), err=True, fg="yellow", bold=True)
    if device.lags:
        echo(said(f"Hint: edgespa ship --catch-up --device {asked}"), err=True)
    if device.pull is not None:
        show_pull(name, device.pull)
    if device.unfinished:
        left = ", ".join(device.unfinished)
        aside(f"note: {name}: shipments that have not ended, or were ended, left something of {left}")
    if device.in_memory:
        secho(f"note: {name}: gone after a reboot: {device.in_memory}", err=True, fg="yellow")
    if device.full:
        files = "; no more files can be made" if device.free_files == 0 else ""
        secho(f"FULL: {name}: {_gib(device.free_bytes)} free{files}", err=True, fg="yellow", bold=True)
        echo(said("Hint: free some space there; edgespa rollback and ship --remove need none"), err=True)
