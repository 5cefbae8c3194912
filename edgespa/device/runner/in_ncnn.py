"""Model files in ncnn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.layouts import feed_by_name, to_program_layout
from edgespa.device.runner.processor import HALF_ARM


class NcnnModel:
    """A model file in ncnn, on the CPU, for one sample at a time; its weights lie beside it.

    It computes in float32 unless half precision is asked for: by itself it takes that where the processor has it.
    """

    def __init__(self, runtime: Any, path: Path, variant: dict[str, Any], threads: int) -> None:
        asked = variant.get("arithmetic") or "fp32"
        if asked not in ("fp32", "fp16"):
            raise RunnerError(f"ncnn has no arithmetic {asked}: fp32 or fp16")
        weights = path.with_suffix(".bin")
        if list(variant.get("parts") or ()) != [Path(variant["file"]).with_suffix(".bin").as_posix()]:
            raise RunnerError(
                f"{path.name} needs {weights.name}, and the manifest does not say that it is a part of it"
            )
        self.half = asked == "fp16" and bool(runtime.cpu_support_arm_asimdhp())
        self.runtime, self.net = runtime, runtime.Net()
        options = self.net.opt
        options.num_threads = threads
        options.use_vulkan_compute = options.use_bf16_storage = False
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = self.half
        if self.net.load_param(str(path)) or self.net.load_model(str(weights)):
            raise ValueError("ncnn does not know what is in it")
        self.variant, self.inputs, self.outputs = variant, variant["inputs"], variant["outputs"]
        for specs, there in ((self.inputs, self.net.input_names()), (self.outputs, self.net.output_names())):
            absent = [spec["name"] for spec in specs if spec["name"] not in there]
            if absent:
                raise RunnerError(f"{path.name} has no {absent[0]}")

    @staticmethod
    def others(flags: set[str]) -> list[str]:
        """In which numbers it can compute beside float32, by the processor's flags."""
        return ["fp16"] if HALF_ARM in flags else []

    def provider(self) -> str:
        """What computes."""
        return "CPU"

    def arithmetic(self) -> str:
        """In which numbers layers in float32 are computed."""
        return "fp16" if self.half else "fp32"

    def feed(self, arrays: list[np.ndarray]) -> dict[str, Any]:
        """Arrays of ncnn for arrays in the program's layout: without the batch, which is one."""
        named = feed_by_name(arrays, self.variant)
        return {name: self.runtime.Mat(np.ascontiguousarray(array[0])).clone() for name, array in named.items()}

    def run(self, feed: dict[str, Any]) -> list[Any]:
        """One inference; outputs as the file gives them."""
        extractor = self.net.create_extractor()
        for name, array in feed.items():
            extractor.input(name, array)
        found = []
        for spec in self.outputs:
            status, array = extractor.extract(spec["name"])
            if status:
                raise RunnerError(f"ncnn does not compute {spec['name']}: status {status}")
            found.append(np.array(array))
        return found

    def results(self, raw: list[Any]) -> list[np.ndarray]:
        """Outputs in the program's layout."""
        return [to_program_layout(array.reshape(spec["shape"]), spec) for array, spec in zip(raw, self.outputs)]
