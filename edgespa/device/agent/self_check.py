"""The self-check of a version without a host, as `edgespa.device.shipment.ship` has it made."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from edgespa.device.agent.facts import environment_in
from edgespa.device.agent.protocol import AgentError
from edgespa.device.agent.versions import MANIFEST, MOST_MANIFEST, read_small
from edgespa.device.agent.watched import execute

CHECK_S = 600.0
RUNNER = ""  # edgespa's own runner, as ``python -c`` takes it; the file that devices pull with says it at its end


def runtime_argv(root: Path, python: str | None) -> list[str]:
    """The Python that has the runtimes, as the beginning of an argument list; see `edgespa.device.inventory`."""
    found = environment_in(root)
    if python is not None or found is not None:
        return [python or str((found or {})["python"]), "-I"]
    return [sys.executable, "-E", *(["-P"] if sys.version_info >= (3, 11) else [])]


def runner_argv(root: Path, folder: Path, python: str | None, options: list[str]) -> list[str]:
    """The argument list that runs edgespa's own runner on a version; see `edgespa.device.ours`."""
    return _with_runner(runtime_argv(root, python), folder, options)


def _with_runner(argv: list[str], folder: Path, options: list[str]) -> list[str]:
    if not RUNNER:
        raise AgentError("usage", "this file has no runner with it: set pulling up again")
    return [*argv, "-c", RUNNER, "--bundle", str(folder), *options, "--json"]


def check_version(root: Path, folder: Path, python: str | None, threads: int) -> list[dict[str, Any]]:
    """Run the recorded inputs through the files of a version; one row per variant, as the runner gives them.

    Args:
        root: Where edgespa keeps things.
        folder: Of the version.
        python: That has the runtimes; None for the environment that was set up, or this one.
        threads: Of the runtime.

    Raises:
        AgentError: A file fails, none can run, or there is no result.
    """
    argv = runtime_argv(root, python)
    done = _checked(root, folder, argv, "all", threads)
    rows = _each_by_itself(root, folder, argv, threads) if done["status"] < 0 and not done["killed"] else []
    if not rows:
        try:
            rows = _rows(done)
        except (ValueError, LookupError, TypeError) as error:
            last = " / ".join(str(done["stderr"]).strip().splitlines()[-3:])[:500]
            how = done["killed"] or f"it ended with status {done['status']}"
            raise AgentError("self-check", f"the self-check has no result: {how}: {last}") from error
    failed = [f"{row['name']}: {'; '.join(map(str, row['failures']))}" for row in rows if row["status"] == "failed"]
    if failed:
        raise AgentError("self-check", f"it fails its self-check here, and is not used: {'; '.join(failed)[:800]}")
    if not any(row["status"] == "passed" for row in rows):
        why = "; ".join(f"{row['name']}: {', '.join(map(str, row['failures']))}" for row in rows)
        raise AgentError("no-runtime", f"no file of it can run here: {why[:800]}")
    return rows


def _checked(root: Path, folder: Path, argv: list[str], variant: str, threads: int) -> dict[str, Any]:
    argv = _with_runner(argv, folder, ["--selfcheck", "--variant", variant, "--threads", str(threads)])
    ours, theirs = os.pipe()  # what `execute` waits on: it never ends before the process does
    try:
        with os.fdopen(ours, "rb") as stream:
            request = {"argv": argv, "cwd": str(folder), "timeout_s": CHECK_S, "small": True}
            return execute(root, request, stream)
    finally:
        os.close(theirs)


def _rows(done: dict[str, Any]) -> list[dict[str, Any]]:
    rows = json.loads(str(done["stdout"]).strip().splitlines()[-1])["selfcheck"]
    if not rows or any(not isinstance(row["failures"], list) or not row["status"] or not row["name"] for row in rows):
        raise ValueError("no rows")
    return list(rows)


def _each_by_itself(root: Path, folder: Path, argv: list[str], threads: int) -> list[dict[str, Any]]:
    """One variant after the other, where a runtime ends the process: the others do not suffer by it."""
    rows = []  # type: list[dict[str, Any]]
    try:
        manifest = json.loads(read_small(folder / MANIFEST, MOST_MANIFEST).decode("utf-8"))
        for name in [str(variant["name"]) for variant in manifest["variants"]]:
            done = _checked(root, folder, argv, name, threads)
            if done["status"] < 0:
                how = f"ended by signal {-done['status']}"
                rows.append({"name": name, "status": "not run", "runtime": None, "failures": [how]})
            else:
                rows += _rows(done)
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return rows if any(row["status"] != "not run" for row in rows) else []
