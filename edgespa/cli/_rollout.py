"""Options of roll-outs, and what came of one: waves, health windows, locks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgespa.cli._devices import show_errors
from edgespa.cli._options import together
from edgespa.cli._said import said
from edgespa.cli._terminal import aside, echo, harmless, secho

if TYPE_CHECKING:
    from edgespa.api.device_results import Shipping
    from edgespa.device.shipment.results import WindowStatus

_F = TypeVar("_F", bound=Callable[..., Any])
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MOST_NAMES = 12


class Duration(click.ParamType[float]):
    """``10m`` -> 600.0: a number of s, m, h or d; without a letter of seconds."""

    name = "duration"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What the help shows.

        Args:
            param: Not used.
            ctx: Not used.
        """
        return "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse.

        Args:
            value: As typed, or seconds already.
            param: The option, for the message.
            ctx: For the message.

        Raises:
            click.BadParameter: It is no such text.
        """
        if isinstance(value, (int, float)):
            return float(value)
        found = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smhd]?)\s*", str(value))
        if found is None:
            self.fail(f"'{value}' is no time; write 30s, 10m or 2h", param, ctx)
        return float(found.group(1)) * _UNITS[found.group(2)]


class Share(click.ParamType[float]):
    """``5%`` -> 0.05."""

    name = "share"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What the help shows.

        Args:
            param: Not used.
            ctx: Not used.
        """
        return "SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse.

        Args:
            value: As typed, or a share already.
            param: The option, for the message.
            ctx: For the message.

        Raises:
            click.BadParameter: It is no share.
        """
        if isinstance(value, (int, float)):
            return float(value)
        from edgespa.device.shipment.waves import share_of
        from edgespa.errors import ConfigError

        try:
            return share_of(str(value))
        except ConfigError as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)


def lock_option() -> Callable[[_F], _F]:
    """``--wait-for-lock TIME`` -> ``wait_for_lock_s``."""
    return click.option(
        "--wait-for-lock",
        "wait_for_lock_s",
        type=Duration(),
        default=0.0,
        help="Wait so long for an application on a device that holds the update lock.  [default: not at all]",
    )


def window_options(text: str) -> Callable[[_F], _F]:
    """What watches a version after the switch: ``watch_s``, ``health_command`` and what is beside them.

    Args:
        text: The help of ``--watch``.
    """
    return together(
        click.option("--watch", "watch_s", type=Duration(), help=text),
        click.option(
            "--health-command",
            metavar="COMMAND",
            help="What the device's shell runs in each round of the window; it ends with 0 where all is well.",
        ),
        click.option(
            "--health-every",
            "health_every_s",
            type=Duration(),
            help="Between two rounds.  [default: a quarter of the window, at most 30s]",
        ),
        click.option(
            "--health-timeout",
            "health_timeout_s",
            type=Duration(),
            default=60.0,
            help="That the command may take.  [default: 60s]",
        ),
        click.option(
            "--max-latency",
            "max_latency_ms",
            type=click.FloatRange(min=0, min_open=True),
            metavar="MS",
            help="What an inference may take there at most, as a median.  [default: what the bundle says, if it does]",
        ),
    )


def rollout_options() -> Callable[[_F], _F]:
    """In what waves a roll-out goes, and what watches its devices."""
    return together(
        click.option(
            "--wave",
            "waves",
            metavar="N,N%,...",
            help="Go on in waves: up to how many devices each reaches, as in 1,10%,100%. Devices that have it already "
            "are left out, so the same command goes on with an interrupted roll-out.",
        ),
        click.option(
            "--abort-above",
            type=Share(),
            help="Stop when more of a wave's devices fail, cannot be reached or go back.  [default with --wave: 0%]",
        ),
        click.option(
            "--take-back", is_flag=True, help="When it stops, take back the whole wave: devices that are well, too."
        ),
        window_options(
            "Health window: each device watches itself so long after the switch, and goes back by itself if "
            "anything fails, also when this command has ended."
        ),
        lock_option(),
        click.option(
            "--catch-up", is_flag=True, help="Instead: ship what their groups are to have to devices that lack it."
        ),
    )


def say_stage(text: str) -> None:
    """One line when a wave is over.

    Args:
        text: What came of it.
    """
    aside(text)


def show_places(done: Shipping) -> None:
    """What each device of a roll-out is at, in a table.

    Args:
        done: The roll-out.
    """
    from edgespa.cli._output import table

    several = len({each.wave for each in done.places if each.wave is not None}) > 1 or done.stopped is not None
    rows = []
    for place in done.places:
        version = harmless(", ".join(f"{task} {used or '-'}" for task, used in sorted(place.in_use.items())))
        wave = [str(place.wave or "")] if several else []
        rows.append((place.device, *wave, place.state, version or "?"))
    headings = ("device", *(["wave"] if several else []), "state", "in use now")
    table(headings, rows)


def show_end(done: Shipping) -> None:
    """Why devices are not well, and why it was stopped; on stderr.

    Args:
        done: The roll-out.
    """
    states = {each.device: each.state for each in done.places}
    show_errors([each for each in done.outcomes if states.get(each.device.name) != "not begun"])
    for note in done.notes:
        secho(harmless(f"note: {note}"), err=True, fg="yellow")
    for state, text in (("not begun", "NOT BEGUN"), ("later", "in none of the waves")):
        names = [name for name, each in states.items() if each == state]
        if names:
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            secho(f"{text}: {', '.join(names[:_MOST_NAMES])}{more}", err=True, fg="yellow", bold=True)
    if done.stopped is not None:
        secho(f"STOPPED: {harmless(done.stopped.removeprefix('stopped '))}", err=True, fg="red", bold=True)
        echo(
            said(
                "Hint: those that went back use what they used before; look into them, then give the same command "
                "again: devices that have it are left out. --take-back would have taken back the others of the wave too"
            ),
            err=True,
        )


def in_words(window: WindowStatus) -> str:
    """How a health window stands, for people.

    Args:
        window: Of a device.
    """
    from datetime import datetime, timedelta

    if window.state == "watching":
        end = datetime.now() + timedelta(seconds=window.left_s)
        return f"in its health window until about {end:%Y-%m-%d %H:%M:%S}, if it stays on"
    if window.state == "rolled back":
        back = f"to {window.to}" if window.to else "and nothing is in use, as before"
        return f"rolled back {back}, because {window.reason}"
    return (
        "its health window has passed" if window.state == "passed" else "its health window was ended by another version"
    )


def require_devices(devices: Sequence[str], groups: Sequence[str], more: str = "") -> None:
    """Ask for one of both.

    Args:
        devices: Names or profiles.
        groups: Tags.
        more: What else there is.

    Raises:
        click.UsageError: There is neither.
    """
    if not devices and not groups:
        raise click.UsageError(f"Missing option '--device' or '--group': where to?{more}")
