"""``edgespa ship --remove TASK``: take a task off devices."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from edgespa.cli._devices import fail_if_any, kib, show_errors
from edgespa.cli._terminal import echo


def take_off(task: str, devices: Sequence[str], groups: Sequence[str], yes: bool, as_json: bool) -> None:
    """Ask, then remove a task with all its versions.

    Args:
        task: Its name there.
        devices: Where.
        groups: Where too.
        yes: Do not ask.
        as_json: Print JSON instead of lines.

    Raises:
        click.UsageError: There is nobody to ask.
        click.Abort: The answer was no.
    """
    import edgespa as es
    from edgespa.api.shell import current
    from edgespa.cli._output import emit_json
    from edgespa.device.groups import chosen
    from edgespa.device.shipment.ship import task_name

    name, targets = task_name(task), chosen(devices, groups)
    if not yes and not current().only_check:
        if not at_a_terminal():
            raise click.UsageError("--remove asks first, and there is no terminal: add --yes")
        names = ", ".join(each.name for each in targets)
        click.confirm(f"Remove {name} from {names}: all its versions, the one in use too?", abort=True, err=True)
    outcomes = es.remove(name, device=devices, group=groups).outcomes
    if as_json:
        emit_json(
            [
                {"device": each.device.name, "removed": each.result, "error": each.error and each.error.message}
                for each in outcomes
            ]
        )
    else:
        for each in outcomes:
            if (done := each.result) is not None:
                what = f"removed {', '.join(done.versions)}, {kib(done.removed_bytes)} KiB"
                text = what if done.versions else "it was not there, and is not expected any more"
                echo(f"{done.device}: {done.task}: {text}")
    show_errors(outcomes)
    fail_if_any(outcomes)


def at_a_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()
