"""Model files in LiteRT, which was TensorFlow Lite."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
from collections.abc import Iterator  # for annotations only: Python 3.8 cannot subscript it
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.layouts import as_the_file_takes, to_program_layout
from edgespa.device.runner.processor import HALF_ARM, HALF_X86, processor_flags


class TfliteModel:
    """A model file in LiteRT (TensorFlow Lite); its batch size is fixed."""

    def __init__(self, runtime: Any, path: Path, variant: dict[str, Any], threads: int) -> None:
        self.interpreter = runtime.Interpreter(model_path=str(path), num_threads=threads)
        self.interpreter.allocate_tensors()
        self.variant, self.inputs, self.outputs = variant, variant["inputs"], variant["outputs"]
        self.signature = self._signature(path.name)
        self.called = self.interpreter.get_signature_runner(self.signature) if variant.get("signature") else None
        self.input_details = self._find("input", self.inputs)
        self.output_details = self._find("output", self.outputs)

    def _signature(self, file: str) -> str | None:
        """The one that the manifest names, as of a file with one for each size; else the only one, if there is one."""
        there, named = list(self.interpreter.get_signature_list()), self.variant.get("signature")
        if named is not None and named not in there:
            raise RunnerError(f"{file} has no signature {named}: {', '.join(there) or 'it has none'}")
        if named is None and len(there) > 1:  # all have the same names, and tensors are counted in each graph
            raise RunnerError(f"{file} has the signatures {', '.join(there)}; the manifest names none of them")
        return named if named is not None else next(iter(there), None)

    def _find(self, kind: str, specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The runtime's tensors in the manifest's order, by tensor name, signature name, or as the only one."""
        details = getattr(self.interpreter, f"get_{kind}_details")()
        names = [spec["name"] for spec in specs]
        tables = [] if self.called else [{detail["name"]: detail for detail in details}]
        if self.signature is not None:
            runner = self.called or self.interpreter.get_signature_runner(self.signature)
            tables.append(getattr(runner, f"get_{kind}_details")())
        for table in tables:
            if all(name in table for name in names):
                return [table[name] for name in names]
        if len(details) == len(names) == 1 and not self.called:
            return list(details)
        raise RunnerError(f"the file's {kind}s are {', '.join(sorted(tables[0]))}; the manifest says {names}")

    @staticmethod
    def others(flags: set[str]) -> list[str]:
        """In which numbers it can compute beside float32, by the processor's flags."""
        return []

    def provider(self) -> str:
        """What computes: XNNPACK where LiteRT handed the graph to it."""
        operators: list[dict[str, Any]] = getattr(self.interpreter, "_get_ops_details", list)()
        return "CPU (XNNPACK)" if any(each.get("op_name") == "DELEGATE" for each in operators) else "CPU"

    def arithmetic(self) -> str:
        """In which numbers layers in float32 are computed."""
        return "fp32"

    def feed(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Tensors for arrays in the program's layout, quantised where the file's inputs are."""
        feed = []
        for detail, array in zip(self.input_details, as_the_file_takes(arrays, self.variant)):
            scale, zero = detail["quantization"]
            if scale and array.dtype.kind == "f":
                limits = np.iinfo(detail["dtype"])
                array = np.clip(np.round(array / np.float32(scale)) + zero, limits.min, limits.max)
            feed.append(array.astype(detail["dtype"], copy=False))
        return feed

    def run(self, feed: list[np.ndarray]) -> list[np.ndarray]:
        """One inference; outputs as the file gives them."""
        if self.called is not None:
            return self._call(self.called, feed)
        for i, detail in enumerate(self.input_details):
            self.interpreter.set_tensor(detail["index"], feed[i])
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(detail["index"]) for detail in self.output_details]

    def _call(self, runner: Any, feed: list[np.ndarray]) -> list[np.ndarray]:
        """One inference by a signature, which would take another size, too, and answer wrongly."""
        for spec, detail, array in zip(self.inputs, self.input_details, feed):
            wanted = tuple(int(size) for size in detail["shape"])
            if array.shape != wanted:
                raise RunnerError(f"{spec['name']} of {self.signature} is {list(wanted)}, not {list(array.shape)}")
        given = runner(**{spec["name"]: array for spec, array in zip(self.inputs, feed)})
        return [given[spec["name"]] for spec in self.outputs]

    def results(self, raw: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs in the program's layout, dequantised where the file's outputs are quantised."""
        arrays = []
        for i, detail in enumerate(self.output_details):
            scale, zero = detail["quantization"]
            array = (raw[i].astype(np.float32) - zero) * np.float32(scale) if scale else raw[i]
            arrays.append(to_program_layout(array, self.outputs[i]))
        return arrays


XNNPACK_IN_HALF = 0x7  # int8 of both kinds, as the interpreter has it, and half precision whatever the file says


class LiteRtModel(TfliteModel):
    """The same in ai-edge-litert, which computes in half precision too, by its compiled models."""

    def __init__(self, runtime: Any, path: Path, variant: dict[str, Any], threads: int) -> None:
        super().__init__(runtime, path, variant, threads)
        asked = variant.get("arithmetic") or "fp32"
        if asked not in ("fp32", "fp16"):
            raise RunnerError(f"ai_edge_litert has no arithmetic {asked}: fp32 or fp16")
        if asked == "fp16" and platform.machine() == "aarch64" and HALF_ARM not in processor_flags():
            raise RunnerError("this processor has no half precision")  # x86 without it emulates it
        self.half = self._compiled(path, threads) if asked == "fp16" else None

    def _compiled(self, path: Path, threads: int) -> Any:
        """The file with half precision forced, and its buffers by the names of its signature."""
        parts = [
            importlib.import_module(f"ai_edge_litert.{name}")
            for name in ("compiled_model", "options", "cpu_options", "hardware_accelerator")
        ]
        compiled, options, cpu, accelerator = parts
        signature = self.signature
        if signature is None:
            raise RunnerError(f"{path.name} has no signature, so it is not computed in fp16")
        with _silent():  # it says which accelerators there are not
            model = compiled.CompiledModel.from_file(
                str(path),
                options=options.Options(
                    hardware_accelerators=accelerator.HardwareAccelerator.CPU,
                    cpu_options=cpu.CpuOptions(num_threads=threads, xnnpack_flags=XNNPACK_IN_HALF),
                ),
            )
        names = [[spec["name"] for spec in specs] for specs in (self.inputs, self.outputs)]
        inputs = [model.create_input_buffer_by_name(signature, name) for name in names[0]]
        outputs = [model.create_output_buffer_by_name(signature, name) for name in names[1]]
        return model, signature, names, inputs, outputs

    @staticmethod
    def others(flags: set[str]) -> list[str]:
        """In which numbers it can compute beside float32, by the processor's flags."""
        return ["fp16"] if flags.intersection((HALF_ARM, HALF_X86)) else []

    def arithmetic(self) -> str:
        """In which numbers layers in float32 are computed."""
        return "fp32" if self.half is None else "fp16"

    def run(self, feed: list[np.ndarray]) -> list[np.ndarray]:
        """One inference; outputs as the file gives them."""
        if self.half is None:
            return super().run(feed)
        model, signature, names, inputs, outputs = self.half
        for buffer, array in zip(inputs, feed):
            buffer.write(np.ascontiguousarray(array))
        model.run_by_name(signature, dict(zip(names[0], inputs)), dict(zip(names[1], outputs)))
        found = []
        for buffer, detail in zip(outputs, self.output_details):
            shape = [int(size) for size in detail["shape"]]
            found.append(buffer.read(int(np.prod(shape)), detail["dtype"]).reshape(shape))
        return found


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What libraries write to stderr goes nowhere."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
