"""``edgespa search RECIPE.toml``: a step of a recipe in place of a model, and what is typed beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._recipes import Repeatable, command_of, keys_of, words_of

if TYPE_CHECKING:
    from edgespa.api.recipes import Step

_PATHS = ("model", "weights", "data", "validation-data", "eval-data", "labels")
_LEFT = ("output", "log", "save-task")
"""Of a step that adapts: files that it would write."""
_PAIRS = {"space": "space", "set": "fixed"}
"""Keys that are names with values -> their parameters."""
_VARY = ("density", "rank", "adapter", "criterion", "schedule", "round-to", "precision")


class Searched(Repeatable):
    """The command, which takes a recipe in place of a model."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click; a recipe is first replaced by what it says.

        Args:
            ctx: Of the command.
            args: As typed.
        """
        if not ctx.resilient_parsing:
            raw = self.make_parser(ctx).parse_args(list(args))[0]
            model = raw.get("model")
            if isinstance(model, str) and model.endswith(".toml"):
                args = _expanded(ctx, self, Path(model), args, raw)
        return super().parse_args(ctx, args)


def _expanded(
    ctx: click.Context, command: click.Command, path: Path, args: list[str], raw: dict[str, Any]
) -> list[str]:
    """The words that a recipe stands for, and behind them what was typed, which counts."""
    from edgespa.api.recipes import read_recipe

    recipe = read_recipe(path)
    step = _step_of(path, recipe.steps)
    typed = {key for key, param in keys_of(command).items() if raw.get(str(param.name)) and param.name != "model"}
    values = {
        key: _without(each, raw.get(names)) if (names := _PAIRS.get(key)) else each
        for key, each in step.values.items()
        if key not in typed or key in _PAIRS
    }
    if step.command == "adapt":
        values = _of_adapt(ctx, step, values, raw, set(keys_of(command)))
    values = {key: _placed(each, recipe.folder) if key in _PATHS else each for key, each in values.items()}
    if "output" in values:
        values["output"] = str(recipe.folder / str(values["output"]))
    said = _replaced(step, values)
    words = words_of(said, command)
    if not raw.get("trust"):
        _require_harmless(path, said, command)
    left = list(args)
    left.remove(str(path) if str(path) in left else raw["model"])
    return [*words, *left]


def _names(typed: Any) -> list[str]:
    """Of what was typed as NAME=VALUE."""
    return [str(each).partition("=")[0].strip().replace("_", "-") for each in typed or ()]


def _without(said: Any, typed: Any) -> Any:
    """Names with their values, but for those that were typed."""
    if not isinstance(said, dict):
        return said
    return {name: each for name, each in said.items() if str(name).replace("_", "-") not in _names(typed)}


def _replaced(step: Step, values: dict[str, Any]) -> Step:
    import dataclasses

    return dataclasses.replace(step, values=values, command="search")


def _step_of(path: Path, steps: tuple[Step, ...]) -> Step:
    """The step that says what is searched for."""
    from edgespa.errors import ConfigError

    for name in ("search", "adapt"):
        found = [each for each in steps if each.command == name]
        if len(found) > 1:
            names = ", ".join(each.name for each in found)
            raise ConfigError(f"{path}: several steps are meant: {names}", "write a recipe with one of them")
        if found:
            return found[0]
    raise ConfigError(f"{path}: nothing in it is to be searched for", "write a table [search], or [adapt]")


def _of_adapt(
    ctx: click.Context, step: Step, values: dict[str, Any], raw: dict[str, Any], known: set[str]
) -> dict[str, Any]:
    """What a step that adapts says of all trials: its settings, but for those that vary."""
    from edgespa.errors import ConfigError

    adapt = keys_of(command_of(ctx, "adapt"))
    spaces = _names(raw.get("space"))
    found: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for key, value in values.items():
        if key in _LEFT or key in (spaces or _VARY) or key in _names(raw.get("fixed")):
            continue
        if key not in adapt:
            words_of(step, command_of(ctx, "adapt"))  # says so
        if key == "budget" and "=" in str(value):
            found["budget"] = value
        elif key in known:
            found[key] = value
        elif key in ("from", "distill", "distill-weight", "distill-temperature", "trust", "variant", "adapter-option"):
            raise ConfigError(f"{step.where(key)}: a search has no such setting", "leave it out")
        else:
            fixed[key] = value
    return {**found, **({"set": fixed} if fixed else {})}


def _placed(value: Any, folder: Path) -> Any:
    """A path that begins at the folder of the recipe."""
    import contextlib

    from edgespa.trials.digests import absolute

    if not isinstance(value, str) or folder.resolve() == Path.cwd().resolve() or not folder.is_dir():
        return value
    with contextlib.chdir(folder):
        return absolute(value)


def _require_harmless(path: Path, step: Step, command: click.Command) -> None:
    """Refuse what only the user may say.

    Raises:
        UntrustedError: With all of it.
    """
    from edgespa.cli._asking import questions
    from edgespa.errors import UntrustedError

    allowed = (path.absolute().parent.resolve(), Path.cwd().resolve())
    asked = list(questions(step, command, allowed, False))
    if asked:
        raise UntrustedError(
            "\n  ".join([f"{path}: this is not done without your word:", *asked]),
            "look at it; if it is what you want, say --trust, too",
        )
