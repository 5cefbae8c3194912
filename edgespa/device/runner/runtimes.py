"""Which runtimes are installed here, and so which variants can run."""

from __future__ import annotations

import importlib
from typing import Any

from edgespa.device.runner.bundle import RunnerError

RUNTIMES = {
    "onnx": (("onnxruntime", "onnxruntime"),),
    "tflite": (
        ("ai_edge_litert", "ai_edge_litert.interpreter"),
        ("tflite_runtime", "tflite_runtime.interpreter"),
        ("tensorflow", "tensorflow.lite.python.interpreter"),
    ),
}


def import_runtime(kind: str) -> tuple[Any, str]:
    """The runtime of a format ("onnx" or "tflite") and its name with version.

    Imported for real: a package that is there may still not load, for example with another numpy.
    """
    reasons = []
    for package, module in RUNTIMES[kind]:
        try:
            runtime = importlib.import_module(module)
        except Exception as error:
            reasons.append(f"{package}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            continue
        version = getattr(importlib.import_module(package), "__version__", None)
        if version is None:
            from importlib import metadata

            try:
                version = metadata.version(package.replace("_", "-"))
            except metadata.PackageNotFoundError:
                version = "of unknown version"
        return runtime, f"{package} {version}"
    raise RunnerError(f"no runtime for {kind} files ({'; '.join(reasons)})")


def list_variants(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Every variant: its name, file and whether its runtime can be imported here."""
    found: dict[str, tuple[str | None, str | None]] = {}
    rows = []
    for variant in manifest["variants"]:
        kind = variant["format"]
        if kind not in found:
            try:
                found[kind] = (import_runtime(kind)[1], None)
            except RunnerError as error:
                found[kind] = (None, str(error))
        runtime, reason = found[kind]
        row = {key: variant[key] for key in ("name", "file", "format", "precision", "size_bytes")}
        rows.append({**row, "runtime": runtime, "reason": reason})
    return rows


def choose(manifest: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The variant of that name, or the first whose runtime is installed."""
    absent = set()  # a runtime takes its time to import: no more of them than it needs
    for variant in manifest["variants"] if name is None else ():
        if variant["format"] not in absent:
            try:
                import_runtime(variant["format"])
                return dict(variant)
            except RunnerError:
                absent.add(variant["format"])
    if name is None:
        raise RunnerError("no runtime is installed: pip install onnxruntime, or pip install ai-edge-litert")
    for variant in manifest["variants"]:
        if variant["name"] == name:
            return dict(variant)
    names = ", ".join(variant["name"] for variant in manifest["variants"])
    raise RunnerError(f"there is no variant '{name}'; there are: {names}")
