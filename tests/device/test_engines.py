"""TensorRT and CUDA as ONNX Runtime is asked for them. No GPU is at hand: a runtime that notes what it is asked."""

from __future__ import annotations

import argparse
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgespa.device.runner import engines, measure, runtimes
from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.in_onnxruntime import OnnxModel
from edgespa.device.runner.models import open_model

SPEC = {"name": "x", "shape": [1, 2], "dtype": "float32", "layout": "other"}
TENSORRT, CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"


class Noted:
    """Looks like onnxruntime; a session of TensorRT builds an engine where none is."""

    __name__ = "onnxruntime"
    __version__ = "1.31"

    def __init__(self, *there: str) -> None:
        self.there, self.asked, self.built = (*there, "CPUExecutionProvider"), [], 0

    class SessionOptions:
        def add_session_config_entry(self, key: str, value: str) -> None: ...

    def get_available_providers(self) -> list[str]:
        return list(self.there)

    def InferenceSession(self, model: str, options: Any, providers: list[Any]) -> Any:
        self.asked.append(providers)
        wanted = [name for name, _ in providers if name in self.there]
        if wanted[0] == TENSORRT:
            folder = Path(providers[0][1]["trt_engine_cache_path"])
            if not list(folder.glob("*.engine")):
                (folder / "graph_0_fp16.engine").write_bytes(b"built")
                self.built += 1
        return types.SimpleNamespace(
            get_providers=lambda: wanted, run=lambda names, feed: [np.zeros((1, 2), np.float32)]
        )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESPA_ENGINES", str(tmp_path / "engines"))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    (tmp_path / "model.onnx").write_bytes(b"a model")
    return tmp_path


def variant(**more: Any) -> dict[str, Any]:
    return {
        "name": "onnx-fp32", "file": "model.onnx", "format": "onnx", "precision": "fp32", "inputs": [SPEC],
        "outputs": [SPEC], **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "half", "int8"),
    [
        ({}, "0", "0"),
        ({"arithmetic": "fp16"}, "1", "0"),
        ({"precision": "fp16"}, "1", "0"),
        ({"precision": "int8"}, "1", "1"),
    ],
)
def test_tensorrt_computes_in_what_is_asked_for(folder: Path, more: dict[str, str], half: str, int8: str) -> None:
    runtime = Noted(TENSORRT)
    model = open_model(folder, variant(provider=TENSORRT, **more), 1, runtime)
    ((name, options), (behind, none)) = runtime.asked[0]
    assert (name, behind, none) == (TENSORRT, "CPUExecutionProvider", {})
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (half, int8)
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert model.arithmetic() == more.get("arithmetic", "fp32")


def test_engines_are_of_one_file_and_outlive_a_process(folder: Path) -> None:
    runtime = Noted(TENSORRT)
    for _ in range(2):
        open_model(folder, variant(provider=TENSORRT), 1, runtime)
    assert runtime.built == 1
    (folder / "model.onnx").write_bytes(b"another model")
    open_model(folder, variant(provider=TENSORRT), 1, runtime)
    assert runtime.built == 2


def test_without_a_home_no_engine_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPA_ENGINES", "~nobody-of-that-name/engines")
    ((_, options), _) = engines.provider_options(folder / "model.onnx", variant(provider=TENSORRT))
    assert not [name for name in options if "cache" in name]
    assert engines.engines_of(folder / "model.onnx", variant(provider=TENSORRT), "onnxruntime") == set()


def test_float32_is_no_tf32_in_cuda(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Noted(CUDA)
    open_model(folder, variant(provider=CUDA), 1, runtime)
    open_model(folder, variant(provider=CUDA, precision="fp16"), 1, runtime)
    assert [asked[0][1]["use_tf32"] for asked in runtime.asked] == ["0", "1"]
    assert engines.os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    assert not (folder / "engines").exists()


def test_the_cpu_in_place_of_a_gpu_is_refused(folder: Path) -> None:
    with pytest.raises(RunnerError, match="CUDAExecutionProvider is not there: CPUExecutionProvider takes its place"):
        open_model(folder, variant(provider=CUDA), 1, Noted())
    with pytest.raises(RunnerError, match="computed in fp32 here, not in fp16"):
        open_model(folder, variant(provider=CUDA, arithmetic="fp16"), 1, Noted(CUDA))
    assert OnnxModel(Noted(), folder / "model.onnx", variant(), 1).arithmetic() == "fp32"


def test_the_time_to_build_is_told_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Noted(TENSORRT)
    monkeypatch.setattr(measure, "import_runtime", lambda kind, name: (runtime, "onnxruntime 1.31"))
    options = argparse.Namespace(runtime=None, threads=1, warmup=10, runs=20, seconds=None, by_layer=False, cores=None)

    def measured() -> dict[str, Any]:
        return measure.bench(folder, variant(provider=TENSORRT), [SPEC], options, lambda: None)

    first, second = measured(), measured()
    assert first["build_ms"] is not None
    assert second["build_ms"] is None
    assert runtime.built == 1
    assert first["provider"] == TENSORRT


def test_a_pick_of_a_provider_that_is_not_there_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pick = {"variant": "onnx-int8", "runtime": "onnxruntime", "arithmetic": "fp32", "provider": CUDA, "threads": 3}
    manifest = {"variants": [variant(), variant(name="onnx-int8")], "pick": pick}
    for there, name, provider in ((Noted(CUDA), "onnx-int8", CUDA), (Noted(), "onnx-fp32", None)):
        monkeypatch.setattr(runtimes, "import_runtime", lambda kind, name=None, there=there: (there, "onnxruntime 1"))
        chosen = runtimes.choose(manifest, None)
        assert (chosen["name"], chosen.get("provider")) == (name, provider)
        assert chosen.get("threads") == (3 if provider else None)
