"""A worker process: a line of JSON on stdin is a job, a line of JSON back is what came of it.

It ends when its stdin does, which is when whoever started it lets go of it, or has gone: a job that runs then is
killed with everything that it started. It leads a session of its own, so that Ctrl-C is for whoever started it, who
then asks each worker to end (SIGINT): what a run saves then, it saves.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from typing import BinaryIO

from edgespa.workers.calling import carried_out

READY = b"ready\n"


def main() -> None:
    """Do what comes, until nothing does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a model's code prints is no answer
    orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(orders, busy), daemon=True).start()
    _answer(answers, READY)
    while (line := orders.get()) is not None:
        asked = json.loads(line)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            said = carried_out(asked["call"], asked["arguments"])
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        busy.clear()
        _answer(answers, json.dumps(said).encode() + b"\n")


def _answer(stream: BinaryIO, content: bytes) -> None:
    try:
        stream.write(content)
        stream.flush()
    except BrokenPipeError:  # nobody waits for it
        os._exit(1)


def _listen(orders: queue.SimpleQueue[bytes | None], busy: threading.Event) -> None:
    for line in sys.stdin.buffer:
        busy.set()
        orders.put(line)
    if busy.is_set():
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            with contextlib.suppress(OSError):
                os.killpg(0, signal.SIGKILL)
        os._exit(1)
    orders.put(None)


if __name__ == "__main__":
    main()
