"""Commands that can be steps of a recipe: ``--save-recipe FILE``, ``--dry-run``, and keys of recipes as options."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from edgespa.cli._help import Explained
from edgespa.cli._said import said
from edgespa.cli._terminal import aside, echo, harmless

if TYPE_CHECKING:
    from edgespa.api.recipes import Step

_F = TypeVar("_F", bound=Callable[..., Any])
_SAVE, _DRY, _ASKED = "edgespa.save-recipe", "edgespa.dry-run", "edgespa.asked-for"
_STEP = "step"
_NAME = "recipe.toml"
OF_THE_CALL = ("--overwrite", "--resume", "--fresh", "--json", "--save-recipe", "--dry-run", "--yes", "--remove")
"""Options that say how a command is called, not what it does, and those that a file shall not say."""
JOINED = ("numbers", "shape", "words", "depth")
"""Types of values that are one text with commas: a list in a recipe is that, too."""


class Repeatable(Explained):
    """A command that can be a step of a recipe."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click; what was asked for is noted as a recipe would say it.

        Args:
            ctx: Of the command.
            args: As typed.
        """
        if ctx.resilient_parsing:  # a shell asks what may come next
            return super().parse_args(ctx, args)
        raw = self.make_parser(ctx).parse_args(list(args))[0]
        rest = super().parse_args(ctx, args)
        note(ctx, self, raw)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Do what was asked for, unless it was only to be checked; save the recipe of what was done.

        Args:
            ctx: Of the command.
        """
        from edgespa.api.shell import Checked, adding

        file = ctx.meta.get(_SAVE)
        if file is not None:
            _require_possible(file, bool(ctx.params.get("overwrite")))
        if file is not None or ctx.meta.get(_DRY) not in (None, False, _STEP):
            _require_plain(ctx.meta.get(_ASKED, {}))
        result = None
        try:
            with adding(only_check=is_dry(ctx)):
                result = super().invoke(ctx)
        except Checked:
            if ctx.meta[_DRY] == _STEP:
                raise
            if ctx.params.get("as_json"):
                from edgespa.cli._output import emit_json

                emit_json({"done": False, "command": _name_of(ctx), "asked": ctx.meta[_ASKED]})
            else:
                echo(_text(ctx, Path(_NAME)), nl=False)
            aside("nothing was done; above is what would be")
        except SystemExit as error:  # of processes that have done it
            if file is not None and not error.code:
                _save(ctx, file)
            raise
        if file is not None:
            _save(ctx, file)
        return result


