"""Model files in OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.layouts import feed_by_name, to_program_layout
from edgespa.device.runner.processor import BRAIN_X86, HALF_ARM

OPENVINO_NAMES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVinoModel:
    """A model file in OpenVINO, on the CPU.

    It computes in float32 unless another arithmetic is asked for: by itself it takes bfloat16 where the processor has
    it, which is as coarse as int8. With ``told`` it counts what each operator takes.
    """

    def __init__(self, runtime: Any, path: Path, variant: dict[str, Any], threads: int, *, told: bool = False) -> None:
        if variant.get("weights"):
            raise RunnerError("openvino cannot be given weights from outside: use onnxruntime, or ship the bundle")
        asked = variant.get("arithmetic") or "fp32"
        if asked not in OPENVINO_NAMES:
            raise RunnerError(f"openvino has no arithmetic {asked}: one of {', '.join(OPENVINO_NAMES)}")
        core = runtime.Core()
        self.compiled = core.compile_model(
            core.read_model(str(path)),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": getattr(runtime.Type, OPENVINO_NAMES[asked]),
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "PERF_COUNT": told,
            },
        )
        self.request = self.compiled.create_infer_request()
        self.variant, self.inputs, self.outputs = variant, variant["inputs"], variant["outputs"]
        self.results_of = [self._output(spec["name"]) for spec in self.outputs]

    def _output(self, name: str) -> Any:
        for each in self.compiled.outputs:
            if name in each.get_names():
                return each
        raise RunnerError(f"the file has no output {name}")

    @staticmethod
    def others(flags: set[str]) -> list[str]:
        """In which numbers it can compute beside float32, by the processor's flags."""
        return [*(["bf16"] if flags.intersection(BRAIN_X86) else []), *(["fp16"] if HALF_ARM in flags else [])]

    def provider(self) -> str:
        """What computes."""
        return "CPU"

    def arithmetic(self) -> str:
        """In which numbers, as OpenVINO says it."""
        told = str(self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        return next((name for name, own in OPENVINO_NAMES.items() if own == told), told)

    def feed(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The request's inputs for arrays in the program's layout."""
        return feed_by_name(arrays, self.variant)

    def run(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """One inference; outputs as the file gives them."""
        self.request.infer(feed, share_inputs=True)
        return [np.array(self.request.get_tensor(each).data) for each in self.results_of]

    def results(self, raw: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs in the program's layout."""
        return [to_program_layout(array, self.outputs[i]) for i, array in enumerate(raw)]
