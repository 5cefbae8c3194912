"""Tiny real bundles: one linear layer on a 3 x 8 x 8 image, as ONNX (dynamic batch, NCHW) and TFLite (batch 1, NHWC).

A flatten in the program's layout comes first, so a file that is fed in the wrong layout gives wrong outputs.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgespa.bundle import Base, BundleWriter, Compaction, Manifest, Metric, Parity, Quality, TensorSpec, Variant
from edgespa.config import Preprocess
from edgespa.device import runner_source


# Test folders are no packages: a helper beside a conftest is loaded by its path.
def _beside(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"edgespa_test_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


sshd_module, wheels_module = _beside("sshd"), _beside("wheels")

CLASSES = ("round", "square", "star")
_RANDOM = np.random.default_rng(7)
WEIGHT = _RANDOM.standard_normal((3, 192)).astype(np.float32)
BIAS = _RANDOM.standard_normal(3).astype(np.float32)
BOUND: dict[Metric, float] = {"relative_error": 1e-4, "top1_agreement": 1.0}
BundleMaker = Callable[..., Path]


def linear_program(images: np.ndarray) -> np.ndarray:
    """What every file must compute: [N, 3, 8, 8] -> [N, 3]."""
    return (images.reshape(len(images), -1).astype(np.float64) @ WEIGHT.T + BIAS).astype(np.float32)


def onnx_bytes(weight: np.ndarray = WEIGHT) -> bytes:
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"], transB=1),
        ],
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(BIAS, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def tflite_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import torch

    path = tmp_path_factory.mktemp("tflite") / "linear.tflite"
    linear = torch.nn.Linear(192, 3)
    linear.weight.data, linear.bias.data = torch.from_numpy(WEIGHT.copy()), torch.from_numpy(BIAS.copy())
    module = torch.nn.Sequential(torch.nn.Flatten(), linear).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        import litert_torch

        litert_torch.convert(litert_torch.to_channel_last_io(module, args=[0]), (torch.zeros(1, 8, 8, 3),)).export(
            str(path)
        )
    return path.read_bytes()


def _variant(kind: str, size_bytes: int, bound: dict[Metric, float], **changes: Any) -> Variant:
    onnx_file = kind == "onnx"
    values: dict[str, Any] = {
        "name": f"{kind}-fp32",
        "file": f"model.{kind}",
        "format": kind,
        "precision": "fp32",
        "opset": 20 if onnx_file else None,
        "inputs": (
            TensorSpec(name="image", shape=("batch", 3, 8, 8), dtype="float32", layout="NCHW")
            if onnx_file
            else TensorSpec(name="args_0", shape=(1, 8, 8, 3), dtype="float32", layout="NHWC"),
        ),
        "outputs": (
            TensorSpec(
                name="logits" if onnx_file else "output_0", shape=("batch" if onnx_file else 1, 3), dtype="float32"
            ),
        ),
        "runtime": "onnxruntime 1.31.1" if onnx_file else "ai_edge_litert 2.3.0",
        "size_bytes": size_bytes,
        "parity": Parity(
            inputs="11 seeded",
            count=11,
            max_abs_error=0,
            relative_error=0,
            cosine=1,
            top1_agreement=1,
            component_error=0,
            correlation=1,
            tolerance_used=0,
            worst="output_0[:, 0]",
            components=3,
            varying=3,
            bound=bound,
        ),
        "accuracy": Quality(value=0.75, count=4, data="toy:test"),
    }
    return Variant.model_validate({**values, **changes})


def make_manifest(*variants: Variant, **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "task": "shapes",
        "created": "2026-11-21T02:30:00+00:00",
        "base": Base(spec="models.py:linear", digest="sha256:" + "0" * 64),
        "preprocessing": Preprocess(height=8, width=8, channels=3, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0)),
        "inputs": (TensorSpec(name="image", shape=("batch", 3, 8, 8), dtype="float32", layout="NCHW"),),
        "outputs": (TensorSpec(name="logits", shape=("batch", 3), dtype="float32"),),
        "variants": variants,
        "compaction": Compaction(parameters=579, macs=576, base_parameters=1158, base_macs=2304),
        "provenance": {"seed": 7, "command": ["export", "x"]},
    }
    return Manifest.model_validate({**values, **changes})


def write_bundle(
    target: Path,
    *,
    onnx: bytes | None = None,
    tflite: bytes | None = None,
    runner: str | None = None,
    selfcheck: bool = True,
    bound: dict[Metric, float] | None = None,
    extra: Mapping[str, bytes] = MappingProxyType({}),
    classes: Sequence[str] = CLASSES,
    max_latency_ms: float | None = None,
) -> Path:
    """Write a bundle; the files may be garbage, the digests are always right."""
    images = np.random.default_rng(3).standard_normal((11, 3, 8, 8)).astype(np.float32)
    with BundleWriter(target) as writer:
        variants = []
        for kind, content in (("onnx", onnx), ("tflite", tflite)):
            if content is not None:
                (writer.path / f"model.{kind}").write_bytes(content)
                variants.append(_variant(kind, len(content), BOUND if bound is None else bound))
        if runner is None:
            (writer.path / "run.py").write_bytes(runner_source())
        else:
            (writer.path / "run.py").write_text(runner)
        for name, content in extra.items():
            (writer.path / name).write_bytes(content)
        if selfcheck:
            np.savez(writer.path / "selfcheck.npz", input_0=images, output_0=linear_program(images))
        (writer.path / "labels.txt").write_text("\n".join(classes) + "\n")
        writer.commit(make_manifest(*variants, max_latency_ms=max_latency_ms))
    return target


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A good bundle with one ONNX file."""
    return write_bundle(tmp_path / "good", onnx=onnx_bytes())


@pytest.fixture
def full_bundle(tmp_path: Path, tflite_bytes: bytes) -> Path:
    """A good bundle with an ONNX and a TFLite file."""
    return write_bundle(tmp_path / "full", onnx=onnx_bytes(), tflite=tflite_bytes)


@pytest.fixture
def bad_bundle(tmp_path: Path) -> Path:
    """A bundle whose digests are right and whose ONNX file computes something else."""
    weight = WEIGHT.copy()
    weight[1, 17] += 0.5
    return write_bundle(tmp_path / "bad", onnx=onnx_bytes(weight))


@pytest.fixture
def make_bundle() -> BundleMaker:
    return write_bundle


@pytest.fixture
def run_program() -> Callable[[np.ndarray], np.ndarray]:
    return linear_program


@pytest.fixture
def no_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes started from here on find an onnxruntime that does not import."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "onnxruntime.py").write_text('raise ImportError("built for another numpy")\n')
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep))


@pytest.fixture(scope="session")
def sshd() -> Iterator[Any]:
    """A real sshd on loopback, see `sshd.py`; not to be hurt."""
    with sshd_module.running_sshd() as server:
        yield server


@pytest.fixture
def start_sshd() -> Any:
    """`running_sshd`, for a server with settings of its own."""
    return sshd_module.running_sshd


@pytest.fixture
def own_sshd() -> Iterator[Any]:
    """One for a single test, which may cut its connections or stop it."""
    with sshd_module.running_sshd() as server:
        yield server
