"""What a runner says: its JSON, or why there is none."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgespa import __version__
from edgespa.bundle import RUNNER
from edgespa.config import Strict
from edgespa.device.assemble import runner_source
from edgespa.device.endings import ending_of
from edgespa.device.measure.results import Check
from edgespa.device.ours import runner_command
from edgespa.errors import ConfigError, DeviceError
from edgespa.system.guarded import private_folder, run_guarded

SELFCHECK_S = 600.0
"""Of a self-check, unless more is asked for: what somebody else made may never end."""

_STDERR_LINES = 8
_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer", bound=Strict)


@dataclass(frozen=True)
class Ended:
    """A runner that has ended.

    Attributes:
        status: Its exit status; negative for a signal.
        stdout: What it said.
        stderr: Likewise.
        by_hand: The command that does the same.
        killed: Why edgespa ended it, if it did.
    """

    status: int
    stdout: str
    stderr: str
    by_hand: str
    killed: str | None = None


def decode(ended: Ended, key: str, what: str, statuses: Sequence[int] = (0,)) -> dict[str, Any]:
    """The JSON on the last line of a runner's output, an object that has this key.

    Args:
        ended: The runner.
        key: That the object must have.
        what: Was done, for the message.
        statuses: With which it may end.

    Raises:
        DeviceError: It did not answer; the message has its last lines.
    """
    lines = ended.stdout.strip().splitlines()
    try:
        if ended.status in statuses and lines and key in (answer := dict(json.loads(lines[-1]))):
            return answer
    except (ValueError, TypeError):
        pass
    ending = ending_of(ended.status, ended.stderr, ended.killed)
    how = f"was {ending.how}" if ended.status < 0 and not ended.killed else ending.how
    last = "\n".join((ended.stderr or ended.stdout).strip().splitlines()[-_STDERR_LINES:])
    raise DeviceError(
        f"{what}: {RUNNER} {how}" + (f":\n{last}" if last else ""),
        ending.hint or f"run it by hand to see more: {ended.by_hand}",
    )


def parse_answer(model: type[_Answer], values: Mapping[str, Any], name: str) -> _Answer:
    """One of `edgespa.device.measure.results` from what a runner says.

    Raises:
        DeviceError: The runner is of another version.
    """
    try:
        return model.parse(values, f"{name}/{RUNNER}")
    except ConfigError as error:
        raise DeviceError(
            f"{error.message}: this runner answers otherwise than edgespa {__version__} expects",
            "leave out --trust, or export the bundle again with this version",
        ) from error


def run_selfcheck(
    bundle: Path,
    variant: str = "all",
    *,
    threads: int = 1,
    python: Path | None = None,
    runtime: str | None = None,
    timeout_s: float = SELFCHECK_S,
    memory_mib: int | None = None,
) -> tuple[Check, ...]:
    """Run the recorded inputs through the files of a bundle, in a process of its own on this machine.

    This edgespa's runner does it, not the bundle's: what came with a bundle cannot speak for it. In a bundle of the
    same version both are the same file.

    Args:
        bundle: The bundle's folder; its digests are not looked at here.
        variant: A variant's name, or ``"all"``.
        threads: Threads of the runtime.
        python: The interpreter of another environment, with other runtimes: 3.8 or newer, with numpy. None: this one.
        runtime: By the name of its package; None: the usual one of each format.
        timeout_s: It is ended after so long, and with this process in any case.
        memory_mib: It may allocate so much; None: by the sizes of files and tensors, see the runner's ``confine``.

    Returns:
        One result per variant. A bound that is exceeded is a result with status ``"failed"``, not an exception.

    Raises:
        DeviceError: The runner did not answer; the message has its last lines. Or there is no such interpreter.
    """
    options = ["--selfcheck", "--variant", variant, "--threads", str(threads)]
    options += [] if runtime is None else ["--runtime", runtime]
    limits = ["--timeout", f"{timeout_s:g}", *(["--memory", str(memory_mib)] if memory_mib else [])]
    folder = os.path.abspath(bundle)
    # What lies beside the bundle, or here, is not to be taken for a module; -P came with Python 3.11.
    own = [sys.executable, "-P"] if python is None else [os.path.abspath(python), "-I"]
    if python is not None and not os.access(own[0], os.X_OK):
        why = os.strerror(errno.ENOENT if not os.path.exists(own[0]) else errno.EACCES)
        raise DeviceError(f"{python} cannot be run: {why}", "name the python of an environment: ENV/bin/python")
    command, _ = runner_command(own, folder, [*options, *limits])
    by_hand = f"{python or 'python'} {bundle / RUNNER} {' '.join(options)}"
    what = f"{bundle.name}: self-check of {variant}" + (f" in {python}" if python is not None else "")
    try:
        with private_folder() as scratch:  # runtimes leave files of their own there
            done = run_guarded(command, timeout_s=timeout_s, environment={**os.environ, "TMPDIR": str(scratch)})
    except TimeoutError as error:
        raise DeviceError(
            f"{what}: {error}, and was ended", "give it more with --timeout, if you trust the bundle's maker"
        ) from error
    ended = Ended(done.returncode, done.stdout, done.stderr, by_hand)
    answer = decode(ended, "selfcheck", what, statuses=(0, 1))
    return tuple(parse_answer(Check, each, bundle.name) for each in answer["selfcheck"])


def is_own_runner(bundle: Path) -> bool:
    """Whether the runner in a bundle is the one of this edgespa, byte for byte."""
    runner, own = bundle / RUNNER, runner_source()
    return runner.is_file() and runner.stat().st_size == len(own) and runner.read_bytes() == own


def look_at_runner(bundle: Path) -> None:
    """Say so if the runner of a bundle that is trusted is another one.

    Raises:
        DeviceError: There is none.
    """
    runner = bundle / RUNNER
    if not runner.is_file():
        raise DeviceError(f"{bundle} has no {RUNNER}", "leave out --trust: edgespa's own runner needs none")
    if not is_own_runner(bundle):
        _log.warning("%s is not the runner of edgespa %s; it is run because of --trust", runner, __version__)
