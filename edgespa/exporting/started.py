"""A conversion in a process of its own, which a converter that crashes takes along: it runs `edgespa.exporting.worker`.

It is a new process, not a fork: of torch's, jax's and the runtimes' threads none outlives a fork, and what they had
locked stays locked (seen: a fork that waited forever). It is started before there is anything to do, so that it loads
the converter meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import torch

from edgespa.errors import ExportError
from edgespa.exporting.converter import Form
from edgespa.graph.program import BATCH, Program
from edgespa.system.isolated import own_module

READY = b"ready\n"


class Crash(Exception):
    """The process ended without an answer; the message is the name of the signal, or the exit status."""


class Started:
    """A process that converts programs to one format; its folder goes with it, also if this process is killed.

    Args:
        name: Of the format.
    """

    def __init__(self, name: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="edgespa-"))
        self._out = self._folder / f"model.{name}"
        self._ready = False
        self._process = subprocess.Popen(
            own_module("edgespa.exporting.worker", name, str(self._out)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the export, which then ends this one
        )

    def convert(self, program: Program, form: Form) -> None:
        """Give it the program; it converts while this process goes on.

        Args:
            program: With plain outputs, in float32.
            form: What the file looks like.

        Raises:
            Exception: Whatever torch.export makes of a program that cannot be saved.
        """
        saved = self._folder / "program.pt2"
        _save(program, saved)
        values = dataclasses.asdict(form)
        values["pixels"] = form.pixels.model_dump() if form.pixels is not None else None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"program": str(saved), "form": values}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `result` says how it ended

    def result(self, *, keep: bool = False) -> bytes:
        """The file; waits for it.

        Args:
            keep: It may convert another program then, unless something failed; else it is ended.

        Raises:
            ExportError: With the process's own words, if the program cannot be converted.
            Crash: If it said none.
        """
        assert self._process.stdout is not None
        kept = False
        try:
            self._ready = self._ready or self._process.stdout.readline() == READY
            if not self._ready or not (said := self._process.stdout.readline()):
                status = self._process.wait()
                name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
                raise Crash(name if self._ready else f"its process did not start: {name}")
            if words := json.loads(said):
                raise ExportError(words["message"], words["hint"])
            content = self._out.read_bytes()
            if keep:
                for path in self._folder.iterdir():
                    path.unlink()
            kept = keep
            return content
        finally:
            if not kept:
                self.stop()

    @property
    def is_alive(self) -> bool:
        """Whether it can be given a program."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _save(program: Program, path: Path) -> None:
    free = torch.export.Dim(BATCH)
    shapes = tuple({0: free} if BATCH in spec.shape else None for spec in program.inputs)
    exported = torch.export.export(program.module, program.example_inputs(), dynamic_shapes=shapes)
    content = io.BytesIO()  # to a file on a full disk, torch's writer would end this process
    torch.export.save(exported, content)
    path.write_bytes(content.getbuffer())
