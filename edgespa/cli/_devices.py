"""What commands on several devices share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgespa.cli._said import said
from edgespa.cli._terminal import echo, harmless, secho

if TYPE_CHECKING:
    from edgespa.device.fleet import Outcome
    from edgespa.system.progress import ProgressCallback

_F = TypeVar("_F", bound=Callable[..., Any])


def devices_option(
    *, required: bool = False, text: str = "A device's name or profile; may be repeated."
) -> Callable[[_F], _F]:
    """``--device NAME`` -> ``devices: tuple[str, ...]``."""
    return click.option("--device", "devices", multiple=True, required=required, metavar="NAME", help=text)


def show_errors(outcomes: Sequence[Outcome[Any]]) -> None:
    """Say on stderr what failed, and what to do about each."""
    for outcome in outcomes:
        if outcome.error is not None:
            secho(f"FAILED: {harmless(outcome.error.message)}", err=True, fg="red", bold=True)
            if outcome.error.hint:
                echo(f"Hint: {harmless(said(outcome.error.hint))}", err=True)


def fail_if_any(outcomes: Sequence[Outcome[Any]]) -> None:
    """Exit with status 1 if a device failed; `show_errors` has said why."""
    if any(outcome.error is not None for outcome in outcomes):
        raise click.exceptions.Exit(1)


class Awaited:
    """Says, while several devices are asked, how many have answered and which have not.

    Args:
        names: Of the devices.
        report: Moves the bar.
    """

    def __init__(self, names: Sequence[str], report: ProgressCallback) -> None:
        self._left, self._total, self._report = list(names), len(names), report
        self._say()

    def __call__(self, outcome: Outcome[Any]) -> None:
        """One has answered."""
        self._left.remove(outcome.device.name)
        self._say()

    def _say(self) -> None:
        left = list(self._left)
        names = ", ".join(left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
        self._report(self._total - len(left), self._total, f"waiting for {names}" if left else "")


def kib(size_bytes: int) -> str:
    """Bytes in KiB for a table."""
    return f"{size_bytes / 1024:,.0f}" if size_bytes >= 10240 or not size_bytes else f"{size_bytes / 1024:.1f}"
