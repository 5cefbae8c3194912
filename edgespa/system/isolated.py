"""Python processes of our own that nothing in the current folder can change.

``python -m`` puts the current folder first: a ``random.py`` or ``inspect.py`` that lies there would be imported in the
place of Python's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

MOST_ANSWERED = 128 << 20
_WORDS = 1 << 16
_ROOT = str(Path(__file__).resolve().parents[2])
_RUN = (
    "import runpy, sys; root, module = sys.argv[1:3]; del sys.argv[1:3]; "
    # Where it is not installed: this edgespa, and not another one that is.
    "root in sys.path or sys.path.insert(0, root); runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def own_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of edgespa in a new process.

    Args:
        module: Its name, ``edgespa.exporting.worker``.
        arguments: Its ``sys.argv[1:]``.
    """
    return [sys.executable, "-P", "-c", _RUN, _ROOT, module, *arguments]


class NoAnswerError(Exception):
    """A process ended without one; its text is the last that it said."""


def answer_of(module: str, *arguments: str, asked: Any = None) -> Any:
    """What a module of edgespa, in a new process, prints as the last line of its output, in JSON.

    What it opens may be anybody's: it bounds its own memory and time, and nobody holds more of what it prints than
    `MOST_ANSWERED` bytes.

    Args:
        module: Its name.
        arguments: Its ``sys.argv[1:]``.
        asked: Given to it on stdin, as JSON.

    Raises:
        NoAnswerError: It ends otherwise.
    """
    with tempfile.TemporaryFile() as question, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as words:
        question.write(json.dumps(asked).encode())
        question.seek(0)
        done = subprocess.run(own_module(module, *arguments), check=False, stdin=question, stdout=said, stderr=words)
        last = _last_line(words, _WORDS) or (f"status {done.returncode}" if done.returncode else "no answer")
        if done.returncode:
            raise NoAnswerError(last[:300])
        try:
            return json.loads(_last_line(said, MOST_ANSWERED))
        except (ValueError, RecursionError) as error:
            raise NoAnswerError(last[:300]) from error


def _last_line(stream: IO[bytes], most: int) -> str:
    """Of what lies in a file, the last ``most`` bytes."""
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - most))
    lines = stream.read(most).decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
