"""What a command's failure looks like: one message, a hint, an exit status, and a traceback only with ``--debug``.

    EdgespaError                  Error: message, Hint: hint             1
    OSError (disk, permission)    Error: file and reason, Hint           1
    anything else                 Error: internal error: ..., Hint       1
    click's usage errors          as click does                          2
    Ctrl-C, click.Abort           Interrupted                          130

All of it goes to stderr, also under ``--json``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import click

from edgespa.cli._said import said
from edgespa.cli._terminal import echo

_INTERNAL_HINT = "run again with --debug for the traceback"
_OS_HINTS = {
    errno.ENOSPC: "free some space on that disk, or choose another --output",
    errno.EDQUOT: "free some of your quota, or choose another --output",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another --output",
    errno.EROFS: "choose an --output on a disk that can be written",
    errno.EACCES: "check who may read and write it, or choose another path",
    errno.EPERM: "check who may read and write it, or choose another path",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file, not a folder",
    errno.EISDIR: "check the path: a file is needed there",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOMEM: "close other programs, or use smaller batches",
}


class Failure(click.ClickException):
    """A failure that is reported as a message and a hint.

    Args:
        message: What failed.
        hint: What to do next.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the report.

        Args:
            file: Where to; stderr by default.
        """
        echo(f"Error: {self.message}", file=file, err=file is None)
        if self.hint:
            echo(f"Hint: {self.hint}", file=file, err=file is None)


class Interrupted(click.ClickException):
    """Ctrl-C, or a question answered with no: one line and the status that shells give to an interrupt."""

    exit_code = 130

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the line.

        Args:
            file: Where to; stderr by default.
        """
        after_echo = file is None and sys.stderr.isatty()  # the terminal has just shown ^C, without a line end
        echo(("\n" if after_echo else "") + self.message, file=file, err=file is None)


@contextlib.contextmanager
def reported(debug: Callable[[], bool], line: Sequence[str] = ()) -> Iterator[None]:
    """Turn whatever leaves the block into an exception that click shows in one message.

    Args:
        debug: Asked when something failed: write the traceback too? (The options may not be parsed before.)
        line: The command line behind the program's name: a hint must not lead back to it.

    Raises:
        Failure: For every `Exception` that is not click's own.
        Interrupted: For Ctrl-C and `click.Abort`.
    """
    try:
        yield
    except (click.ClickException, click.exceptions.Exit):
        raise
    except (KeyboardInterrupt, click.Abort) as error:
        # A command that has put its work in safety says so in the exception: "state saved in task.spa.partial".
        text = "; ".join(["Interrupted", *(line.strip() for line in str(error).splitlines() if line.strip())])
        raise Interrupted(said(text)) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise  # the reader of a pipe has gone: click ends quietly
        if debug():
            _write_traceback(error)
        failure = as_failure(error, traceback_shown=debug())
        if failure.hint and leads_to_itself(failure.hint, line):
            failure.hint = "to do the same again helps only when something has changed; what is above says what"
        raise Failure(said(failure.message), failure.hint and said(failure.hint)) from error


def as_failure(error: Exception, *, traceback_shown: bool = False) -> Failure:
    """Say what went wrong, and what to do next.

    Args:
        error: What a command raised.
        traceback_shown: The advice to ask for the traceback is not needed.

    Returns:
        The report; its exit status is 1.
    """
    from edgespa.errors import EdgespaError

    if isinstance(error, EdgespaError):
        return Failure(error.message, error.hint)
    if isinstance(error, OSError) and error.errno is not None:
        return Failure(_os_message(error), _OS_HINTS.get(error.errno))
    if isinstance(error, MemoryError):
        return Failure("out of memory", _OS_HINTS[errno.ENOMEM])
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    message = f"internal error: {type(error).__name__}" + (f": {first_line}" if first_line else "")
    return Failure(message, None if traceback_shown else _INTERNAL_HINT)


def leads_to_itself(hint: str, line: Sequence[str]) -> bool:
    """Whether a hint says no more than to type the command that has just failed.

    Args:
        hint: As it would be shown.
        line: The command line behind the program's name.
    """
    own = sorted(word for word in line if word not in ("--json", "--debug", "-v", "-vv", "--verbose"))
    for match in re.finditer(r"edgespa ([^;`\n)]+)", hint):
        try:
            words = shlex.split(match.group(1).strip().rstrip(".,"))
        except ValueError:
            continue
        if own and sorted(words) == own:
            return True
    return False


def _os_message(error: OSError) -> str:
    given = [name for name in (error.filename, error.filename2) if name is not None]
    names = [f"file descriptor {name}" if isinstance(name, int) else os.fsdecode(name) for name in given]
    reason = error.strerror or os.strerror(error.errno or 0)
    return f"{' -> '.join(names)}: {reason}" if names else reason


def _write_traceback(error: Exception) -> None:
    import traceback

    echo("".join(traceback.format_exception(error)), err=True, nl=False)
