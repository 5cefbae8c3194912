"""Whether the base that somebody's task file names may be opened: code runs only where the user said so.

A task file names its base. To open a ``.pt2`` program, an ONNX file, or a folder of transformers with weights in
safetensors, runs nothing of anybody's. Everything else is Python that is imported, or a library that fetches what is
named. It is opened

- where the user names it: as MODEL, or with ``--base``;
- where it was opened here before: `remember` notes a spec that led to a model, with the digest of the code, below
  ``XDG_STATE_HOME`` or ``~/.local/state``;
- where the user says ``--trust``.

Of modules by name only the user's own and those of the libraries of models count: no word of a task file's makes
``http.server:test`` run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from edgespa.errors import ModelError, UntrustedError
from edgespa.models.given import PREFIX, Given
from edgespa.models.imports import is_module_spec, library_name, split_file_spec
from edgespa.models.sources import code_digest
from edgespa.system.files import expanded, is_there, require_folder_possible, write_whole

log = logging.getLogger(__name__)

CODE = "code that was not used here before, or has changed since"
_LIBRARIES = ("torchvision", "timm", "hf")
_OF_LIBRARIES = ("torchvision.models", "timm.models", "transformers.models")
_OWN = "edgespa.api.demo:network"
_STATE = "XDG_STATE_HOME"
_ASK = (
    "look at it first; if you trust it, say --trust, or name the base yourself with --base MODEL "
    "(adapt: MODEL before --from)"
)
_CODE_KEYS = (
    "auto_map", "custom_pipelines", "backbone", "use_timm_backbone", "architecture", "backbone_config",
    "attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation",
    "kernel_config", "use_kernels", "quantization_config",
)  # fmt: skip
_ANY_TEXT = ("_name_or_path", "name_or_path", "id2label", "label2id")
"""Of a configuration: what its maker typed, and names of classes. Other texts with a slash or colon name something."""


def require_trusted(spec: str, task: str, *, trust: bool = False) -> None:
    """Refuse a base that a task file names and that nobody here has named before.

    Args:
        spec: The base's spec, with the path that was found.
        task: The task file, for the message.
        trust: The user has said that it may be opened.

    Raises:
        UntrustedError: With the spec, and what to say if it is to be opened.
    """
    if spec.startswith(PREFIX):
        raise ModelError(
            f"{task}: its base was a module given in Python: {spec.removeprefix(PREFIX)}",
            "give it again: base= in Python (of adapt its model), or --base MODEL with a spec that builds the same one",
        )
    if _runs_nothing(spec) or is_remembered(spec):
        return
    if is_module_spec(spec) and spec.partition(":")[0] and not _is_library(spec):
        _require_own(spec, task)
    if trust:
        return
    if _is_library(spec):
        raise UntrustedError(
            f"{task}: its base is built by a library, which may fetch it, and was not used here before: {spec}",
            _ASK + _not_noted(),
        )
    parts = split_file_spec(spec)
    if parts is not None or is_module_spec(spec):
        what = "code that was not used here before, or has changed since"
        raise UntrustedError(f"{task}: its base is {what}: {spec}", _ASK + _not_noted())


def question(spec: str) -> str | None:
    """Why a spec that the user has not typed is not opened without a word; None where it is.

    Args:
        spec: Of a model or of data; paths are relative to the current folder.
    """
    if _runs_nothing(spec) or is_remembered(spec):
        return None
    if _is_library(spec):
        return "a library builds it, and may fetch it"
    if split_file_spec(spec) is not None or is_module_spec(spec):
        return CODE
    return None


def remember(spec: str) -> None:
    """Note that a base was opened here, because the user named it; nothing where it cannot be noted.

    Args:
        spec: The base's spec; paths are relative to the current folder.
    """
    if isinstance(spec, Given) or _runs_nothing(spec):
        return
    try:
        identity = _identity(spec)
        if identity is None or (place := _place(identity)).exists():
            return
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(place, json.dumps(identity, indent=1).encode())
    except (OSError, ValueError) as error:
        log.debug("that %s was opened is not noted: %s", spec, error)


def is_remembered(spec: str) -> bool:
    """Whether the same base, with the same code, was opened here before.

    Args:
        spec: The base's spec; paths are relative to the current folder.
    """
    try:
        identity = _identity(spec)
        if identity is None:
            return False
        place = _place(identity)
        mine = place.stat().st_uid == os.geteuid() and not place.parent.stat().st_mode & 0o022
        return bool(mine and json.loads(place.read_bytes()) == identity)
    except (OSError, ValueError):
        return False


def _notes() -> Path:
    return expanded(os.environ.get(_STATE) or "~/.local/state") / "edgespa" / "bases"


def _place(identity: dict[str, Any]) -> Path:
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return _notes() / f"{name}.json"


def _not_noted() -> str:
    """For a hint: that nothing that is used here can be noted, as in a container without a home folder."""
    try:
        require_folder_possible(_notes() / "note")
    except OSError as error:
        return f" (what is used here cannot be noted below {_notes()}: {error.strerror}; {_STATE} names another folder)"
    return ""


def _identity(spec: str) -> dict[str, Any] | None:
    """What tells a base from every other: for code its name and its digest, wherever it lies.

    Raises:
        OSError: If the code cannot be read.
    """
    if _is_library(spec):
        library, name, classes = library_name(spec)
        folder = expanded(name)
        more = f",classes={classes}" if classes else ""
        return {"spec": f"{library}:{folder.resolve()}{more}" if is_there(folder) else spec}
    parts = split_file_spec(spec)
    if parts is not None:
        file = expanded(parts[0]).resolve()
        return {"spec": f"{file.name}:{parts[1]}", "code": code_digest(file, file.parent)}
    if is_module_spec(spec) and (found := _module_file(spec.partition(":")[0])) is not None:
        file, root = found
        # What is installed imports half of the environment: who could change it would not need a task file.
        return {
            "spec": spec,
            "code": code_digest(file, file.parent / file.stem if _is_installed(file) else root),
        }
    return None


def _is_library(spec: str) -> bool:
    return spec.partition(":")[0] in _LIBRARIES


def _runs_nothing(spec: str) -> bool:
    if spec.endswith((".pt2", ".onnx")) or spec == _OWN:
        return True
    library, name, _ = library_name(spec)
    return library == "hf" and _is_plain_folder(expanded(name))


def _is_plain_folder(folder: Path) -> bool:
    """Whether a folder has a configuration without code or other models in it, and its weights in safetensors alone."""
    try:
        entries = list(folder.iterdir()) if is_there(folder) else []
        if not all(entry.is_file() or entry.is_dir() for entry in entries):
            return False  # pipes and devices
        names = [entry.name for entry in entries]
        config = json.loads((folder / "config.json").read_bytes()) if "config.json" in names else None
        leads_on = _leads_on(config)
    except (OSError, ValueError, RecursionError):
        return False
    adapted = "adapter_config.json" in names  # which names another model
    pickled = any(name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".py")) for name in names)
    stored = any(name.endswith(".safetensors") for name in names)
    return isinstance(config, dict) and stored and not (pickled or adapted or leads_on)


def _leads_on(value: Any) -> bool:
    """Whether a configuration, or one inside of it, names code, another model, or a place to fetch either from."""
    if isinstance(value, dict):
        return any(
            bool(each) if key in _CODE_KEYS else key not in _ANY_TEXT and _leads_on(each) for key, each in value.items()
        )
    if isinstance(value, list):
        return any(_leads_on(each) for each in value)
    return isinstance(value, str) and bool({"/", ":", "\\"} & set(value))


def _require_own(spec: str, task: str) -> None:
    """Refuse a module of Python itself, or of an installed package that is no library of models.

    Raises:
        UntrustedError: With what to say instead.
        ModelError: There is no such module.
    """
    module = spec.partition(":")[0]
    top = module.partition(".")[0]
    if any(f"{module}.".startswith(f"{each}.") for each in _OF_LIBRARIES):
        return
    found = _module_file(module)
    known = top in sys.stdlib_module_names or top in sys.builtin_module_names or top in ("edgespa", "__main__")
    if found is None and not known and top not in sys.modules:
        raise ModelError(
            f"{task}: its base {spec}: no module named '{module}'", "say where it is now with --base MODEL"
        )
    if found is None or known or _is_installed(found[0]):
        raise UntrustedError(
            f"{task}: its base {spec} is a module of Python or of an installed package, and none of yours",
            "name the base yourself with --base MODEL (adapt: MODEL before --from)",
        )


def _is_installed(file: Path) -> bool:
    if {"site-packages", "dist-packages"} & set(file.parts):
        return True
    paths = sysconfig.get_paths()
    places = [Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib")]
    return any(file.is_relative_to(place) for place in (*places, Path(__file__).resolve().parents[1]))


def _module_file(module: str) -> tuple[Path, Path] | None:
    """The file of a module and the folder that it is found from, without importing anything, not even its package."""
    top, *rest = module.split(".")
    for root in _roots(top):
        folder = root / top
        for part in rest:
            folder = folder / part
        for candidate in (folder / "__init__.py", folder.with_name(f"{folder.name}.py")):
            if candidate.is_file():
                return candidate.resolve(), root.resolve()
    return None


def _roots(top: str) -> Iterator[Path]:
    spec = PathFinder.find_spec(top, [*sys.path, str(Path.cwd())])
    if spec is None:
        # Projects in development have finders of their own. Nothing is imported for a name without a dot.
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(top)
    if spec is None:
        return
    if spec.submodule_search_locations is not None:
        yield from (Path(location).parent for location in spec.submodule_search_locations)
    elif spec.origin is not None:
        yield Path(spec.origin).parent
