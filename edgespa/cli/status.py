"""``edgespa status``: what is on devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._devices import devices_option, kib, show_errors
from edgespa.cli._options import json_option

if TYPE_CHECKING:
    from edgespa.device.board import Device
    from edgespa.device.fleet import Outcome
    from edgespa.device.link.transport import Connection
    from edgespa.device.shipment.results import DeviceStatus, TaskStatus


@click.command(name="status")
@devices_option(text="May be repeated; default: your own profiles, and this machine.")
@click.option("--selfcheck", is_flag=True, help="Run the recorded inputs through what is in use, too.")
@json_option()
def command(devices: tuple[str, ...], selfcheck: bool, as_json: bool) -> None:
    """List the tasks on devices: their versions, sizes and health.

    The files of the versions in use are read there, and compared with what was shipped. The exit status is 1 if a
    device cannot be reached, or a task on it is not healthy.
    """
    from edgespa.cli._output import emit_json
    from edgespa.device import load_device
    from edgespa.device.fleet import on_each

    def work(connection: Connection) -> DeviceStatus:
        from edgespa.device.inventory import read_facts, runtime_python
        from edgespa.device.shipment.status import device_status

        if not selfcheck:
            return device_status(connection)
        python = runtime_python(connection, read_facts(connection))
        return device_status(connection, lambda _: python)

    targets = [load_device(name) for name in dict.fromkeys(devices)] if devices else _known()
    outcomes = on_each(targets, work)
    if as_json:
        emit_json([_plain(each) for each in outcomes])
    else:
        _show([each.result for each in outcomes if each.result is not None])
    show_errors(outcomes)
    tasks = [task for each in outcomes if each.result is not None for task in each.result.tasks]
    if any(each.error is not None for each in outcomes) or not all(task.healthy for task in tasks):
        raise click.exceptions.Exit(1)


def _known() -> list[Device]:
    """The user's own devices, and this machine."""
    from edgespa.device import load_device
    from edgespa.device.board import LOCAL, list_devices

    own = [each.device for each in list_devices() if each.path is not None and each.device is not None]
    return [*own, *([] if any(each.is_local for each in own) else [load_device(LOCAL)])]


def _plain(outcome: Outcome[DeviceStatus]) -> dict[str, Any]:
    error = outcome.error
    return {
        "device": outcome.device.name,
        "status": outcome.result,
        "error": None if error is None else {"message": error.message, "hint": error.hint},
    }


def _show(found: list[DeviceStatus]) -> None:
    from edgespa.cli._output import table

    rows: list[tuple[object, ...]] = []
    for device in found:
        for task in device.tasks:
            for version in reversed(task.versions):
                used = version.version == task.current
                state = task.health if used else "unfinished" if version.shipped is None else "kept"
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
                rows.append((device.device, task.task, "  none in use", "", "", task.health))
    if rows:
        table(("device", "task", "version", "KiB + base", "shipped (UTC)", "health"), rows, right=("KiB + base",))
        click.echo("* in use")
    for device in found:
        if not device.tasks:
            click.echo(f"{device.device}: no tasks")
        click.echo(f"{device.device}: {device.free_bytes / 2**30:.1f} GiB free, in {device.folder}")
    for device in found:
        for task in device.tasks:
            _remark(device, task)


def _remark(device: DeviceStatus, task: TaskStatus) -> None:
    if not task.healthy:
        click.secho(f"NOT HEALTHY: {device.device}: {task.task}: {task.health}", err=True, fg="red", bold=True)
        earlier = [each for each in task.versions if each.version != task.current and each.shipped is not None]
        back = f", or use an earlier version: edgespa rollback {task.task} --device {device.device}" if earlier else ""
        click.echo(f"Hint: ship it again{back}", err=True)
