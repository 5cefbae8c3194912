"""How a task file finds its base again.

What the user typed is right from the folder it was typed in, the absolute path is right on that machine, and the path
relative to the task file is right when both move together. All three are kept and tried in that order of trust; the
digest in the task file decides whether what was found is the base.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from edgespa.errors import ModelError
from edgespa.models.elsewhere import final_folder, places_of
from edgespa.models.imports import split_file_spec
from edgespa.models.saved import is_onnx, is_pt2
from edgespa.system.bounds import shown, text_problem
from edgespa.system.clock import is_still
from edgespa.system.files import expanded, is_there

_NOT_A_FILE = ("torchvision:", "timm:")
_RANDOM = "random"
_PART_OF_FILE = re.compile(r"(.+\.(?:safetensors|pth?|bin|ckpt|tar))(:[^:/]+)")


def portable_spec(spec: str, relative_to: Path) -> str:
    """A spec whose path is relative to a folder, so that folder and model file can move together.

    Args:
        spec: A model spec or a weight file.
        relative_to: The folder, normally that of the task file.

    Returns:
        The spec with its path relative to the folder, with forward slashes. Unchanged if the spec names no path, or if
        path and folder are on different drives.
    """
    parts = _path_parts(spec)
    if parts is None:
        return spec
    head, path, tail = parts
    try:
        relative = os.path.relpath(expanded(path).resolve(), relative_to.resolve())
    except ValueError:  # another drive
        return spec
    return f"{head}{Path(relative).as_posix()}{tail}"


def resolve_spec(spec: str, roots: Sequence[Path]) -> str:
    """Make the path in a spec absolute, looking for it below several folders.

    Args:
        spec: A model spec or a weight file. One that names no path is returned unchanged.
        roots: Folders to look in, in order. An absolute path in the spec is only looked for as it is.

    Returns:
        The spec with the first path that exists, absolute.

    Raises:
        ModelError: The path is below none of the folders.
    """
    parts = _path_parts(spec)
    if parts is None:
        return spec
    head, path, tail = parts
    tried: list[str] = []
    for root in roots:
        candidate = root / expanded(path)
        if is_there(candidate):
            return f"{head}{candidate.resolve()}{tail}"
        tried.append(str(candidate))
    looked = ", ".join(dict.fromkeys(tried)) or path
    raise ModelError(f"{spec}: not found (looked for {looked})", "say where it is now with --base MODEL")


def _path_parts(spec: str) -> tuple[str, str, str] | None:
    """Prefix, path and suffix of a spec that names a file or folder; None if it names none."""
    if spec == _RANDOM or spec.startswith(_NOT_A_FILE):
        return None
    if spec.startswith("hf:"):
        name = spec.removeprefix("hf:")
        if name.startswith("//"):  # in the hub's cache, which is the same from everywhere
            return None
        return ("hf:", name, "") if is_there(expanded(name)) or name.startswith((".", "/", "~")) else None
    file_parts = split_file_spec(spec)
    if file_parts is not None:
        path, name = file_parts
        return "", path, f":{name}" if name else ""
    if is_pt2(spec) or is_onnx(spec) or ":" not in spec:
        return "", spec, ""
    if part := _PART_OF_FILE.fullmatch(spec):
        return "", part[1], part[2]
    return None


@dataclass(frozen=True)
class BaseReference:
    """Where a base model and its weights were found, in three ways each.

    Attributes:
        spec: Model spec as typed.
        spec_absolute: The same with an absolute path; equal to ``spec`` if it names no path, and to ``spec_relative``
            where ``SOURCE_DATE_EPOCH`` is set, for that path differs from machine to machine.
        spec_relative: The same with the path relative to the task file's folder.
        weights: Weight file as typed, ``"random"``, or None for what the spec itself gives.
        weights_absolute: The same with an absolute path.
        weights_relative: The same relative to the task file's folder.
    """

    spec: str
    spec_absolute: str
    spec_relative: str
    weights: str | None = None
    weights_absolute: str | None = None
    weights_relative: str | None = None

    @classmethod
    def record(cls, spec: str, weights: str | None, task_folder: Path) -> Self:
        """Note a base that is in use now.

        Args:
            spec: Model spec as typed; paths are relative to the current folder.
            weights: Weight file as typed, ``"random"`` or None.
            task_folder: The folder that the task file will lie in.

        Raises:
            ModelError: A path in the spec does not exist.
        """
        model = cls._places(spec, task_folder)
        own: tuple[str | None, ...] = (None, None, None)
        return cls(*model, *(own if weights is None else cls._places(weights, task_folder)))

    @staticmethod
    def _places(spec: str, task_folder: Path) -> tuple[str, str, str]:
        """As typed, absolute, relative; where the bytes are to be the same anywhere, no folder of this machine."""
        typed, absolute = places_of(spec) or (spec, resolve_spec(spec, [Path.cwd()]))
        relative = portable_spec(spec if typed == spec else absolute, final_folder(task_folder))
        return typed, relative if is_still() else absolute, relative

    def resolve(self, task_folder: Path) -> tuple[str, str | None]:
        """Find the base: by absolute path, then as typed from the current folder, then next to the task file.

        Next to the task file means the recorded relative path, and in the end the bare file name.

        Args:
            task_folder: The folder that the task file lies in now.

        Returns:
            Model spec and weights for ``load_model``. Whether they are still the same weights is not checked here:
            compare `state_digest`.

        Raises:
            ModelError: Nothing was found; the message lists every place.
        """
        spec = _first(self.spec, self.spec_absolute, self.spec_relative, task_folder)
        if self.weights is None or self.weights_absolute is None or self.weights_relative is None:
            return spec, None
        return spec, _first(self.weights, self.weights_absolute, self.weights_relative, task_folder)

    def to_json(self) -> dict[str, str | None]:
        """The reference as plain values for a JSON file."""
        return {
            "spec": self.spec,
            "spec_absolute": self.spec_absolute,
            "spec_relative": self.spec_relative,
            "weights": self.weights,
            "weights_absolute": self.weights_absolute,
            "weights_relative": self.weights_relative,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The reference from what `to_json` gave.

        Raises:
            ModelError: A key is missing, unknown, or not text.
        """
        known = ("spec", "spec_absolute", "spec_relative", "weights", "weights_absolute", "weights_relative")
        wrong = [key for key in values if key not in known]
        wrong += [key for key in known[:3] if not isinstance(values.get(key), str)]
        wrong += [key for key, value in values.items() if isinstance(value, str) and text_problem(value, lines=False)]
        wrong += [key for key in known[3:] if not isinstance(values.get(key), str | None)]
        if wrong:
            raise ModelError(f"base reference: missing, unknown or no text: {', '.join(wrong)}", "pass --base MODEL")
        return cls(**values)


def _first(typed: str, absolute: str, relative: str, task_folder: Path) -> str:
    at_record = _path_parts(absolute)
    if at_record is None:
        return typed
    head, known, tail = at_record
    # The prefix and suffix are the same in all three; a folder for `hf:` need not exist any more to be one.
    as_typed, beside = (spec.removeprefix(head).removesuffix(tail) for spec in (typed, relative))
    candidates = (Path(known), Path.cwd() / as_typed, task_folder / beside, task_folder / Path(known).name)
    for candidate in candidates:
        if is_there(expanded(candidate)):
            return f"{head}{expanded(candidate).resolve()}{tail}"
    looked = shown(", ".join(dict.fromkeys(str(candidate) for candidate in candidates)), 1000)[1:-1]
    raise ModelError(
        f"base {shown(typed)[1:-1]}: not found (looked for {looked})", "say where it is now with --base MODEL"
    )