def recipe_options() -> Callable[[_F], _F]:
    """``--save-recipe FILE --dry-run``, of commands of the class `Repeatable`, whose calls know only checking."""

    def decorate(function: _F) -> _F:
        def keep(key: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
            def store(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
                ctx.meta[key] = value
                return value

            return store

        dry = click.option(
            "--dry-run",
            is_flag=True,
            expose_value=False,
            callback=keep(_DRY),
            help="Only check what can be known before, and print the recipe of what would be done.",
        )
        save = click.option(
            "--save-recipe",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            expose_value=False,
            callback=keep(_SAVE),
            help="Write what was asked for to a .toml file, for: edgespa run FILE",
        )
        return save(dry(function))

    return decorate


def is_dry(ctx: click.Context) -> bool:
    """Whether the command is only to be checked.

    Args:
        ctx: Of the command.
    """
    return bool(ctx.meta.get(_DRY))


def set_dry(ctx: click.Context, dry: bool) -> None:
    """Let the next step be checked only, or be done.

    Args:
        ctx: Of the step.
        dry: Which of them.
    """
    ctx.meta[_DRY] = _STEP if dry else None


def command_of(ctx: click.Context, name: str) -> click.Command:
    """The command that a step is.

    Args:
        ctx: Of the program.
        name: Which of `edgespa.api.recipes.COMMANDS`.
    """
    found: click.Command | None = ctx.find_root().command
    for word in name.split("-"):
        assert isinstance(found, click.Group)
        found = found.get_command(ctx, word)
    assert found is not None
    return found


def _name_of(ctx: click.Context) -> str:
    """What a step of the command is called."""
    words: list[str] = []
    at: click.Context | None = ctx
    while at is not None and at.parent is not None:
        words.insert(0, str(at.info_name))
        at = at.parent
    return "-".join(words)


def keys_of(command: click.Command) -> dict[str, click.Parameter]:
    """What a step may say: options by their long names, arguments by the words that stand for them.

    Args:
        command: Of the step.
    """
    keys: dict[str, click.Parameter] = {}
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden and param.opts[-1] not in OF_THE_CALL:
            keys[param.opts[-1].removeprefix("--")] = param
    for param in command.params:
        if isinstance(param, click.Argument):
            words = (param.metavar or str(param.name)).strip("[].").lower().split("|")
            for word in (*words, str(param.name)):
                keys.setdefault(word, param)
    return keys


def words_of(step: Step, command: click.Command) -> list[str]:
    """What one would type for a step, behind the name of its command.

    Args:
        step: As it was read.
        command: That it names.

    Raises:
        ConfigError: A key is no option, or a value cannot be one; with file, step and key.
    """
    keys = keys_of(command)
    options: list[str] = []
    arguments: list[str] = []
    seen: dict[str, str] = {}
    for key, value in step.values.items():
        param = keys.get(key)
        if param is None:
            raise _unknown(step, key, command, list(keys))
        if (other := seen.setdefault(str(param.name), key)) != key:
            from edgespa.errors import ConfigError

            raise ConfigError(f"{step.where(key)}: {other} says the same", "leave one of them out")
        if isinstance(param, click.Option):
            options += _option(step, key, param, value)
        else:
            arguments += texts_of(step, key, param, value)
    if any(each.startswith("-") for each in arguments):
        return [*options, "--", *arguments]
    return [*arguments, *options]


def _unknown(step: Step, key: str, command: click.Command, keys: list[str]) -> Exception:
    from edgespa.errors import ConfigError
    from edgespa.models.imports import nearest
    from edgespa.system.bounds import shown

    if f"--{key}" in OF_THE_CALL and any(f"--{key}" in param.opts for param in command.params):
        how = f"leave it out, and say it to edgespa run: --{key}"
        if key not in ("overwrite", "json", "dry-run"):
            how = f"leave it out: it is for: edgespa {step.typed}"
        return ConfigError(f"{step.where(key)}: no recipe says how it is called", how)
    near = nearest(key, keys, 1)
    return ConfigError(
        f"{step.where()}: {shown(key)[1:-1]}: edgespa {step.typed} has no such option",
        f"did you mean '{near[0]}'?" if near else f"see: edgespa {step.typed} --help",
    )


def _option(step: Step, key: str, param: click.Option, value: Any) -> list[str]:
    if param.is_flag:
        if not isinstance(value, bool):
            raise _wrong(step, key, value, "true or false")
        return [param.opts[-1]] if value else list(param.secondary_opts[-1:])
    words = []
    for text in texts_of(step, key, param, value):
        words += [f"{param.opts[-1]}={text}"] if text.startswith("-") or not text else [param.opts[-1], text]
    return words


def texts_of(step: Step, key: str, param: click.Parameter, value: Any) -> list[str]:
    """The texts that a value is: one, or several where there may be several.

    Args:
        step: That says so.
        key: Of the value.
        param: What it is for.
        value: As TOML has it.

    Raises:
        ConfigError: It cannot be one.
    """
    if isinstance(value, dict) and param.type.name == "setting":
        return [f"{name}={_joined(step, key, each)}" for name, each in value.items()]
    several = param.multiple or param.nargs == -1
    if not isinstance(value, list):
        return [_scalar(step, key, value)]
    if param.type.name in JOINED and not any(isinstance(each, str | list) for each in value):
        value = [value]
    elif not several and param.type.name not in JOINED:
        raise _wrong(step, key, value, "one value")
    if not several and value and not isinstance(value[0], list):
        value = [value]
    if not several and len(value) > 1:
        raise _wrong(step, key, value, "one value")
    return [
        ",".join(_scalar(step, key, part) for part in each)
        if isinstance(each, list) and param.type.name in JOINED
        else _scalar(step, key, each)
        for each in value
    ]


def _joined(step: Step, key: str, value: Any) -> str:
    """A setting's value: one, or several with commas."""
    return (
        ",".join(_scalar(step, key, each) for each in value) if isinstance(value, list) else _scalar(step, key, value)
    )


def _scalar(step: Step, key: str, value: Any) -> str:
    from edgespa.system.bounds import text_problem

    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _wrong(step, key, value, "a text or a number")
    if isinstance(value, str) and (problem := text_problem(value, lines=False)):
        raise _wrong(step, key, value, f"a plain text: it {problem}")
    return str(value)


def _wrong(step: Step, key: str, value: Any, wanted: str) -> Exception:
    from edgespa.errors import ConfigError
    from edgespa.system.bounds import shown

    return ConfigError(f"{step.where(key)}: {shown(str(value))} is not {wanted}", "correct it there")


def note(ctx: click.Context, command: click.Command, raw: Mapping[str, Any]) -> None:
    """Keep what was asked for, by the command line, the environment or a project, as a recipe says it.

    Args:
        ctx: Of the command.
        command: It.
        raw: What the parser found, before it is converted.
    """
    names = {id(param): key for key, param in reversed(keys_of(command).items())}
    found: dict[str, Any] = {}
    for param in command.params:
        source = ctx.get_parameter_source(str(param.name))
        key = names.get(id(param))
        if key is None:
            continue
        if source is ParameterSource.COMMANDLINE:
            found[key] = _saved(param, raw.get(str(param.name)))
        elif source is ParameterSource.ENVIRONMENT:
            found[key] = _saved(param, param.value_from_envvar(ctx))
        elif source is ParameterSource.DEFAULT_MAP:  # of edgespa.toml
            found[key] = _saved(param, ctx.lookup_default(str(param.name)))
    ctx.meta[_ASKED] = found


def _saved(param: click.Parameter, value: Any) -> Any:
    if isinstance(param, click.Option) and param.is_flag:
        return value if isinstance(value, bool) else str(value).lower() in ("1", "true", "t", "yes", "y", "on")
    if isinstance(value, list | tuple):
        return [_saved(param, each) for each in value]
    for kind in (click.types.IntParamType, click.types.FloatParamType):
        if isinstance(param.type, kind):
            return int(value) if kind is click.types.IntParamType else float(value)
    return str(value)


def _text(ctx: click.Context, file: Path) -> str:
    from edgespa.api.recipes import folder_from, recipe_text

    return recipe_text(_name_of(ctx), ctx.meta.get(_ASKED, {}), folder_from(file))


def _require_possible(file: Path, overwrite: bool) -> None:
    from edgespa.errors import ConfigError
    from edgespa.system.files import refuse_existing, require_writable

    if file.suffix != ".toml":
        raise ConfigError(f"--save-recipe {file}: a recipe ends in .toml", f"write it to {file.with_suffix('.toml')}")
    refuse_existing(file, overwrite)
    require_writable(file)


def _require_plain(asked: Mapping[str, Any]) -> None:
    """Refuse what no text of a recipe can say, before anything is done."""
    from edgespa.errors import ConfigError
    from edgespa.system.bounds import shown, text_problem

    for key, value in asked.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and (problem := text_problem(each, lines=False)):
                raise ConfigError(f"{key}: {shown(each)} {problem}: no recipe can say it", "use another name")


def _save(ctx: click.Context, file: Path) -> None:
    from edgespa.distributed.ranks import is_main
    from edgespa.system.files import write_whole

    if is_main():
        write_whole(file, _text(ctx, file).encode())
        aside(said(f"recipe: {file}   (again: edgespa run {shlex.quote(os.fspath(file))})"))


def typed_words(words: list[str]) -> Iterator[str]:
    """The words of a command as one sees them in a shell; what a terminal would obey is made harmless."""
    for word in words:
        yield harmless(shlex.quote(word))
