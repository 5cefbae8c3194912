"""ONNX Runtime on an ONNX file, in a process of its own: ``python -m edgespa.models.from_onnx.running``.

It reads a line of JSON, the file and its inputs, answers with a line of JSON and the outputs, and ends.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from typing import Any, BinaryIO

import numpy as np

from edgespa.system.quiet import first_line

ABSENT = "onnxruntime is not installed"
_MEMORY_BYTES, _FILE_TIMES, _TENSOR_TIMES = 2 << 30, 8, 64
_MOST_BYTES = 10 << 30
_MOST_ANSWER = 1 << 31


def limit(file_bytes: int, tensor_bytes: int, seconds: float) -> None:
    """Bound the memory and the time of this process, by the sizes of a file and of what goes in.

    Args:
        file_bytes: Of the file.
        tensor_bytes: Of the inputs.
        seconds: Until it is ended.
    """
    wanted = _MEMORY_BYTES + _FILE_TIMES * file_bytes + _TENSOR_TIMES * tensor_bytes
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (min(wanted, _MOST_BYTES),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_ANSWER,) * 2)
    except (ImportError, OSError, ValueError):
        pass  # a system that knows no such limits, or has narrower ones
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def main(given: BinaryIO, answer: BinaryIO) -> None:
    """Answer once.

    Args:
        given: The header, the file, the inputs.
        answer: Where outputs go.
    """
    header = json.loads(given.readline())
    described = [(np.dtype(kind), tuple(shape)) for kind, shape in header["inputs"]]
    sizes = [kind.itemsize * math.prod(shape) for kind, shape in described]
    limit(header["size"], sum(sizes), header["seconds"])
    try:
        outputs, runtime = _run(given, header, described, sizes)
    except ModuleNotFoundError:
        answer.write(json.dumps({"error": ABSENT}).encode() + b"\n")
        return
    except Exception as error:  # whatever the runtime makes of a file
        answer.write(json.dumps({"error": first_line(error)}).encode() + b"\n")
        return
    told = {"runtime": runtime, "outputs": [[each.dtype.str, list(each.shape)] for each in outputs]}
    answer.write(json.dumps(told).encode() + b"\n")
    for each in outputs:
        answer.write(np.ascontiguousarray(each).tobytes())


def _run(given: BinaryIO, header: dict[str, Any], described: Any, sizes: list[int]) -> tuple[list[Any], str]:
    import onnxruntime as ort

    content = given.read(header["size"])
    inputs = [
        np.frombuffer(given.read(size), dtype=kind).reshape(shape)
        for (kind, shape), size in zip(described, sizes, strict=True)
    ]
    options = ort.SessionOptions()
    options.intra_op_num_threads = max(1, min(4, os.cpu_count() or 1))
    options.log_severity_level = 4
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    kinds = {each.name: each.type for each in session.get_inputs()}
    fed = [
        each.astype(np.float16) if kinds.get(name) == "tensor(float16)" else each
        for name, each in zip(header["names"], inputs, strict=True)
    ]
    found: list[Any]
    if header["rows"]:
        rows = [
            session.run(None, dict(zip(header["names"], (each[at : at + 1] for each in fed), strict=True)))
            for at in range(len(fed[0]))
        ]
        found = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    else:
        found = session.run(None, dict(zip(header["names"], fed, strict=True)))
    if any(not isinstance(each, np.ndarray) or each.dtype.kind not in "fiub" for each in found):
        raise ValueError("it gives something else than numbers")
    if sum(each.nbytes for each in found) > _MOST_ANSWER:
        raise ValueError("it gives more than 2 GiB")
    return found, f"ONNX Runtime {ort.__version__}"


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the runtime prints what it likes
    main(sys.stdin.buffer, out)
    out.flush()
