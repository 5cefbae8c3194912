"""TensorRT and GPU providers of ONNX Runtime: in which numbers they compute, where engines are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgespa.device.runner.bundle import sha256

TENSORRT, CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"
ENGINES = "EDGESPA_ENGINES"  # a folder; default: edgespa/engines in the user's folder for caches
_NO_TF32 = "NVIDIA_TF32_OVERRIDE"


def provider_arithmetics(provider: str | None) -> list[str]:
    """In which numbers a provider can compute layers in float32, beside those."""
    return ["fp16"] if provider == TENSORRT else []


def numbers_of(variant: dict[str, Any]) -> str:
    """What TensorRT may compute a file in: ``fp32`` alone; ``fp16`` beside it; or ``int8`` beside both.

    Float32 is float32: neither rounded to TF32 nor to half precision, unless ``arithmetic`` asks for that.
    """
    if variant.get("precision") == "int8":
        return "int8"
    exact = variant.get("precision", "fp32") == "fp32" and variant.get("arithmetic") != "fp16"
    return "fp32" if exact else "fp16"


def engine_folder(path: Path) -> Path | None:
    """Where the engines of a model file are kept on this machine: by its content, so that another one has others.

    None where the user has no home: an engine is code, and nobody else may put one there.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.path.expanduser(os.environ.get(ENGINES) or f"{cache}/edgespa/engines")
    return None if folder.startswith("~") else Path(folder) / sha256(path)[:32]


def provider_options(path: Path, variant: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """The provider that a variant asks for and the CPU behind it, with their options."""
    cpu, asked = "CPUExecutionProvider", variant.get("provider")
    options: dict[str, str] = {}
    exact = numbers_of(variant) == "fp32"
    if asked in (TENSORRT, CUDA) and exact:
        os.environ.setdefault(_NO_TF32, "0")  # read by CUDA's libraries; TensorRT has no option in ONNX Runtime
    if asked == CUDA:
        options = {"use_tf32": "0" if exact else "1"}
    if asked == TENSORRT:
        options = {
            "trt_fp16_enable": "0" if exact else "1",
            "trt_int8_enable": "1" if numbers_of(variant) == "int8" else "0",
        }
        folder = engine_folder(path)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            options["trt_engine_cache_enable"] = options["trt_timing_cache_enable"] = "1"
            options["trt_engine_cache_path"] = str(folder)
            options["trt_timing_cache_path"] = str(folder.parent)  # of the processor: for all models
    found = [(asked, options)] if asked and asked != cpu else []
    return [*found, (cpu, {})]


def engines_of(path: Path, variant: dict[str, Any], runtime: str) -> set[tuple[str, int]] | None:
    """Names and times of the engines that are there for a file; None where what runs it builds none.

    Args:
        path: The file.
        variant: Of the manifest.
        runtime: As its module is called.
    """
    if runtime != "trtexec" and variant.get("provider") != TENSORRT:
        return None
    folder = engine_folder(path)
    there = folder.glob("*.engine") if folder is not None and folder.is_dir() else ()
    return {(each.name, each.stat().st_mtime_ns) for each in there}
