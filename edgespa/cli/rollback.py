"""``edgespa rollback``: use an earlier version of a task again."""

from __future__ import annotations

import click

from edgespa.cli._devices import devices_option, fail_if_any, group_option, show_errors
from edgespa.cli._options import json_option
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._rollout import lock_option, require_devices
from edgespa.cli._sections import ROLLBACK, ROLLBACK_EXAMPLES
from edgespa.cli._terminal import aside, echo, harmless


@click.command(name="rollback", cls=Repeatable, sections=ROLLBACK, examples=ROLLBACK_EXAMPLES)
@click.argument("task")
@devices_option()
@group_option()
@click.option("--to", metavar="VERSION", help="That version, or its number; default: the one before that in use.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="For the self-check.")
@lock_option()
@recipe_options()
@json_option()
def command(
    task: str,
    devices: tuple[str, ...],
    groups: tuple[str, ...],
    to: str | None,
    threads: int,
    wait_for_lock_s: float,
    as_json: bool,
) -> None:
    """Use an earlier version of TASK on devices again.

    Its files are checked by their SHA-256 and its self-check runs there first; if either fails, what is in use stays.
    Damaged files are put right from other copies on the device, where there are good ones. No space is needed there.
    """
    import edgespa as es
    from edgespa.cli._output import emit_json

    require_devices(devices, groups)
    outcomes = es.rollback(
        task, device=devices, group=groups, to=to, threads=threads, wait_for_lock_s=wait_for_lock_s
    ).outcomes
    if as_json:
        emit_json(
            [
                {"device": each.device.name, "switched": each.result, "error": each.error and each.error.message}
                for each in outcomes
            ]
        )
    else:
        for each in outcomes:
            if (done := each.result) is not None:
                text = f"{done.device}: {done.task}: {done.version} is in use, before: {done.previous or 'none'}"
                echo(harmless(text))
                if done.repaired:
                    aside(f"{done.device}: {done.task}: repaired: {harmless(', '.join(done.repaired))}")
    show_errors(outcomes)
    fail_if_any(outcomes)
