"""``edgespa-agent`` as a person or a timer types it: set up, pull, the last report, units."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from io import BytesIO
from pathlib import Path
from typing import Any, TextIO

from edgespa.device.agent.command import require_ours
from edgespa.device.agent.fetching import Patience
from edgespa.device.agent.protocol import AgentError, as_error
from edgespa.device.agent.pull import pull
from edgespa.device.agent.remembered import parse_config, read_config
from edgespa.device.agent.set_up import AGENT_FILE, set_up_here
from edgespa.device.agent.units import own_python, unit_folder, unit_texts, units_to_enable, write_units
from edgespa.device.agent.versions import read_report
from edgespa.device.agent.watch import watch

HOME = "~/.local/share/edgespa"


def hand_parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(prog="edgespa-agent", description="Pull tasks of edgespa onto this device.")
    what = command.add_subparsers(dest="what", required=True, metavar="COMMAND")
    setup = what.add_parser("setup", help="say whence this device pulls, and whose word it takes")
    setup.add_argument("url", metavar="URL", help="of the folder that edgespa ship has written with --to")
    who = setup.add_mutually_exclusive_group(required=True)
    who.add_argument("--signers", type=Path, metavar="FILE", help='who may sign: lines of "name key-type key"')
    who.add_argument(
        "--unsigned", action="store_true", help="take what nobody has signed: whoever has the server rules"
    )
    setup.add_argument("--name", default=os.uname().nodename, help="of this device; default: its host name")
    setup.add_argument("--group", action="append", default=[], metavar="GROUP", help="that it is in; may be repeated")
    setup.add_argument("--kind", action="append", default=[], metavar="KIND", help="pi-5, say; may be repeated")
    setup.add_argument("--keep", type=int, default=3, metavar="N", help="versions of a task that stay; default 3")
    setup.add_argument("--threads", type=int, default=1, metavar="N", help="for the self-check; default 1")
    setup.add_argument("--python", metavar="PATH", help="that has the runtimes; default: that of edgespa devices setup")
    setup.add_argument("--every", metavar="TIME", help="write systemd units too: 30min, 1h, 1d")
    setup.add_argument(
        "--watch", type=seconds_of, metavar="TIME", help="health window after each switch: 10m; it goes back by itself"
    )
    setup.add_argument("--health-command", metavar="COMMAND", help="run in each round of it; ends with 0 where well")
    setup.add_argument("--health-every", type=seconds_of, metavar="TIME", help="between rounds; default a quarter, 30s")
    setup.add_argument(
        "--health-timeout", type=seconds_of, default=60.0, metavar="TIME", help="that the command may take; default 60s"
    )
    setup.add_argument("--max-latency", type=float, metavar="MS", help="that an inference may take, as a median")
    pulling = what.add_parser("pull", help="fetch what is new, check it, and use it")
    pulling.add_argument("url", nargs="?", metavar="URL", help="another than that which was set up")
    pulling.add_argument("--again", action="store_true", help="also what has failed too often, or was gone back from")
    pulling.add_argument("--timeout", type=float, default=30, metavar="S", help="longest silence; default 30")
    pulling.add_argument("--slowest", type=float, default=1000, metavar="BYTES", help="a second; default 1000")
    pulling.add_argument("--within", type=float, default=3600, metavar="S", help="for all of it; default 3600")
    pulling.add_argument("--json", action="store_true", help="print the report as JSON")
    what.add_parser("report", help="print the report of the last pull, as JSON")
    units = what.add_parser("units", help="write a systemd service and its timer")
    units.add_argument("--every", default="1h", metavar="TIME", help="30min, 1h, 1d; default 1h")
    units.add_argument("--output", type=Path, metavar="FOLDER", help="default: where systemd looks for them")
    what.add_parser("watch", help="go on with health windows that were interrupted, until they have ended")
    for each in (setup, pulling, units, what.choices["report"], what.choices["watch"]):
        each.add_argument("--folder", default=HOME, help=f"where edgespa keeps things; default {HOME}")
    return command


def by_hand(arguments: list[str] | None = None, agent: str | None = None) -> int:
    """Entry point: the exit status is 0 where all is as it should be, else 1; 75 where another one is at it.

    Args:
        arguments: Of the command line.
        agent: The file that this is.
    """
    options = hand_parser().parse_args(arguments)
    root = Path(os.path.abspath(os.path.expanduser(options.folder)))
    os.umask(os.umask(0) | 0o022)
    try:
        require_ours(root)
        if options.what == "setup":
            return _by_hand_setup(root, options, Path(agent or sys.argv[0]))
        if options.what == "pull":
            return _by_hand_pull(root, options)
        if options.what == "units":
            texts = unit_texts(own_python(), root / AGENT_FILE, root, options.every)
            _tell("\n".join(write_units(options.output or unit_folder(), texts)))
            _tell(f"now: {units_to_enable()}")
            return 0
        if options.what == "watch":
            watch(root, {}, BytesIO())
            return 0
        found = read_report(root)
        if found is None:
            raise AgentError("missing", f"nothing was pulled yet into {root}")
        _tell(json.dumps(found, indent=1, sort_keys=True))
        return 0
    except KeyboardInterrupt:
        _tell("interrupted: what has come stays for the next time", sys.stderr)
        return 130
    except Exception as error:
        _tell(f"error: {as_error(error)['message']}", sys.stderr)
        return 1


def seconds_of(text: str) -> float:
    """``10m`` -> 600.0, as the options of edgespa have it.

    Raises:
        ValueError: It is no such time.
    """
    found = re.match(r"^([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd]?)$", text)
    if found is None:
        raise ValueError(text)
    return float(found.group(1)) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found.group(2)]


def _window_asked(options: argparse.Namespace) -> dict[str, Any] | None:
    """The health window that is asked for."""
    if options.watch is None:
        for name in ("health_command", "health_every", "max_latency"):
            if getattr(options, name) is not None:
                raise AgentError("usage", f"--{name.replace('_', '-')} is of a health window: give --watch, 10m say")
        return None
    every_s = options.health_every
    return {
        "watch_s": options.watch,
        "every_s": max(0.2, min(30.0, options.watch / 4)) if every_s is None else every_s,
        "health": options.health_command,
        "health_s": options.health_timeout,
        "max_latency_ms": options.max_latency,
    }


def _tell(text: str, where: TextIO | None = None) -> None:
    (where or sys.stdout).write(text + "\n")


def _by_hand_setup(root: Path, options: argparse.Namespace, agent: Path) -> int:
    signers = None if options.signers is None else options.signers.read_text(encoding="utf-8")
    config = {"url": options.url, "signers": signers, "name": options.name, "groups": options.group}
    config.update({"kinds": options.kind, "keep": options.keep, "threads": options.threads, "python": options.python})
    config["watch"] = _window_asked(options)
    done = set_up_here(root, parse_config(config, "the options"), agent, options.every, options.unsigned)
    _tell("\n".join([done["config"], done["agent"], *done["units"]]))
    if options.unsigned:
        _tell("note: nothing has to be signed: whoever can change what the server says decides what runs here")
    if done["enable"]:
        _tell(f"now: {done['enable']}")
    return 0


def _by_hand_pull(root: Path, options: argparse.Namespace) -> int:
    config = read_config(root)
    if options.url is not None:
        config = config._replace(url=options.url)
    report = pull(root, config, Patience(options.timeout, options.slowest, options.within), options.again)
    if options.json:
        _tell(json.dumps(report, sort_keys=True))
    else:
        _tell(report_text(report))
    error = report["error"]
    if error is not None and error["kind"] == "busy":
        return 75  # EX_TEMPFAIL of sysexits.h
    failed = error is not None or any(row["outcome"] == "failed" for row in report["tasks"])
    return int(failed)


def report_text(report: dict[str, Any]) -> str:
    """A report for people."""
    whose = f", signed by {report['signed_by']}" if report["signed_by"] else ""
    lines = []
    if report["serial"] is not None:
        lines.append(f"{report['url']}: serial {report['serial']} of {report['index_created']}{whose}")
    for row in report["tasks"]:
        error = row["error"] or {}
        before = f", before: {row['previous']}" if row["outcome"] == "switched" and row["previous"] else ""
        what = f"FAILED: {error.get('message')}; " if row["outcome"] == "failed" else f"{row['outcome']}: "
        lines.append(f"{row['task']}: {what}in use: {row['version'] or 'nothing'}{before}")
        lines += [f"note: {row['task']}: {note}" for note in row["notes"]]
    if report["error"] is not None:
        lines.append(f"FAILED: {report['error']['message']}")
    if report["serial"] is not None and not report["tasks"] and report["error"] is None:
        lines.append("nothing is for this device")
    return "\n".join([*lines, *(f"note: {note}" for note in report["notes"])])
