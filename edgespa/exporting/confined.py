"""A file of a bundle, run on any number of samples in a process of its own: it may be anybody's.

``python -m edgespa.exporting.confined FOLDER VARIANT THREADS MEMORY SECONDS`` is that process: it bounds its memory and
the time of each answer, and answers arrays with arrays, each as a line of JSON with their types and shapes before their
bytes, until its input ends.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgespa.bundle import Variant
from edgespa.device import runner
from edgespa.device.runner.confine import limit_memory, limit_time, memory_for
from edgespa.errors import DeviceError
from edgespa.system.guarded import private_folder
from edgespa.system.isolated import own_module
from edgespa.system.quiet import first_line

Array = NDArray[Any]

MAX_HEADER = 1 << 16
MAX_ANSWER = 1 << 31
"""Bytes of one answer: what a batch of outputs may be."""
_KINDS = "fiub"


class Confined:
    """A file that runs elsewhere. Made by `confined`.

    Args:
        process: That runs it.
        name: Of the variant.
        said: Where its last words are.
    """

    def __init__(self, process: subprocess.Popen[bytes], name: str, said: Path) -> None:
        self._process, self._name, self._said = process, name, said
        self.runtime = str(self._answer()[0].get("runtime", ""))[:200]

    def __call__(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs in the program's layout.

        Args:
            inputs: One for each input of the program, all with the same first size: the samples.

        Raises:
            DeviceError: It does not run, needs more memory or time than it may have, or gives something else.
        """
        assert self._process.stdin is not None
        try:
            send(self._process.stdin, {}, inputs)
        except OSError as error:
            raise self._ended() from error
        found = self._answer()[1]
        count = len(inputs[0])
        if any(each.shape[:1] != (count,) for each in found):
            raise DeviceError(f"{self._name} gives {[each.shape for each in found]} for {count} samples", _DAMAGED)
        return found

    def _answer(self) -> tuple[dict[str, Any], list[Array]]:
        assert self._process.stdout is not None
        try:
            header, arrays = receive(self._process.stdout)
        except EOFError as error:
            raise self._ended() from error
        except ValueError as error:
            raise DeviceError(f"{self._name}: what runs it answers something else: {error}", _DAMAGED) from error
        if "error" in header:
            raise DeviceError(f"{self._name} cannot be run: {str(header['error'])[:500]}", _INSTALL)
        return header, arrays

    def _ended(self) -> DeviceError:
        status = self._process.wait()
        with contextlib.suppress(OSError):
            lines = self._said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if lines:
                return DeviceError(f"{self._name}: {lines[-1][:300]}", _DAMAGED)
        how = f"status {status}" if status >= 0 else f"signal {-status}"
        return DeviceError(f"{self._name}: what runs it has ended ({how})", _DAMAGED)


_DAMAGED = "check the bundle with: edgespa verify; --variant NAME takes another file"
_INSTALL = "install its runtime (pip install 'edgespa[onnx]'); --variant NAME takes another file"


@contextlib.contextmanager
def confined(folder: Path, variant: Variant, *, threads: int, timeout_s: float) -> Iterator[Confined]:
    """Run a file of a bundle, whose digests were looked at, until the block is left.

    Args:
        folder: Of the bundle.
        variant: Of its manifest.
        threads: Of the runtime.
        timeout_s: End it where one batch takes longer.

    Raises:
        DeviceError: It cannot be loaded.
    """
    with private_folder() as scratch:  # runtimes leave files of their own there
        said = scratch / "said"
        arguments = (str(folder.absolute()), variant.name, str(threads), str(timeout_s))
        with said.open("wb") as words:
            process = subprocess.Popen(
                own_module(__name__, *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                env={**os.environ, "TMPDIR": str(scratch)},
                start_new_session=True,  # Ctrl-C is for this process, which then ends that one
            )
        try:
            yield Confined(process, variant.name, said)
        finally:
            process.kill()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    assert stream is not None
                    stream.close()
            process.wait()


def send(stream: BinaryIO | Any, header: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
    """Write arrays.

    Args:
        stream: To the other process.
        header: What else is said.
        arrays: Of numbers.
    """
    whole = [np.ascontiguousarray(each) for each in arrays]
    told = {**header, "arrays": [[each.dtype.str, list(each.shape)] for each in whole]}
    stream.write(json.dumps(told).encode() + b"\n")
    for each in whole:
        stream.write(each.tobytes())
    stream.flush()


def receive(stream: BinaryIO | Any) -> tuple[dict[str, Any], list[Array]]:
    """Read what `send` wrote.

    Raises:
        EOFError: The other process has ended.
        ValueError: It wrote something else, or too much.
    """
    line = stream.readline(MAX_HEADER)
    if not line:
        raise EOFError
    try:
        header = json.loads(line)
        described = [(np.dtype(str(kind)), tuple(map(int, shape))) for kind, shape in header["arrays"]]
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    sizes = [kind.itemsize * math.prod(shape) for kind, shape in described]
    if any(kind.kind not in _KINDS for kind, _ in described) or any(
        min(shape, default=0) < 0 for _, shape in described
    ):
        raise ValueError("arrays of no numbers")
    if sum(sizes) > MAX_ANSWER:
        raise ValueError(f"{sum(sizes):,} bytes at once")
    found = []
    for (kind, shape), size in zip(described, sizes, strict=True):
        content = stream.read(size)
        if len(content) < size:
            raise EOFError
        found.append(np.frombuffer(content, dtype=kind).reshape(shape))
    return header, found


def main(arguments: Sequence[str]) -> None:
    """Answer until the input ends.

    Args:
        arguments: The bundle's folder, the name of the variant, threads, seconds for a batch.
    """
    given, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # runtimes print what they like
    folder, threads, seconds = Path(arguments[0]), int(arguments[2]), float(arguments[3])
    variant = next(each for each in runner.read_bundle(folder)["variants"] if each["name"] == arguments[1])
    try:
        runtime, name = runner.import_runtime(variant["format"])
        limit_memory(memory_for(folder, [variant], threads))
        cancel = limit_time(seconds)
        model = runner.open_model(folder, variant, threads, runtime)
        cancel()
    except Exception as error:
        send(answers, {"error": first_line(error)})
        return
    send(answers, {"runtime": name})
    while True:
        try:
            _, inputs = receive(given)
        except EOFError:
            return
        cancel = limit_time(seconds)
        try:
            outputs = runner.infer(model, inputs)
        except Exception as error:  # the runtimes raise whatever they like
            send(answers, {"error": first_line(error)})
            return
        cancel()
        send(answers, {}, outputs)


if __name__ == "__main__":
    main(sys.argv[1:])
