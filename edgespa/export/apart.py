"""Work in a forked process: what crashes there takes that process along, and not the export.

A fork has all that this process has, so nothing is loaded or sent, and only the result comes back, pickled. Not
everything outlives a fork, though: see `can_fork`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from edgespa.errors import EdgespaError, ExportError

log = logging.getLogger(__name__)

Result = TypeVar("Result")
_THREADED = ("jax", "tensorflow")


class Crash(Exception):
    """The process ended without an answer; the message is the name of the signal, or the exit status."""


class _There(Exception):
    """The traceback of an error in another process, as the cause of what is raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def can_fork(*, with_jax: bool = False) -> bool:
    """Whether work can be done in a fork of this process.

    Args:
        with_jax: The work needs jax, as litert-torch does: a fork of a process that has used it waits forever for
            threads that are not there.
    """
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return False
    return not (with_jax and any(name in sys.modules for name in _THREADED))


class Apart:
    """A function that runs in a forked process from now on.

    That process keeps its temporary files in a folder of its own, which goes with it, also if this process is killed.

    Args:
        function: What to do.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        context = multiprocessing.get_context("fork")
        self._answer, theirs = context.Pipe(duplex=False)
        self._folder = tempfile.mkdtemp(prefix="edgespa-")
        self._process = context.Process(target=_work, args=(function, theirs, self._folder), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: what can_fork is for
            self._process.start()
        theirs.close()

    def result(self) -> Any:
        """What the function returns; waits for it.

        Raises:
            Crash: If the process crashed.
            Exception: What the function raised.
        """
        try:
            kind, value, where = pickle.loads(self._answer.recv_bytes())  # of our own fork
        except EOFError:
            self._process.join()
            status = self._process.exitcode or 0
            raise Crash(signal.Signals(-status).name if status < 0 else f"exit status {status}") from None
        finally:
            self.stop()
        if kind == "error":
            raise value from _There(where)
        return value

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join()
        self._answer.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def call(function: Callable[[], Result], what: str, hint: str) -> Result:
    """Do something in a forked process, or in this one where that cannot be.

    Args:
        function: What to do.
        what: Of the error if it crashes: "the quantiser of m.onnx".
        hint: Of that error.

    Raises:
        ExportError: If it crashes.
        Exception: What the function raises.
    """
    if not can_fork():
        return function()
    work = Apart(function)
    try:
        result: Result = work.result()
    except Crash as crash:
        raise ExportError(f"{what} crashed ({crash})", hint) from None
    finally:
        work.stop()
    return result


def _work(function: Callable[[], Any], answer: Connection, folder: str) -> None:
    os.setsid()  # Ctrl-C is for the export, which then ends this one
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_DFL)
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # the other threads did not come along
    if not log.isEnabledFor(logging.DEBUG):
        _say_nothing()
    try:
        said: tuple[str, Any, str] = ("value", function(), "")
    except Exception as error:
        said = ("error", _portable(error), traceback.format_exc())
    shutil.rmtree(folder, ignore_errors=True)
    answer.send_bytes(pickle.dumps(said))


def _end_with_parent(folder: str) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _say_nothing() -> None:
    """What a crash says goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _portable(error: Exception) -> Exception:
    """An error that arrives as it is, or what it says."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        if isinstance(error, EdgespaError):
            return ExportError(error.message, error.hint)
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
