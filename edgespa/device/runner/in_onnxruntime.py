"""Model files in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable  # for annotations only: Python 3.8 cannot subscript it
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.engines import TENSORRT, provider_options
from edgespa.device.runner.layouts import feed_by_name, to_program_layout
from edgespa.device.runner.processor import BRAIN_ARM, processor_flags
from edgespa.device.runner.tensors import unpacked
from edgespa.device.runner.weights import materialise


def open_session(
    runtime: Any, model: Any, threads: int, providers: list[Any], more: Callable[[Any], None] | None = None
) -> Any:
    """A file in ONNX Runtime, with sums of int8 products that do not overflow.

    Processors of x86 without VNNI add them up in 16 bits: a file that is right on all others is wrong there. ONNX
    Runtime has slower kernels that do not, and takes them where it is told to; but it fails on weights that several
    operators share, which are left as they are.
    """

    def options(exact: bool) -> Any:
        made = runtime.SessionOptions()
        made.intra_op_num_threads = threads
        made.inter_op_num_threads = 1
        made.log_severity_level = 3
        if exact:
            made.add_session_config_entry("session.x64quantprecision", "1")
        if more is not None:
            more(made)
        return made

    try:
        return runtime.InferenceSession(model, options(True), providers=providers)
    except Exception:  # whatever the runtime raises; what is wrong with the file itself, it raises again
        return runtime.InferenceSession(model, options(False), providers=providers)


class OnnxModel:
    """A model file in ONNX Runtime, on the CPU or what else ``provider`` asks for."""

    def __init__(self, runtime: Any, path: Path, variant: dict[str, Any], threads: int) -> None:
        model: Any = str(path)
        content = materialise(path.parent, variant) if variant.get("weights") else None
        if content is not None:
            model = unpacked(path)

        self.brain = variant.get("arithmetic") == "bf16" and bool(self.others(processor_flags()))

        def set_options(options: Any) -> None:
            if self.brain:
                options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "1")
            if content is not None:
                self.weights = _given(runtime, options, content)

        # The CPU stands behind another provider: it takes the operators that the other has not.
        providers = provider_options(path, variant)
        self.session = open_session(runtime, model, threads, providers, set_options)
        self.half = variant.get("arithmetic") == "fp16" and self.provider() == TENSORRT
        self.variant, self.inputs, self.outputs = variant, variant["inputs"], variant["outputs"]
        self.names = [spec["name"] for spec in self.outputs]

    def provider(self) -> str:
        """What computes: the first provider of the session."""
        return str(self.session.get_providers()[0])

    @staticmethod
    def others(flags: set[str]) -> list[str]:
        """In which numbers it can compute beside float32, by the processor's flags."""
        return ["bf16"] if {BRAIN_ARM, "asimd"} <= flags else []

    def arithmetic(self) -> str:
        """In which numbers layers in float32 are computed: products of matrices, of bf16."""
        return "bf16" if self.brain else "fp16" if self.half else "fp32"

    def feed(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The session's feed for arrays in the program's layout."""
        return feed_by_name(arrays, self.variant)

    def run(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """One inference; outputs as the file gives them."""
        return list(self.session.run(self.names, feed))

    def results(self, raw: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs in the program's layout."""
        return [to_program_layout(array, self.outputs[i]) for i, array in enumerate(raw)]


def _given(runtime: Any, options: Any, weights: dict[str, np.ndarray]) -> list[Any]:
    """Hand weights to a session whose graph has none; what is returned must live as long as the session."""
    if not hasattr(options, "add_external_initializers"):
        raise RunnerError(
            f"onnxruntime {runtime.__version__} cannot be given weights from outside: it takes 1.12 or newer; "
            "ship the bundle instead of the task file"
        )
    values = [runtime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    options.add_external_initializers(list(weights), values)
    return values
