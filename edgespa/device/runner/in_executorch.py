"""Model files in ExecuTorch."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator  # for annotations only: Python 3.8 cannot subscript them
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.layouts import as_the_file_takes, to_program_layout

_POOLS = [0]  # how often the threads of this process were made anew


class ExecuTorchModel:
    """A model file in ExecuTorch, on the CPU, for a fixed batch; in which numbers it computes, the file says.

    Its threads are those of the process. What was loaded with others holds threads that are gone: it is loaded again.
    """

    module: Any

    def __init__(self, runtime: Any, path: Path, variant: dict[str, Any], threads: int) -> None:
        asked = variant.get("arithmetic") or "fp32"
        if asked != "fp32":
            raise RunnerError(f"executorch has no arithmetic {asked}: layers in float32 are computed in fp32")
        self.runtime, self.path, self.threads = runtime, path, threads
        self.variant, self.inputs, self.outputs = variant, variant["inputs"], variant["outputs"]
        self._load()
        about = self.module.method_meta("forward")
        self.order = [_number(path, spec, "in", about.num_inputs()) for spec in self.inputs]
        self.gives = [_number(path, spec, "out", about.num_outputs()) for spec in self.outputs]
        if sorted(self.order) != list(range(about.num_inputs())):
            raise RunnerError(f"{path.name} takes {about.num_inputs()} inputs, and the manifest names others")

    def _load(self) -> None:
        with _told() as words:
            if self.runtime._threadpool_get_thread_count() != self.threads:
                self.module = None
                self.runtime._unsafe_reset_threadpool(self.threads)
                _POOLS[0] += 1
            self.pool = _POOLS[0]
            try:
                checked = self.runtime.Verification.InternalConsistency
                self.module = self.runtime._load_for_executorch(str(self.path), program_verification=checked)
                if list(self.module.method_names()) != ["forward"]:
                    raise ValueError("it has no forward, or more than that")
            except Exception as error:
                raise ValueError(words() or str(error)) from error

    @staticmethod
    def others(flags: set[str]) -> list[str]:
        """In which numbers it can compute beside float32: none, whatever the processor."""
        return []

    def provider(self) -> str:
        """What computes."""
        return "CPU"

    def arithmetic(self) -> str:
        """In which numbers layers in float32 are computed."""
        return "fp32"

    def feed(self, arrays: list[np.ndarray]) -> list[Any]:
        """Tensors for arrays in the program's layout, in the order of the file."""
        from importlib import import_module

        torch, found = import_module("torch"), {}
        for number, spec, array in zip(self.order, self.inputs, as_the_file_takes(arrays, self.variant)):
            # A copy: one of another's memory may be read-only, or have steps of its own where there is one element.
            found[number] = torch.from_numpy(np.array(array, dtype=spec["dtype"], order="C"))
        return [found[number] for number in range(len(found))]

    def run(self, feed: list[Any]) -> list[Any]:
        """One inference; outputs as the file gives them."""
        if self.pool != _POOLS[0] or self.runtime._threadpool_get_thread_count() != self.threads:
            self._load()
        found = self.module.forward(feed)
        return [found[number].numpy() for number in self.gives]

    def results(self, raw: list[Any]) -> list[np.ndarray]:
        """Outputs in the program's layout."""
        return [to_program_layout(array, spec) for array, spec in zip(raw, self.outputs)]


def _number(path: Path, spec: dict[str, Any], side: str, count: int) -> int:
    """Of an input or an output: the file has no names for them."""
    match = re.fullmatch(side + "([0-9]{1,4})", spec["name"])
    if match is None or int(match.group(1)) >= count:
        raise RunnerError(f"{path.name} has no {spec['name']}")
    return int(match.group(1))


@contextlib.contextmanager
def _told() -> Iterator[Any]:
    """What is loaded in the block says what it likes to standard error; of that the last line is to be had."""
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), 2)

            def words() -> str:
                said.seek(0)
                lines = said.read().decode("utf-8", "replace").strip().splitlines()
                return re.sub(r"^\[[^\]]*\] ", "", lines[-1])[:300] if lines else ""

            try:
                yield words
            finally:
                os.dup2(kept, 2)
    finally:
        os.close(kept)
