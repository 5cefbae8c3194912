"""What commands on several devices share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgespa.cli._said import said
from edgespa.cli._terminal import echo, harmless, secho

if TYPE_CHECKING:
    from edgespa.device.fleet import Outcome

_F = TypeVar("_F", bound=Callable[..., Any])


def devices_option(
    *, required: bool = False, text: str = "A device's name or profile; may be repeated."
) -> Callable[[_F], _F]:
    """``--device NAME`` -> ``devices: tuple[str, ...]``."""
    return click.option("--device", "devices", multiple=True, required=required, metavar="NAME", help=text)


def group_option(text: str = "The devices whose profiles have this tag; may be repeated.") -> Callable[[_F], _F]:
    """``--group NAME`` -> ``groups: tuple[str, ...]``."""
    return click.option("--group", "groups", multiple=True, metavar="NAME", help=text)


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


def kib(size_bytes: int) -> str:
    """Bytes in KiB for a table."""
    return f"{size_bytes / 1024:,.0f}" if size_bytes >= 10240 or not size_bytes else f"{size_bytes / 1024:.1f}"
