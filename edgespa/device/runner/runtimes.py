"""The runtimes that there are, which of them are installed here, and so which variants can run."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.cores import can_bind, cores_of
from edgespa.device.runner.in_executorch import ExecuTorchModel
from edgespa.device.runner.in_litert import LiteRtModel, TfliteModel
from edgespa.device.runner.in_ncnn import NcnnModel
from edgespa.device.runner.in_onnxruntime import OnnxModel
from edgespa.device.runner.in_openvino import OpenVinoModel
from edgespa.device.runner.in_trtexec import TrtexecModel
from edgespa.device.runner.processor import processor_flags
from edgespa.device.runner.trtexec import GET_TRTEXEC, Trtexec


class Runtime(NamedTuple):
    """What runs files: by the name of its package, as that is imported; or a program of the machine."""

    name: str
    module: str
    kind: str
    model: Any
    usual: bool = True  # what files are proved in
    first: str = ""  # imported before: its libraries are what this one is linked with
    program: Any = None  # in place of a module: started for each run, so it measures and proves, and serves nobody


RUNTIMES = (
    Runtime("onnxruntime", "onnxruntime", "onnx", OnnxModel),
    Runtime("openvino", "openvino", "onnx", OpenVinoModel, usual=False),
    Runtime("trtexec", "trtexec", "onnx", TrtexecModel, usual=False, program=Trtexec),
    Runtime("ncnn", "ncnn", "ncnn", NcnnModel),
    Runtime("executorch", "executorch.extension.pybindings._C", "executorch", ExecuTorchModel, first="torch"),
    Runtime("ai_edge_litert", "ai_edge_litert.interpreter", "tflite", LiteRtModel),
    Runtime("tflite_runtime", "tflite_runtime.interpreter", "tflite", TfliteModel),
    Runtime("tensorflow", "tensorflow.lite.python.interpreter", "tflite", TfliteModel),
)


def runtimes_of(kind: str, name: str | None = None) -> list[Runtime]:
    """Those that files of a format ("onnx", say) are proved in, the first that is there is taken; or the named.

    No other takes their place by itself: what computes otherwise, does so because somebody asked for it.
    """
    found = [each for each in RUNTIMES if each.kind == kind and (each.usual if name is None else each.name == name)]
    if not found and name is None:
        raise RunnerError(f"{kind} files are to go on from in PyTorch: nothing runs them on devices")
    if not found:
        names = ", ".join(each.name for each in RUNTIMES if each.kind == kind)
        raise RunnerError(f"{name} does not run {kind} files: {names}")
    return found


def serves(name: str) -> bool:
    """Whether programs can have a runtime answer them: one that is started for each run is not picked for that."""
    return all(each.program is None for each in RUNTIMES if each.name == name)


def how_to_get(name: str) -> str:
    """What puts a runtime on a machine."""
    return f"pip install {name.replace('_', '-')}" if serves(name) else GET_TRTEXEC


def model_of(runtime: Any, kind: str) -> Any:
    """The class of model files in an imported runtime."""
    module = getattr(runtime, "__name__", None)
    return next((each.model for each in RUNTIMES if each.module == module), runtimes_of(kind)[0].model)


def import_runtime(kind: str, name: str | None = None) -> tuple[Any, str]:
    """The runtime of a format ("onnx", say), or the named one, and its name with version.

    Imported for real: a package that is there may still not load, for example with another numpy.
    """
    reasons = []
    for each in runtimes_of(kind, name):
        try:
            if each.program is not None:
                program = each.program()
                return program, f"{each.name} {program.__version__}"
            if each.first:
                importlib.import_module(each.first)
            return importlib.import_module(each.module), f"{each.name} {_version(each.name)}"
        except Exception as error:
            reasons.append(f"{each.name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    raise RunnerError(f"no runtime for {kind} files ({'; '.join(reasons)})")


def _version(package: str) -> str:
    version = getattr(importlib.import_module(package), "__version__", None)
    if version is None:
        from importlib import metadata

        try:
            version = metadata.version(package.replace("_", "-"))
        except metadata.PackageNotFoundError:
            version = "of unknown version"
    return str(version).partition("-")[0]  # OpenVINO's goes on with its build


def list_variants(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Every variant: its name, file, whether its runtime can be imported here, and which others are here for it.

    And in which numbers beside float32 each of them can compute here.
    """
    found: dict[str, tuple[str | None, str | None]] = {}
    others: dict[str, list[str]] = {}
    rows, flags = [], processor_flags()
    for variant in manifest["variants"]:
        kind = variant["format"]
        if kind not in found:
            try:
                found[kind] = (import_runtime(kind)[1], None)
            except RunnerError as error:
                found[kind] = (None, str(error))
            others[kind] = [each.name for each in RUNTIMES if each.kind == kind and not each.usual and is_there(each)]
        runtime, reason = found[kind]
        row = {key: variant[key] for key in ("name", "file", "format", "precision", "size_bytes")}
        names = [*([runtime.partition(" ")[0]] if runtime else []), *others[kind]]
        also = {each.name: each.model.others(flags) for each in RUNTIMES if each.name in names}
        also = {name: found for name, found in also.items() if found}
        rows.append({**row, "runtime": runtime, "reason": reason, "others": others[kind], "arithmetics": also})
    return rows


def is_there(runtime: Runtime) -> bool:
    """Whether it is installed; nothing is imported, and nothing is run."""
    from importlib import util

    if runtime.program is not None:
        return runtime.program.place() is not None
    try:
        # Of one that is a folder without a file of its own: else any other of that name would be taken for it.
        return util.find_spec(runtime.module if runtime.first else runtime.name) is not None
    except (ImportError, ValueError):
        return False


def choose(manifest: dict[str, Any], name: str | None, runtime: str | None = None) -> dict[str, Any]:
    """The variant of that name; else what the manifest picks; else the first whose runtime, or the named one, is there.

    What is picked has the runtime that it is picked for, under ``picked``, and the ``threads`` and ``cores`` of that
    measurement.
    """
    pick: dict[str, Any] = (manifest.get("pick") if name is None and runtime is None else None) or {}
    for variant in manifest["variants"] if pick else ():
        if variant["name"] == pick["variant"]:
            try:
                module, _ = import_runtime(variant["format"], pick["runtime"])
            except RunnerError:  # another machine than that which it was picked for
                break
            provider = pick.get("provider")
            if provider and provider not in module.get_available_providers():
                break
            how = {"picked": pick["runtime"], "arithmetic": pick["arithmetic"], "provider": provider}
            cores = pick.get("cores")
            if cores and not can_bind(cores_of(cores)):  # another machine, or less of it
                cores = None
            return {**variant, **how, "threads": pick.get("threads"), "cores": cores}
    absent = set()  # a runtime takes its time to import: no more of them than it needs
    for variant in manifest["variants"] if name is None else ():
        if variant["format"] not in absent:
            try:
                import_runtime(variant["format"], runtime)
                return dict(variant)
            except RunnerError:
                absent.add(variant["format"])
    if name is None:
        if runtime is not None:
            raise RunnerError(f"{runtime} runs no variant here: {how_to_get(runtime)}")
        raise RunnerError("no runtime is installed: pip install onnxruntime, or pip install ai-edge-litert")
    for variant in manifest["variants"]:
        if variant["name"] == name:
            return dict(variant)
    names = ", ".join(variant["name"] for variant in manifest["variants"])
    raise RunnerError(f"there is no variant '{name}'; there are: {names}")
