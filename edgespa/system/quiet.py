"""Tracers and converters write to the standard streams, also from C++; this keeps the terminal for the user."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import TextIO

log = logging.getLogger(__name__)

NOTE = 25
"""Level of what is told without being asked, and is no warning: what was taken where nothing was said."""
logging.addLevelName(NOTE, "NOTE")


_shown: list[TextIO] = []
"""The user's stderr, from the outermost block of `quiet` on."""


def shown() -> TextIO:
    """What is stderr to the user, also inside of `quiet`: a bar is to move there, too."""
    return _shown[0] if _shown else sys.stderr


@contextlib.contextmanager
def quiet(what: str) -> Iterator[None]:
    """Send everything that is written to stdout and stderr to the debug log.

    Args:
        what: Named in the log.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stdout.flush()
    sys.stderr.flush()
    printed = io.StringIO()
    with tempfile.TemporaryFile() as sink, contextlib.ExitStack() as stack:
        stack.enter_context(_kept())
        for descriptor in (1, 2):
            saved = os.dup(descriptor)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, descriptor)
            os.dup2(sink.fileno(), descriptor)
        stack.callback(sys.stderr.flush)
        stack.callback(sys.stdout.flush)
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(printed))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            stack.close()
            sink.seek(0)
            text = (printed.getvalue() + sink.read().decode(errors="replace")).strip()
            if text:
                log.debug("%s:\n%s", what, text)


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """Keep the user's stderr for `shown`."""
    if _shown:
        yield
        return
    stream, own = sys.stderr, None
    with contextlib.suppress(OSError, ValueError, AttributeError):  # of a closed one, or one that is no file
        if stream.fileno() == 2:
            own = os.fdopen(os.dup(2), "w", buffering=1, encoding=stream.encoding, errors=stream.errors)
    _shown.append(own or stream)
    try:
        yield
    finally:
        _shown.clear()
        if own is not None:
            with contextlib.suppress(OSError):
                own.close()


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
