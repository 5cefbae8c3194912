"""A job's function, called in a worker: whatever comes of it is plain values."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from edgespa.errors import EdgespaError
from edgespa.system.plain import to_plain
from edgespa.system.quiet import NOTE, first_line
from edgespa.workers.job import Ended, Failure, Job

MOST = 50
"""Lines of the log that are kept of a job."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that say with how many threads one process computes."""


def carried_out(call: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Call a function and say what came of it; raises nothing.

    Args:
        call: See `Job`.
        arguments: See `Job`.

    Returns:
        What `ended` reads: plain values.
    """
    began = time.monotonic()
    value, failure = None, None
    with _listening() as said:
        try:
            module, _, name = call.partition(":")
            value = to_plain(getattr(importlib.import_module(module), name)(**arguments))
        except EdgespaError as error:
            failure = Failure(error.message, error.hint, True, type(error).__name__, traceback.format_exc())
        except (KeyboardInterrupt, SystemExit) as error:
            words = "; ".join(["interrupted", *(line.strip() for line in str(error).splitlines() if line.strip())])
            failure = Failure(words, None, True, type(error).__name__, stopped=True)
        except OSError as error:
            name = f"{error.filename}: " if error.filename is not None else ""
            words = f"{name}{error.strerror or first_line(error)}"
            failure = Failure(words, None, error.errno is not None, type(error).__name__, traceback.format_exc())
        except MemoryError:
            failure = Failure("out of memory", "use smaller batches, or fewer --jobs", True, "MemoryError")
        except Exception as error:
            failure = Failure(
                f"internal error: {first_line(error)}", None, False, type(error).__name__, traceback.format_exc()
            )
    return {
        "value": value,
        "failure": None if failure is None else vars(failure),
        "seconds": time.monotonic() - began,
        "said": said[-MOST:],
    }


def ended(job: Job, answer: Mapping[str, Any], where: str) -> Ended:
    """What a worker answered.

    Args:
        job: What it was given.
        answer: Of `carried_out`.
        where: It ran.
    """
    failure = None if answer["failure"] is None else Failure(**answer["failure"])
    said = tuple((int(level), str(text)) for level, text in answer["said"])
    return Ended(job, answer["value"], failure, float(answer["seconds"]), where, said)


def threads_of(jobs: int) -> int:
    """How many threads each of some workers gets, so that all of them have one core a thread.

    Args:
        jobs: Workers on this machine.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get(THREADS[0], "")
    most = int(asked) if asked.isdecimal() and int(asked) else cores
    return max(1, min(cores // jobs, most))


@contextlib.contextmanager
def _listening() -> Iterator[list[tuple[int, str]]]:
    """What edgespa logs meanwhile: whoever asked for the job shows it, in its own place."""
    said: list[tuple[int, str]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append((record.levelno, record.getMessage()))
            del said[: -2 * MOST]

    logger, handler = logging.getLogger("edgespa"), Kept(NOTE)
    before = logger.level
    logger.addHandler(handler)
    if not before or before > NOTE:
        logger.setLevel(NOTE)
    try:
        yield said
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
