"""Trying a file in a process of its own: a runtime that crashes on it takes that process along, and not the export.

``python -m edgespa.exporting.trial`` is that process: it answers one line of JSON with another, until its input ends.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device import runner
from edgespa.system.isolated import own_module

log = logging.getLogger(__name__)

READY = "ready\n"


def crash_of(folder: Path, variant: dict[str, Any], threads: int) -> str | None:
    """What killed a process that loaded a file and ran it once; None if it lived, whatever the runtime said.

    Args:
        folder: Where the file is.
        variant: As a manifest has it.
        threads: For the runtime.
    """
    question = json.dumps({"folder": str(folder.absolute()), "variant": variant, "threads": threads})
    try:
        process = _process()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(question + "\n")
        process.stdin.flush()
        if process.stdout.readline():
            return None
        status = process.wait()
    except OSError as error:
        log.debug("no trial of %s: %s", variant["name"], error)
        end()
        return None
    end()
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


@contextlib.contextmanager
def trials() -> Iterator[None]:
    """While this lasts, one process tries all files; it ends then."""
    try:
        yield
    finally:
        end()


def end() -> None:
    """End the process; the next trial starts another."""
    if _process.cache_info().currsize:
        _process().kill()
        _process().communicate()
    _process.cache_clear()


@functools.cache
def _process() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        own_module("edgespa.exporting.trial"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for the export, which then ends this one
    )
    assert process.stdout is not None
    if process.stdout.readline() != READY:  # no fault of a file
        process.kill()
        process.communicate()
        raise OSError("the process that tries files does not start")
    return process


atexit.register(end)


def _try(question: dict[str, Any]) -> None:
    variant = question["variant"]
    runtime, _ = runner.import_runtime(variant["format"], variant.get("picked"))
    model = runner.open_model(Path(question["folder"]), variant, question["threads"], runtime)
    runner.infer(model, [np.zeros(_shape(spec), spec["dtype"]) for spec in variant["inputs"]])


def _shape(spec: dict[str, Any]) -> list[int]:
    """Of one input, in the program's layout."""
    sizes = [size if isinstance(size, int) else 1 for size in spec["shape"]]
    return [sizes[0], sizes[3], sizes[1], sizes[2]] if spec["layout"] == "NHWC" else sizes


def main() -> None:
    """Answer until the input ends."""
    sys.stdout.write(READY)
    sys.stdout.flush()
    for line in sys.stdin:
        with contextlib.suppress(Exception):  # what a runtime refuses, it will refuse again where it is told
            _try(json.loads(line))
        sys.stdout.write("{}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
