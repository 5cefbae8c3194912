"""Model files in LiteRT, which was TensorFlow Lite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.layouts import as_the_file_takes, to_program_layout


class TfliteModel:
    """A model file in LiteRT (TensorFlow Lite); its batch size is fixed."""

    def __init__(self, runtime: Any, path: Path, variant: dict[str, Any], threads: int) -> None:
        self.interpreter = runtime.Interpreter(model_path=str(path), num_threads=threads)
        self.interpreter.allocate_tensors()
        self.variant, self.inputs, self.outputs = variant, variant["inputs"], variant["outputs"]
        self.input_details = self._find("input", self.inputs)
        self.output_details = self._find("output", self.outputs)

    def _find(self, kind: str, specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The runtime's tensors in the manifest's order, by tensor name, signature name, or as the only one."""
        details = getattr(self.interpreter, f"get_{kind}_details")()
        names = [spec["name"] for spec in specs]
        tables = [{detail["name"]: detail for detail in details}]
        for key in self.interpreter.get_signature_list():
            tables.append(getattr(self.interpreter.get_signature_runner(key), f"get_{kind}_details")())
        for table in tables:
            if all(name in table for name in names):
                return [table[name] for name in names]
        if len(details) == len(names) == 1:
            return list(details)
        raise RunnerError(f"the file's {kind}s are {', '.join(sorted(tables[0]))}; the manifest says {names}")

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
        for i, detail in enumerate(self.input_details):
            self.interpreter.set_tensor(detail["index"], feed[i])
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(detail["index"]) for detail in self.output_details]

    def results(self, raw: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs in the program's layout, dequantised where the file's outputs are quantised."""
        arrays = []
        for i, detail in enumerate(self.output_details):
            scale, zero = detail["quantization"]
            array = (raw[i].astype(np.float32) - zero) * np.float32(scale) if scale else raw[i]
            arrays.append(to_program_layout(array, self.outputs[i]))
        return arrays
