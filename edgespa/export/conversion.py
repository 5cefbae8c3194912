"""From a program to one fp32 file per format: from the cache, or converted, two at a time where memory allows."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from edgespa.errors import ExportError
from edgespa.export import onnx_file, tflite_file
from edgespa.export.cache import Cache, key_of, program_parts
from edgespa.export.converter import Form
from edgespa.graph.program import BATCH, Program

log = logging.getLogger(__name__)

CONVERTERS: dict[str, Any] = {"onnx": onnx_file, "tflite": tflite_file}
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
        self._running: dict[str, tuple[subprocess.Popen[str], Path]] = {}

    def write(self, name: str, path: Path) -> None:
        """Write the file of a format.

        Args:
            name: ``onnx`` or ``tflite``.
            path: The file.

        Raises:
            ExportError: If the program cannot be converted.
        """
        key = self._key(name)
        if self._cache.restore(key, path) is not None:
            return
        if name not in self._running or not _collect(*self._running.pop(name), path):
            CONVERTERS[name].write_fp32(self._program, path, self._form)
        self._cache.store(key, path, {})

    def start(self, name: str, folder: Path) -> None:
        """Convert in a process of its own from now on; without one if that cannot be done.

        Args:
            name: Of the format.
            folder: For files between the processes.
        """
        try:
            saved, out = folder / "program.pt2", folder / f"model.{name}"
            _save(self._program, saved)
            form = dataclasses.asdict(self._form)
            form["pixels"] = self._form.pixels.model_dump() if self._form.pixels is not None else None
            options = {"format": name, "form": form}
            command = [sys.executable, "-m", "edgespa.export.worker", str(saved), str(out), json.dumps(options)]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except Exception as error:  # whatever torch.export makes of the program: it is converted here then
            log.debug("no process for %s: %s", name, error)
            return
        self._running[name] = (process, out)

    def missing(self, names: tuple[str, ...]) -> list[str]:
        """Formats that the cache does not have.

        Args:
            names: Formats.
        """
        with tempfile.TemporaryDirectory() as folder:
            trial = Path(folder) / "trial"
            return [name for name in names if self._cache.restore(self._key(name), trial) is None]

    def stop(self) -> None:
        """End what still runs."""
        for process, _ in self._running.values():
            process.kill()
            process.wait()

    def _key(self, name: str) -> str:
        return key_of("fp32", name, self._form, *self._parts) if self._cache.folder is not None else ""


@contextlib.contextmanager
def conversions(program: Program, form: Form, formats: tuple[str, ...], cache: Cache) -> Iterator[Conversions]:
    """The fp32 files of a program; all formats but the first begin at once, beside what the caller does meanwhile.

    Args:
        program: With plain outputs, in float32.
        form: What the files look like.
        formats: Those wanted, in the order in which they will be asked for.
        cache: Where converted files are kept.
    """
    with tempfile.TemporaryDirectory(prefix="edgespa-") as folder:
        made = Conversions(program, form, cache)
        try:
            missing = made.missing(formats)
            for name in missing[1:]:
                if room_beside(program):
                    made.start(name, Path(folder))
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


def _save(program: Program, path: Path) -> None:
    free = torch.export.Dim(BATCH)
    shapes = tuple({0: free} if BATCH in spec.shape else None for spec in program.inputs)
    exported = torch.export.export(program.module, program.example_inputs(), dynamic_shapes=shapes)
    torch.export.save(exported, path)


def _collect(process: subprocess.Popen[str], out: Path, path: Path) -> bool:
    """Take over what a process has made; False if it was not able to say why it did not.

    Raises:
        ExportError: With its own words, if the program cannot be converted.
    """
    said = process.communicate()[0]
    if process.returncode == 0 and out.is_file():
        path.write_bytes(out.read_bytes())
        return True
    with contextlib.suppress(ValueError):
        words = json.loads(said)
        raise ExportError(words["message"], words["hint"])
    log.debug("the process for %s ended with %d", out.name, process.returncode)
    return False
