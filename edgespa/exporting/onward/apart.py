"""A file for PyTorch, opened and run in a process of its own that has torch and not edgespa: for its proof."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgespa.bundle import TensorSpec
from edgespa.errors import ExportError, ParityError
from edgespa.exporting.parity import Array, File

_SCRIPT = Path(__file__).with_name("torch_run.py")
_REPORT = "this is a fault of edgespa: please report the model; --format leaves this format out"


class TorchFile(File):
    """A ``.pt2`` program or a Python file, as `edgespa.exporting.parity.File` is one of a runtime.

    Its process ends with `close`, or with this one.

    Args:
        path: The file.
        name: Of its variant.
        kind: ``pt2`` or ``python``.
        inputs: As the manifest has them.
        outputs: As the manifest has them.
        threads: For torch.
        libraries: What has to be imported before, for their operators.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        kind: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        threads: int,
        libraries: Sequence[str] = (),
    ) -> None:
        self.name, self.inputs, self.outputs = name, inputs, outputs
        specs = {"inputs": [each.model_dump() for each in inputs], "outputs": [each.model_dump() for each in outputs]}
        self._variant = {"name": name, "file": path.name, "format": kind, "preprocess": None, **specs}
        self.runtime = f"torch {torch.__version__.partition('+')[0]}"
        # By an absolute path: of -I the folder of the script is not among those that are imported from.
        command = [sys.executable, "-I", "-B", str(_SCRIPT), kind, str(path.absolute()), str(threads), *libraries]
        self._model = _Process(command, name, specs)

    @property
    def arithmetic(self) -> str:
        """Always that of the program."""
        return "fp32"

    def close(self) -> None:
        """End its process."""
        self._model.close()


class _Process:
    """What `edgespa.device.runner.infer` takes for a model."""

    def __init__(self, command: list[str], name: str, specs: dict[str, Any]) -> None:
        self.inputs, self.outputs, self._name = specs["inputs"], specs["outputs"], name
        self._folder = tempfile.TemporaryDirectory(prefix="edgespa-")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the export, which then ends this one
        )
        self._answer()

    def feed(self, arrays: list[Array]) -> list[Array]:
        """They are taken as they are."""
        return arrays

    def run(self, arrays: list[Array]) -> list[Array]:
        """Outputs of one run."""
        path = Path(self._folder.name) / "run.npz"
        np.savez(path, *arrays)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{path}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `_answer` says how it ended
        if said := self._answer():
            raise ExportError(f"{self._name}: the exported file does not run: {said}", _REPORT)
        with np.load(f"{path}.out.npz") as found:
            return [found[f"arr_{index}"] for index in range(len(found.files))]

    def results(self, arrays: list[Array]) -> list[Array]:
        """They are in the program's layout."""
        return arrays

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._folder.cleanup()
            how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            raise ParityError(f"{self._name}: torch crashes on the file ({how})", _REPORT)
        return line.strip().removeprefix("ready")
