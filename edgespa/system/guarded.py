"""What does not outlive this process, however it ends: a temporary folder, and a program that it runs.

A process that is killed, or whose terminal is closed, cleans up nothing itself. So a small process of its own holds the
other end of a pipe: once that is closed, by whatever, it ends the program and removes the folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgespa.system.files import uninterrupted

MOST_OUTPUT_BYTES = 4 << 20
"""Of what a program says, the last so many."""

_READY = b"ready\n"

_FOLDER = """
import os, shutil, sys, time
os.mkdir(sys.argv[1], 0o700)
os.write(1, b"ready\\n")
while os.read(0, 1):
    pass
for _ in range(50):  # what writes there ends at the same time
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.lexists(sys.argv[1]):
        break
    time.sleep(0.1)
"""

# The program is in a session of its own, so that what it starts ends with it; how it ended, the guard ends too.
_PROGRAM = """
import os, signal, subprocess, sys, threading
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except ImportError:
    pass
try:
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
except OSError as error:
    sys.exit("cannot be run: " + (error.strerror or str(error)))
def end():
    try:
        os.killpg(child.pid, signal.SIGKILL) if hasattr(os, "killpg") else child.kill()
    except OSError:
        pass
def watch():
    while os.read(0, 1):
        pass
    end()
threading.Thread(target=watch, daemon=True).start()
status = child.wait()
end()
if status < 0 and os.name != "nt":
    if -status not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A temporary folder that nobody else may look into, as long as the block runs, and this process.

    Raises:
        OSError: It cannot be made.
    """
    folder = Path(tempfile.gettempdir()) / f"edgespa-{secrets.token_hex(6)}"
    guard = _start(_FOLDER, [str(folder)], stdout=subprocess.PIPE)
    assert guard.stdout is not None
    try:
        if guard.stdout.readline() != _READY:
            raise OSError(f"no temporary folder can be made in {folder.parent}")
        yield folder
    finally:
        with uninterrupted():
            _release(guard)
            guard.stdout.close()


def run_guarded(
    command: Sequence[str], *, timeout_s: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; it ends with this process, and everything that it has started with it.

    Args:
        command: The program and its arguments.
        timeout_s: It is ended after so long.
        environment: In place of this process's own.

    Returns:
        Its status, negative for a signal, and what it said.

    Raises:
        TimeoutError: It has not ended in that time.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        guard = _start(_PROGRAM, list(command), stdout=out, stderr=err, environment=environment)
        try:
            status = guard.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"it has not ended after {timeout_s:.0f} s") from error
        finally:
            with uninterrupted():
                _release(guard)
        said = [_last(each.fileno()) for each in (out, err)]
    return subprocess.CompletedProcess(command, status, *said)


def _start(
    source: str,
    arguments: Sequence[str],
    *,
    stdout: Any = subprocess.DEVNULL,
    stderr: Any = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", source, *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env=environment,
        start_new_session=True,  # what is typed in the terminal is for this process, which then ends the guard
    )


def _release(guard: subprocess.Popen[bytes]) -> None:
    assert guard.stdin is not None
    with contextlib.suppress(OSError):
        guard.stdin.close()
    guard.wait()


def _last(file: int) -> str:
    size = os.lseek(file, 0, os.SEEK_END)
    content = os.pread(file, MOST_OUTPUT_BYTES, max(0, size - MOST_OUTPUT_BYTES))
    return content.decode("utf-8", "replace")
