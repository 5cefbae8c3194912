"""A new ``edgespa.toml``: what can be found in a folder without running or unpacking anything, and its text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgespa.api.project import NAME, VERSION
from edgespa.models.factories import factories_in

_MOST_FILES = 200
_EVAL = ("test", "val", "valid", "validation", "eval")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a folder seems to have.

    Attributes:
        models: Specs of what gives a network, the likeliest first.
        data: Specs of training data.
        eval_data: Specs of evaluation data.
    """

    models: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    eval_data: tuple[str, ...] = ()


def look(folder: Path) -> Finding:
    """Look for a model and data; Python files are parsed and not run, names of files are read and no contents.

    Args:
        folder: Of the project.
    """
    entries = sorted((each for each in _entries(folder) if not each.name.startswith(".")), key=lambda each: each.name)
    entries = entries[:_MOST_FILES]
    models = [f"{file.name}:{name}" for file in entries if file.suffix == ".py" for name in factories_in(file)]
    programs = [file.name for file in entries if file.suffix in (".pt2", ".onnx") and file.is_file()]
    data, held = [], []
    for each in entries:
        names = {inner.name for inner in _entries(each) if inner.is_dir()} if each.is_dir() else set()
        if "train" in names:
            data.append(f"{each.name}:train")
            held += [f"{each.name}:{name}" for name in _EVAL if name in names][:1]
    return Finding((*models, *programs), tuple(data), tuple(held))


def _entries(folder: Path) -> list[Path]:
    try:
        return [each for each, _ in zip(folder.iterdir(), range(10 * _MOST_FILES), strict=False)]
    except OSError:
        return []


def project_text(values: Mapping[str, Any], found: Finding, devices: Sequence[str] = ()) -> str:
    """The content of a new file, with what is not known as a comment.

    Args:
        values: Key -> value of what is known: said, or found.
        found: What else there may be, for the comments.
        devices: Names of the user's own device profiles.
    """

    def line(key: str, example: Any, others: Sequence[str] = ()) -> str:
        text = f"{key} = {_toml(values[key])}" if key in values else f"# {key} = {_toml(example)}"
        more = [each for each in others if each != values.get(key)][:5]
        return f"{text}    # also here: {', '.join(more)}" if more else text

    data = values.get("data", "photos:train")
    return "\n".join(
        [
            "# What edgespa's commands take in this folder, and below it, where nothing else is typed:",
            "# the command line comes first, then the environment, then this file. Paths begin here.",
            "# Keys are what options are called, without the dashes; a table [COMMAND] is for one command.",
            f"version = {VERSION}",
            "",
            "# MODEL: file.py:factory, package.module:factory, torchvision:, timm: or hf:NAME, a .pt2 or .onnx file.",
            line("model", "net.py:build", found.models),
            line("input-shape", [1, 3, 224, 224]),
            "",
            "# DATA: a folder or zip with a folder for each class, and its part: PATH:train.",
            line("data", "photos:train", found.data),
            line("eval-data", "photos:test", found.eval_data),
            "# Images without labels: ranges of int8, pruning, healing.",
            line("calibration", data),
            "",
            "# How pixels become an input, where the model's library does not record it.",
            line("mean", [0.485, 0.456, 0.406]),
            line("std", [0.229, 0.224, 0.225]),
            line("resize", "crop"),
            "",
            "# Where it is to run: names of edgespa devices list. Connecting asks for your word: edgespa init --trust",
            line("device", list(devices) or ["pi-4b"]),
            "",
            "[adapt]",
            "density = 0.5",
            'output = "task.spa"',
            "",
            "[prune]",
            "density = 0.5",
            'output = "cut.spa"',
            "",
            "[export]",
            '# task = "task.spa"    # what was adapted, in place of the model above',
            'format = ["onnx", "tflite"]',
            f"precision = {_toml(values.get('precision', ['fp32']))}",
            'output = "bundle"',
            "",
            "[profile]",
            'bundle = "bundle"',
            "",
            "[ship]",
            'bundle = "bundle"',
            "",
        ]
    )


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def place_of(folder: Path) -> Path:
    """Where the file of a folder is.

    Args:
        folder: Of the project.
    """
    return folder / NAME
