"""What ``edgespa.toml`` says, as defaults of the command that is typed: see `edgespa.api.project`.

The command line comes first, then the environment, then the file, then the defaults. What the file says is looked
through like a recipe: what only the user may ask for is refused until `edgespa init --trust`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from edgespa.cli._recipes import JOINED, OF_THE_CALL, keys_of, texts_of
from edgespa.cli._terminal import aside

if TYPE_CHECKING:
    from edgespa.api.project import Project, Said

OFF = "no_project"
_TAKEN = "edgespa.project"
_MODELS = ("model", "base")
_DATA = ("data", "eval-data", "validation-data", "calibration", "held-out", "images")
_OF_MODEL = ("input-shape", "weights")
"""They belong to the model of the file, and to no other."""
_INSTEAD: Mapping[str, tuple[str, ...]] = {
    "resume": (),
    "remove": ("device",),
    "start": ("data", "eval-data", "seed", "output", "device"),
}
"""Parameters that say by themselves what is meant, each with the keys that the file still gives beside it."""
_TOGETHER = (("mean", "std"),)
_APART = {"device": "onnx_runtime", "onnx-runtime": "device"}
"""Keys that nothing is taken of where another parameter is typed."""


class Taken(NamedTuple):
    """A value of the file.

    Attributes:
        key: As the file has it.
        param: What it is the default of.
        value: What click takes for typed: texts, or a bool; paths are relative to the current folder.
        asked: Why only the user may say so; None where anybody may.
    """

    key: str
    param: click.Parameter
    value: Any
    asked: str | None


def defaults(command: click.Command, name: str, args: Sequence[str], root: click.Context) -> dict[str, Any] | None:
    """The ``default_map`` of a command that was typed; None where there is no project.

    Args:
        command: It.
        name: As it was typed.
        args: What was typed behind it.
        root: Of the program.

    Raises:
        ConfigError: The file is wrong; with the key, and the nearest name.
        UntrustedError: It asks for what only the user may say.
    """
    from edgespa.api.project_place import COMMANDS, find_project

    if name not in COMMANDS or root.params.get(OFF) or root.meta.get(_TAKEN) or root.resilient_parsing:
        return None
    root.meta[_TAKEN] = True  # once: of a state that is gone on with all is known
    words = list(args)[: list(args).index("--")] if "--" in args else args
    if {"-h", "--help", "--no-project"} & set(words):
        return None
    try:
        here = Path.cwd()
    except OSError:  # the current folder is gone
        return None
    if (file := find_project(here)) is None:
        return None
    from edgespa.api.project import read_project

    project = read_project(Path(os.path.relpath(file, here)))
    found = taken(project, project.of(name), command, args, root)
    _require_allowed(project, found, name)
    if found and not ({"-q", "--quiet"} & set(words)):
        louder = any(re.fullmatch(r"-v+|--verbose", word) for word in words)
        _tell(project, found, louder or bool(root.params.get("verbose")))
    return {str(each.param.name): each.value for each in found}


def taken(
    project: Project, said: Said, command: click.Command, args: Sequence[str], parent: click.Context | None
) -> list[Taken]:
    """What is taken of a project's file for a command that is typed.

    Args:
        project: The file.
        said: What it says to the command.
        command: It.
        args: What was typed behind it.
        parent: Of the command's context.

    Raises:
        ConfigError: A key is none of the command, or its value cannot be one.
    """
    ctx = click.Context(command, info_name=command.name, parent=parent)
    raw = command.make_parser(ctx).parse_args(list(args))[0]
    typed = {name for name, value in raw.items() if _is_given(value)}
    typed |= {str(param.name) for param in command.params if param.value_from_envvar(ctx) is not None}
    keys = keys_of(command)
    values = dict(_left(said, typed, keys))
    found: list[Taken] = []
    for key, value in values.items():
        param = keys[key]
        if str(param.name) in typed:
            continue
        texts = _read(said, key, param, value)
        if isinstance(texts, bool):
            given: Any = texts
        else:
            one = not (param.multiple or param.nargs == -1)
            if one and len(texts) != 1:
                continue  # several devices, and a command for one
            moved = [_from(project.path.parent, key, text) for text in texts]
            given = moved[0] if one else moved
        _require_possible(said, key, param, given, ctx)
        found.append(Taken(key, param, given, _asked(project, command, key, param, given, typed)))
    return found


def _is_given(raw: object) -> bool:
    return raw is not None and raw != () and raw != [] and type(raw).__name__ != "Sentinel"


def _left(said: Said, typed: set[str], keys: Mapping[str, click.Parameter]) -> Iterator[tuple[str, Any]]:
    """The keys that count beside what was typed, each checked to be one."""
    for key in said.values:
        if key not in keys:
            raise _unknown(said, key, list(keys))
    only = next((kept for name, kept in _INSTEAD.items() if name in typed), None)
    of_file = not {"model", "sources", "bundle"} & typed
    model = str(said.values.get("task", said.values.get("model", "")))
    for key, value in said.values.items():
        if only is not None and key not in only:
            continue
        if key in (*_OF_MODEL, "base") and not of_file:
            continue
        if key in said.shared and key in _OF_MODEL and model.endswith(".spa"):
            continue  # they are those of the base, which the task file names
        if key in said.shared and key == "device" and said.command == "export" and _is_here(value):
            continue
        if key in said.shared and key == "model" and "task" in said.values:
            continue
        if any(key in pair and set(pair) & typed for pair in _TOGETHER) or _APART.get(key) in typed:
            continue
        yield key, value


def _is_here(value: Any) -> bool:
    return value in ("local", ["local"])


def _unknown(said: Said, key: str, keys: list[str]) -> Exception:
    from edgespa.errors import ConfigError
    from edgespa.models.imports import nearest
    from edgespa.system.bounds import shown

    if f"--{key}" in OF_THE_CALL:
        return ConfigError(
            f"{said.where(key)}: no file says how a command is called", "leave it out, and type it with the command"
        )
    near = nearest(key, keys, 1)
    return ConfigError(
        f"{said.where()}: {shown(key)[1:-1]}: edgespa {said.typed} has no such option",
        f"did you mean '{near[0]}'?" if near else f"see: edgespa {said.typed} --help",
    )


def _read(said: Said, key: str, param: click.Parameter, value: Any) -> list[str] | bool:
    if isinstance(param, click.Option) and param.is_flag:
        from edgespa.errors import ConfigError
        from edgespa.system.bounds import shown

        if not isinstance(value, bool):
            raise ConfigError(f"{said.where(key)}: {shown(str(value))} is not true or false", "correct it there")
        return value
    several = param.multiple or param.nargs == -1
    if key in said.shared and isinstance(value, list) and not several and param.type.name not in JOINED:
        return [text for each in value for text in texts_of(said, key, param, each)]
    return texts_of(said, key, param, value)


def _from(folder: Path, key: str, text: str) -> str:
    """A text in which a path begins at the current folder, and not at that of the file.

    Args:
        folder: Of the file, as seen from the current one.
        key: What the text is of.
        text: As the file has it.
    """
    from edgespa.models.imports import split_file_spec
    from edgespa.system.files import expanded, is_there

    if folder == Path("."):
        return text
    head, colon, tail = text.partition(":")
    if expanded(text).is_absolute() or text in ("", "local", "random"):
        return text
    if key in _PATHS or split_file_spec(text) is not None or text.endswith((".pt2", ".onnx", ".spa")):
        return os.path.normpath(folder / text) if key in _PATHS else str(folder / text)
    if key in (*_MODELS, *_DATA, "weights", "device", "objective", "original", "from"):
        if is_there(folder / text):
            return str(folder / text)
        if colon and is_there(folder / head):
            return f"{folder / head}:{tail}"
        if key == "device" and text.endswith(".toml"):
            return str(folder / text)
    return text


_PATHS = (
    "output", "log", "plot", "save-task", "svg", "labels", "bundle", "sources", "task", "against", "signers", "revoked",
    "sign", "from", "original",
)  # fmt: skip
"""Keys whose values are nothing but paths."""


def _require_possible(said: Said, key: str, param: click.Parameter, value: Any, ctx: click.Context) -> None:
    """Refuse a value that the command would not take, with the file's name and not as if it had been typed."""
    from edgespa.errors import ConfigError

    try:
        param.type_cast_value(ctx, value)
    except click.UsageError as error:
        raise ConfigError(f"{said.where(key)}: {error.message}", "correct it there") from error


