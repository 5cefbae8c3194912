"""Several processes on the CPU of one machine, where ``accelerate launch`` starts one.

``accelerate launch --cpu --num_processes 2`` starts a single process (accelerate 1.15: without MPI it has no launcher
for CPUs) and says nowhere that two were asked for but on its own command line. That would be half of what the user
wants, without a word. So this process starts as many as that says, as torchrun would, and waits for them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgespa.errors import EdgespaError

_STARTED = ("WORLD_SIZE", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_PAUSE_S = 0.1
_GRACE_S = 10.0
_PATIENCE_S = 10.0
_PATIENCE_TO_SAVE_S = 120.0
"""Until the training step that they are at is done, and their state written."""


def cpu_processes_to_start(environment: Mapping[str, str] | None = None, parent: Sequence[str] | None = None) -> int:
    """How many processes were asked for and are not there; 1 if this one is all.

    Args:
        environment: Variables, those of this process by default.
        parent: Command line of the parent process, looked up by default.
    """
    environment = os.environ if environment is None else environment
    on_cpu = environment.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    # accelerate names a port where it was asked for more than one process.
    if not on_cpu or "MASTER_PORT" not in environment or any(name in environment for name in _STARTED):
        return 1
    return _asked_for(_parent_command() if parent is None else parent)


def _asked_for(command: Sequence[str]) -> int:
    """The number of processes on a command line of accelerate, or in the configuration file that it reads."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    names = [os.path.basename(word) for word in command]
    begin = next((i for i, name in enumerate(names) if name in ("launch", "accelerate-launch", "launch.py")), None)
    begin = begin if begin is not None else next((i for i, w in enumerate(command) if w.endswith(".launch")), None)
    if begin is None:
        return 1
    try:
        options, _ = launch_command_parser().parse_known_args(list(command[begin + 1 :]))
    except SystemExit:  # what accelerate itself took
        return 1
    if options.num_processes is None:
        with contextlib.suppress(OSError, ValueError):
            return int(load_config_from_file(options.config_file).num_processes)
    return int(options.num_processes or 1)


def _parent_command() -> list[str]:
    import psutil

    with contextlib.suppress(psutil.Error):
        parent = psutil.Process().parent()
        return parent.cmdline() if parent is not None else []
    return []


def run_processes(count: int, arguments: Sequence[str], folder: Path | None = None) -> int:
    """Run this command in several processes; when one fails, the others are ended.

    Args:
        count: How many.
        arguments: What follows ``python``.
        folder: Where they run; the current one by default.

    Returns:
        The exit status: that of the first one that failed, or 0.
    """
    shared = {**os.environ, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())})
    children: list[subprocess.Popen[bytes]] = []
    with _passing_on(children):
        for rank in range(count):
            own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            children.append(subprocess.Popen([sys.executable, *arguments], env=own, cwd=folder))
        return _first_failure(children)


@contextlib.contextmanager
def said_once(index: int) -> Iterator[None]:
    """Let the main process alone report what fails in all: before another one does, its launcher has ended it.

    Args:
        index: Of this process.

    Raises:
        EdgespaError: What failed; in another than the main process with its index.
    """
    try:
        yield
    except EdgespaError as error:
        if index:
            time.sleep(_GRACE_S)
            error.message = f"process {index}: {error.message}"
        raise


def _first_failure(children: list[subprocess.Popen[bytes]]) -> int:
    while True:
        states = [child.poll() for child in children]
        failed = [state for state in states if state]
        if failed:
            _end(children, _PATIENCE_S)
            # A signal's status, as shells give it.
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        if all(state == 0 for state in states):
            return 0
        time.sleep(_PAUSE_S)


@contextlib.contextmanager
def _passing_on(children: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Children do not outlive this process: an interrupt or SIGTERM is theirs, too."""

    def stop(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        _end(children, _PATIENCE_TO_SAVE_S)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(children, _PATIENCE_S)


def _end(children: Sequence[subprocess.Popen[bytes]], patience_s: float) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    until = time.monotonic() + patience_s
    for child in children:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
