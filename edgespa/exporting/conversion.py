"""From a program to one fp32 file per format: from the cache, or converted in a process of its own.

Two at a time where memory allows. A converter that crashes ends its process; what it cannot convert, it says.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from edgespa.errors import ExportError
from edgespa.exporting import executorch_file, ncnn_file, onnx_file, tflite_file
from edgespa.exporting.cache import Cache, key_of, program_parts
from edgespa.exporting.converter import Form
from edgespa.exporting.started import Crash, Started
from edgespa.graph.program import Program

log = logging.getLogger(__name__)
_KEPT: dict[str, Started] = {}
_KEEPS: ContextVar[bool] = ContextVar("converters are kept", default=False)

CONVERTERS: dict[str, Any] = {
    "onnx": onnx_file,
    "tflite": tflite_file,
    "ncnn": ncnn_file,
    "executorch": executorch_file,
}
SUFFIXES = {"onnx": "onnx", "tflite": "tflite", "ncnn": "ncnn.param", "executorch": "pte"}
"""Of the files of a format."""
_LAID_OUT = {"ncnn": ncnn_file.lay_out, "executorch": executorch_file.lay_out}
"""What is several files comes from a converter, and from the cache, as one."""
WORKER_BYTES = 3 << 30
"""What a process with torch and a converter needs besides the weights; measured: 1.6 to 2.4 GiB."""
_WEIGHT_COPIES = 6


class Conversions:
    """The fp32 files of a program. Made by `conversions`.

    Args:
        program: With plain outputs, in float32.
        form: What the files look like.
        cache: Where converted files are kept.
    """

    def __init__(self, program: Program, form: Form, cache: Cache) -> None:
        self._program = program
        self._form = form
        self._cache = cache
        self._parts = program_parts(program) if cache.folder is not None else []
        self._running: dict[str, Started] = {}

    def write(self, name: str, path: Path) -> None:
        """Write the file of a format.

        Args:
            name: Of the format.
            path: The file.

        Raises:
            ExportError: If the program cannot be converted, or the converter crashes.
        """
        self._write(name, path)
        if name in _LAID_OUT:
            _LAID_OUT[name](path)

    def _write(self, name: str, path: Path) -> None:
        key = self._key(name)
        if self._cache.restore(key, path) is not None:
            return
        if name not in self._running:
            self.start((name,))
        running = self._running.pop(name, None)
        if running is None:
            CONVERTERS[name].write_fp32(self._program, path, self._form)
        else:
            path.write_bytes(_content(running, name))
        self._cache.store(key, path, {})

    def start(self, names: Sequence[str]) -> None:
        """Convert in processes of their own from now on; without one if that cannot be done.

        Args:
            names: Of formats.
        """
        started = {name: _taken(name) for name in names}  # they load their converters while the program is saved
        for name, each in started.items():
            self._running[name] = each
            try:
                each.convert(self._program, self._form)
            except Exception as error:  # whatever torch.export makes of the program: it is converted here then
                log.debug("no process for %s: %s", name, error)
                self._running.pop(name).stop()

    def missing(self, names: tuple[str, ...]) -> list[str]:
        """Formats that the cache does not have.

        Args:
            names: Formats.
        """
        return [name for name in names if not self._cache.has(self._key(name))]

    def stop(self) -> None:
        """End what still runs."""
        for each in self._running.values():
            each.stop()

    def _key(self, name: str) -> str:
        return key_of("fp32", name, self._form, *self._parts) if self._cache.folder is not None else ""


@contextlib.contextmanager
def kept_converters() -> Iterator[None]:
    """Exports in the block leave their converters' processes to later ones: for many, of which each is short.

    They end with this process. One that failed at something is not used again.
    """
    token = _KEEPS.set(True)
    try:
        yield
    finally:
        _KEEPS.reset(token)


def _taken(name: str) -> Started:
    """A process for a format: one that was kept, or a new one."""
    kept = _KEPT.pop(name, None)
    if kept is not None and kept.is_alive:
        return kept
    if kept is not None:
        kept.stop()
    return Started(name)


@contextlib.contextmanager
def conversions(program: Program, form: Form, formats: tuple[str, ...], cache: Cache) -> Iterator[Conversions]:
    """The fp32 files of a program; all formats begin at once, beside what the caller does meanwhile.

    All but the first only if there is room for them.

    Args:
        program: With plain outputs, in float32.
        form: What the files look like.
        formats: Those wanted, in the order in which they will be asked for.
        cache: Where converted files are kept.
    """
    made = Conversions(program, form, cache)
    try:
        missing = made.missing(formats)
        made.start(missing if room_beside(program) else missing[:1])
        yield made
    finally:
        made.stop()


def room_beside(program: Program) -> bool:
    """Whether another process may convert beside this one.

    Args:
        program: What is converted.
    """
    if (os.cpu_count() or 1) < 2:
        return False
    weights = sum(tensor.numel() * tensor.element_size() for tensor in program.state().values())
    free = _free_bytes()
    return free is not None and free > WORKER_BYTES + _WEIGHT_COPIES * weights


def _free_bytes() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _content(running: Started, name: str) -> bytes:
    keeps = _KEEPS.get() and name not in _KEPT
    try:
        content: bytes = running.result(keep=keeps)
    except Crash as crash:
        others = " or ".join(f"--format {other}" for other in CONVERTERS if other != name)
        memory = "free some memory and run again, or " if str(crash) == "SIGKILL" else ""
        raise ExportError(
            f"the converter to {name} crashed on the program ({crash})", f"{memory}export {others} only"
        ) from None
    if keeps:
        _KEPT[name] = running
    return content
