"""A conversion in a new process, for where a fork would not do; `edgespa.export.worker` is what runs there."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from edgespa.errors import ExportError
from edgespa.export.apart import Crash
from edgespa.export.converter import Form
from edgespa.graph.program import BATCH, Program


class Started:
    """A conversion that is under way.

    Args:
        program: With plain outputs, in float32.
        form: What the file looks like.
        name: Of the format.

    Raises:
        Exception: Whatever torch.export makes of a program that cannot be saved.
    """

    def __init__(self, program: Program, form: Form, name: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="edgespa-"))
        saved, self._out = self._folder / "program.pt2", self._folder / f"model.{name}"
        try:
            _save(program, saved)
        except Exception:
            shutil.rmtree(self._folder)
            raise
        values = dataclasses.asdict(form)
        values["pixels"] = form.pixels.model_dump() if form.pixels is not None else None
        options = {"format": name, "form": values}
        command = [sys.executable, "-m", "edgespa.export.worker", str(saved), str(self._out), json.dumps(options)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def result(self) -> bytes:
        """The file; waits for it.

        Raises:
            ExportError: With the process's own words, if the program cannot be converted.
            Crash: If it said none.
        """
        assert self._process.stdout is not None
        try:
            if not (said := self._process.stdout.readline()):
                status = self._process.wait()
                raise Crash(signal.Signals(-status).name if status < 0 else f"exit status {status}")
            if words := json.loads(said):
                raise ExportError(words["message"], words["hint"])
            return self._out.read_bytes()
        finally:
            self.stop()

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)


def _save(program: Program, path: Path) -> None:
    free = torch.export.Dim(BATCH)
    shapes = tuple({0: free} if BATCH in spec.shape else None for spec in program.inputs)
    exported = torch.export.export(program.module, program.example_inputs(), dynamic_shapes=shapes)
    torch.export.save(exported, path)
