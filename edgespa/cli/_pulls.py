"""What a device says of its last pull, as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgespa.cli._said import said
from edgespa.cli._terminal import aside, echo, harmless, secho

if TYPE_CHECKING:
    from edgespa.device.shipment.pulls import PullReport


def show_pull(device: str, report: PullReport) -> None:
    """Say when a device has pulled, from where, and what failed.

    Args:
        device: Its name.
        report: What it says.
    """
    when = report.started[:16].replace("T", " ")
    whose = f", signed by {report.signed_by}" if report.signed_by else ""
    of = f"{report.url}, serial {report.serial}{whose}" if report.serial is not None else f"{report.url or '?'}"
    echo(harmless(f"{device}: pulled on {when} (its clock) from {of}"))
    changed = [f"{each.task} {each.version}" for each in report.tasks if each.outcome in ("switched", "repaired")]
    if changed:
        echo(harmless(f"{device}: new then: {', '.join(changed)}"))
    for each in report.tasks:
        for note in each.notes:
            aside(harmless(f"note: {device}: {each.task}: {note}"))
        if each.outcome == "failed":
            text = f"PULL FAILED: {device}: {each.task}, release {each.number}: {each.error}"
            secho(harmless(text), err=True, fg="red", bold=True)
    for note in report.notes:
        aside(harmless(f"note: {device}: {note}"))
    if report.error is not None:
        secho(harmless(f"PULL FAILED: {device}: {report.error}"), err=True, fg="red", bold=True)
    if not report.ok:
        echo(said("Hint: what was in use there still is; edgespa-agent pull, typed there, tries again"), err=True)
