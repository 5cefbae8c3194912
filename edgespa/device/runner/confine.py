"""Bounds of memory and time for a file that somebody else made: what it asks for is not in its size.

A graph of some bytes may ask for any number of them while it runs, or never end. The process that runs it sets its own
limits; what it may have beside what every runtime takes follows from the sizes of its files and of its tensors.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Callable  # for annotations only: Python 3.8 cannot subscript them
from pathlib import Path
from typing import Any

from edgespa.device.runner.models import chunk_of
from edgespa.device.runner.weights import BASE, task_files

MEMORY_BYTES = 2 << 30  # Python, a runtime and its threads
THREAD_BYTES = 16 << 20  # a stack, and memory of its own
FILE_TIMES = 6  # the bytes of a file: the file, the weights in another order and type
TENSOR_TIMES = 64  # the bytes of inputs and outputs: what lies between them
MOST_BYTES = 8 << 30  # that a bundle may claim for itself; or half of what the machine has
SECONDS = 600.0


def memory_for(folder: Path, variants: list[dict[str, Any]], threads: int) -> int:
    """Bytes that this process may allocate to run these variants, one after the other, beside what it has already."""
    files, tensors = 0, 0
    for variant in variants:
        paths = [folder / name for name in task_files(variant)] + ([folder / BASE] if variant.get("weights") else [])
        made = (variant.get("weights") or {}).get("made_bytes", 0)
        files = max(files, sum(path.stat().st_size for path in paths if path.is_file()) + made)
        tensors = max(tensors, 4 * _elements(variant["inputs"], variant["outputs"]))
    wanted = FILE_TIMES * files + TENSOR_TIMES * tensors
    return MEMORY_BYTES + THREAD_BYTES * threads + min(wanted, MOST_BYTES, _memory_there())


def _elements(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> int:
    """Numbers of the inputs and outputs of one run."""
    counts = []
    for spec in (*inputs, *outputs):
        counts.append(math.prod(size for size in spec["shape"] if isinstance(size, int)))
    free = any(not isinstance(size, int) for spec in inputs for size in spec["shape"][:1])
    return sum(counts) * (chunk_of(sum(counts[: len(inputs)])) if free else 1)


def _memory_there() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return MEMORY_BYTES


def limit_memory(more: int) -> None:
    """Let this process allocate no more than so many bytes, where the system knows such a limit.

    Of data, not of addresses: runtimes reserve many more of those than they use, and map their files.
    """
    try:
        import resource

        most = _data_bytes() + more
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        if soft == resource.RLIM_INFINITY or most < soft:
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (ImportError, OSError, ValueError):
        return


def _data_bytes() -> int:
    """What this process has: a numerical library sets much aside for each of many cores when it is imported."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return 0


def limit_time(seconds: float) -> Callable[[], None]:
    """End this process after so long, also in the middle of what a runtime does; what is returned takes that back."""

    def end() -> None:
        print(f"error: it has not ended after {seconds:g} s: --timeout S gives it more", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    if hasattr(signal, "setitimer"):  # for what lets no other thread run
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds + 5)

    def cancel() -> None:
        timer.cancel()
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)

    return cancel