def _asked(
    project: Project, command: click.Command, key: str, param: click.Parameter, value: Any, typed: set[str]
) -> str | None:
    """What the user is asked about a value: ``export.model = net.py:build``, and why."""
    from edgespa.cli._asking import question_of_project

    name = next(name for name, each in keys_of(command).items() if each is param)
    folders = (project.path.parent.resolve(), Path.cwd().resolve())
    for each in value if isinstance(value, list) else [value]:
        why = question_of_project(str(command.name), name, each, folders, "overwrite" in typed)
        if why is not None:
            return why
    return None


def _require_allowed(project: Project, found: Sequence[Taken], name: str) -> None:
    from edgespa.api.project import is_allowed
    from edgespa.errors import UntrustedError
    from edgespa.system.bounds import shown

    said = project.of(name)
    asked = [
        f"{said.where(each.key)} = {shown(str(said.values[each.key]))}: {each.asked}"
        for each in found
        if each.asked is not None and not is_allowed(project.path, noted(name, each.key, said.values[each.key]))
    ]
    if asked:
        raise UntrustedError(
            "\n  ".join([f"{project.path}: this is not done without your word:", *asked]),
            "look at it; if it is what you want: edgespa init --trust; --no-project leaves the file out",
        )


def noted(command: str, key: str, value: Any) -> str:
    """What is noted when the user says that a file may ask for something.

    Args:
        command: That it asks.
        key: As the file has it.
        value: As the file has it, so that another value is another question.
    """
    return f"{command}.{key} = {value!r}"


def _tell(project: Project, found: Sequence[Taken], values: bool) -> None:
    from edgespa.distributed.ranks import is_main
    from edgespa.system.bounds import shown

    if not is_main():
        return
    if not values:
        aside(f"from {project.path}: {', '.join(each.key for each in found)}")
        return
    for each in found:
        texts = each.value if isinstance(each.value, list) else [each.value]
        aside(f"from {project.path}: {each.key} = {', '.join(shown(str(text))[1:-1] for text in texts)}")
