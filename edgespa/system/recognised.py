"""What lies at a path that is not what was asked for, by a look at its name and first bytes; and what takes it."""

from __future__ import annotations

import json
import shlex
import zipfile
from pathlib import Path

from edgespa.system.files import expanded, is_there

_MANIFEST = "manifest.json"
_LAYOUT = ("oci-layout", "index.json")
_MOST = 4 << 20
_EXPORTED = (".onnx", ".tflite", ".pte")
_WEIGHTS = (".safetensors", ".pt", ".pth", ".pkl")
_SCRIPTS = (".pt", ".pth", ".ts", ".torchscript", ".jit")
_SEEN = 200


def hint_of_bundle(path: Path) -> str | None:
    """What to give in place of a path that is no bundle.

    Args:
        path: As typed; it need not be there, and may be a model spec.
    """
    spoken = shlex.quote(str(path))
    if (whole := _bundle_around(path)) is not None:
        return f"it is a part of a bundle: give {shlex.quote(str(whole))}"
    if (layout := _layout_around(path)) is not None:
        return _hint_of_layout(layout)
    if _is_file(path) and (path.suffix == ".spa" or _is_tensors(path)):
        return f"it is a task file or other tensors; a bundle of a task: edgespa export {spoken} --output DIR"
    if _is_file(path) and path.suffix in _EXPORTED:
        return "it is one model file without its manifest: give the folder that `edgespa export` wrote"
    head = path.name.partition(":")[0]
    if head.endswith((".py", ".pt2")):
        spec = spoken if ":" in path.name or head.endswith(".pt2") else f"{spoken}:NAME"
        return f"it is a model; a bundle of it: edgespa export {spec} --output DIR"
    inside = [each.name for each in _entries(path) if is_bundle(each)]
    if inside:
        return f"bundles in there: {', '.join(sorted(inside)[:5])}"
    return None


def hint_of_model(spec: str) -> str | None:
    """What to give in place of a spec that is no model.

    Args:
        spec: As typed; it need not name a path.
    """
    path = expanded(spec)
    spoken = shlex.quote(spec)
    whole = path if is_bundle(path) else _bundle_around(path)
    if whole is not None:
        whole_spoken = shlex.quote(str(whole))
        return (
            f"it is a bundle, which is measured and shipped (edgespa verify {whole_spoken}); "
            "here give the MODEL or TASK that it was made of"
        )
    if (layout := _layout_around(path)) is not None:
        return _hint_of_layout(layout)
    if _is_file(path) and path.suffix in (".tflite", ".pte"):
        return "TFLite and ExecuTorch files are not read: give the PyTorch model or the ONNX file that it was made of"
    if _is_file(path) and path.suffix in _SCRIPTS and is_torchscript(path):
        return (
            "it is a TorchScript program (torch.jit.save), whose code is not run here: give the module that it was "
            f"made of, with its weights: MODEL --weights {spoken}; or, if you trust its maker, write it as ONNX and "
            f"give that: torch.onnx.export(torch.jit.load({spec!r}), (example,), 'net.onnx', dynamo=False)"
        )
    if _is_file(path) and path.suffix in _WEIGHTS:
        return f"weights need the model that they belong to: MODEL --weights {spoken}"
    if _is_file(path) and path.suffix == ".spa":
        return f"it is a task file, which is gone on with by: edgespa adapt --from {spoken} --data DATA -o new.spa"
    if path.is_dir() and any(each.suffix == ".spa" for each in _entries(path)):
        return f"task files in there are listed by: edgespa tasks {spoken}"
    if path.is_dir() and is_there(path / "config.json"):
        return f"for a transformers folder write {shlex.quote(f'hf:{spec}')}"
    return None


def hint_of_task_folder(path: Path) -> str | None:
    """What to type in place of a path that is no folder of task files.

    Args:
        path: As typed; it need not be there.
    """
    spoken = shlex.quote(str(path))
    if _is_file(path) and (path.suffix == ".spa" or _is_tensors(path)):
        return f"it is one file: edgespa inspect {spoken}, or for a list edgespa tasks {shlex.quote(str(path.parent))}"
    if is_bundle(path):
        return f"it is a bundle: edgespa card {spoken}"
    return None


def is_torchscript(path: Path) -> bool:
    """Whether a file is what ``torch.jit.save`` writes: the list of its entries has code.

    Args:
        path: From wherever.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False
    return "constants.pkl" in names and any(name.startswith("code/") for name in names)


def is_bundle(path: Path) -> bool:
    """Whether a folder has a manifest of edgespa.

    Args:
        path: From wherever.
    """
    try:
        with (path / _MANIFEST).open("rb") as stream:
            values = json.loads(stream.read(_MOST))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"schema_version", "edgespa_version"} <= values.keys()


def _bundle_around(path: Path) -> Path | None:
    return path.parent if _is_file(path) and is_bundle(path.parent) else None


def is_layout(path: Path) -> bool:
    """Whether a folder is an OCI image layout, as registries' tools copy it.

    Args:
        path: From wherever.
    """
    return all(_is_file(path / name) for name in _LAYOUT)


def _layout_around(path: Path) -> Path | None:
    """The layout that a path is, or that it is a part of."""
    around = list(path.parents)[:3] if _is_file(path) else []  # of a blob, three above it
    return next((each for each in (path, *around) if is_layout(each)), None)


def _hint_of_layout(path: Path) -> str:
    return (
        "it is an OCI image layout, in which a bundle lies packed; make the folder of it again, and give that: "
        f"edgespa unpack {shlex.quote(str(path))} --output DIR"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_tensors(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(9)[5:] == b"\0\0\0{"  # safetensors: the size of a JSON header, then the header
    except OSError:
        return False


def _entries(path: Path) -> list[Path]:
    try:
        return [each for each, _ in zip(path.iterdir(), range(_SEEN), strict=False)]
    except (OSError, ValueError):
        return []
