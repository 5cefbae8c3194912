"""``edgespa run``: do what a recipe says."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from edgespa.cli._help import Explained
from edgespa.cli._options import json_option
from edgespa.cli._recipes import command_of, set_dry, typed_words, words_of
from edgespa.cli._said import said as told
from edgespa.cli._said import set_going_on, set_typed_in
from edgespa.cli._sections import RUN, RUN_EXAMPLES
from edgespa.cli._terminal import aside, echo

if TYPE_CHECKING:
    from edgespa.api.recipes import Step


class _Planned(NamedTuple):
    step: Step
    command: click.Command
    words: list[str]

    @property
    def line(self) -> str:
        return " ".join(["edgespa", self.step.typed, *typed_words(self.words)])


@click.command(name="run", cls=Explained, sections=RUN, examples=RUN_EXAMPLES)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--begin", metavar="STEP", help="Leave out what comes before this step.")
@click.option("--dry-run", is_flag=True, help="Only print the commands, and check what can be known before.")
@click.option("--overwrite", is_flag=True, help="Replace what is there already.")
@click.option(
    "--trust",
    is_flag=True,
    help="Take the recipe as if you had typed it: code, devices, keys, and files anywhere.",
)
@json_option()
@click.pass_context
def command(
    ctx: click.Context, recipe: Path, begin: str | None, dry_run: bool, overwrite: bool, trust: bool, as_json: bool
) -> None:
    """Do what RECIPE says: a TOML file with a table for each of its steps.

    Steps are data, compress, search, adapt, prune, heal, export, evaluate, verify, sign, pack, unpack, profile, card,
    report, ship, rollback, calibration-make, devices-setup and devices-pull. The keys of a table are what the
    options are called: density = 0.5, input-shape = "1,3,32,32", format = ["onnx"]. --save-recipe of those commands
    writes one. Steps run in the order of the file; before the first, all are checked as far as that can be done. Paths
    begin at the recipe's folder, or at what it says as folder.

    A recipe that somebody else wrote runs no code that was not used here before, connects to nothing, and writes below
    its own folder or this one, unless you say --trust.
    """
    from edgespa.api.recipes import read_recipe

    _require_one_process()
    found = read_recipe(recipe)
    steps = found.beginning_with(begin)
    here = Path.cwd()
    allowed = (recipe.absolute().parent.resolve(), here.resolve())
    if not found.folder.is_dir():
        from edgespa.errors import ConfigError

        raise ConfigError(f"{recipe}: folder: {found.folder} is no folder", "correct it there")
    with contextlib.chdir(found.folder):
        set_typed_in(ctx, here)
        if found.folder.resolve() != here:
            aside(f"in the folder {found.folder}")
        plan = [_planned(ctx, step, overwrite) for step in steps]
        for each in plan:
            echo(each.line, err=not dry_run or as_json)
        if not trust:
            _require_harmless(recipe, plan, allowed, overwrite)
        _check(ctx, plan)
        if dry_run:
            if as_json:
                _emit(plan, [None] * len(plan), done=False)
            aside("nothing was done: all that can be known before is as it should be")
            return
        results: list[Any] = []
        try:
            for index in range(len(plan)):
                _do(ctx, plan, index, recipe, results if as_json else None)
        finally:
            if as_json:
                _emit(plan, results, done=len(results) == len(plan))


def _require_one_process() -> None:
    from edgespa.distributed.launch import cpu_processes_to_start

    if int(os.environ.get("WORLD_SIZE") or 1) > 1 or cpu_processes_to_start() > 1:
        raise click.UsageError("several processes train together, and run no recipe: type its adapt by itself")


def _planned(ctx: click.Context, step: Step, overwrite: bool) -> _Planned:
    """A step as a command, whose words it takes."""
    from edgespa.errors import ConfigError

    command = command_of(ctx, step.command)
    words = words_of(step, command)
    if overwrite and any("--overwrite" in param.opts for param in command.params):
        words.append("--overwrite")
    try:
        _context(ctx, command, words)
    except click.UsageError as error:
        raise ConfigError(f"{step.where()}: {error.format_message()}", f"see: edgespa {step.typed} --help") from error
    return _Planned(step, command, words)


def _context(ctx: click.Context, command: click.Command, words: Sequence[str]) -> click.Context:
    return command.make_context(str(command.name), list(words), parent=ctx.parent)


def _require_harmless(recipe: Path, plan: Sequence[_Planned], allowed: tuple[Path, ...], overwrite: bool) -> None:
    """Refuse what only the user may say.

    Raises:
        UntrustedError: With all of it.
    """
    from edgespa.cli._asking import questions
    from edgespa.errors import UntrustedError

    asked = [each for planned in plan for each in questions(planned.step, planned.command, allowed, overwrite)]
    if asked:
        raise UntrustedError(
            "\n  ".join([f"{recipe}: this is not done without your word:", *asked]),
            f"look at it; if it is what you want: edgespa run {shlex.quote(str(recipe))} --trust",
        )


def _check(ctx: click.Context, plan: Sequence[_Planned]) -> None:
    """Check each step as far as it can be before the first is done; what one writes is there for the next."""
    from edgespa.api.early import promised
    from edgespa.api.shell import Checked
    from edgespa.errors import ConfigError

    written: dict[Path, str] = {}
    for each in plan:
        inner = _context(ctx, each.command, each.words)
        output = inner.params.get("output")
        if output is not None and (other := written.get(Path(output).resolve())) is not None:
            raise ConfigError(f"{each.step.where('output')}: {other} writes {output} too", "name another file")
        set_dry(inner, True)
        with promised(written), _placed(each.step), contextlib.suppress(Checked), inner:
            each.command.invoke(inner)
        if output is not None:
            written[Path(output).resolve()] = f"[{each.step.name}]"


@contextlib.contextmanager
def _placed(step: Step) -> Any:
    """Say of a mistake which step has it."""
    from edgespa.errors import ConfigError, EdgespaError

    try:
        yield
    except click.UsageError as error:
        raise ConfigError(f"{step.where()}: {error.format_message()}", f"see: edgespa {step.typed} --help") from error
    except EdgespaError as error:
        error.message = f"{step.where()}: {error.message}"
        raise


def _do(ctx: click.Context, plan: Sequence[_Planned], index: int, recipe: Path, results: list[Any] | None) -> None:
    """Do a step; where it fails, say how the rest is gone on with.

    Args:
        ctx: Of the command.
        plan: All steps.
        index: Of the step.
        recipe: As it was typed.
        results: Gets what it says as JSON, if that is asked for.
    """
    each = plan[index]
    if len(plan) > 1:
        aside(f"step {index + 1} of {len(plan)}: {each.step.name}")
    inner = _context(ctx, each.command, [*each.words, *(["--json"] if results is not None else [])])
    set_dry(inner, False)
    set_going_on(inner, index + 1 < len(plan))
    text = io.StringIO()
    try:
        with contextlib.nullcontext() if results is None else contextlib.redirect_stdout(text), inner:
            each.command.invoke(inner)
    except BaseException:
        rest = f"edgespa run {shlex.quote(str(recipe))} --begin {each.step.name}"
        with contextlib.suppress(OSError):  # of a closed terminal
            echo(told(f"stopped at step {index + 1} of {len(plan)}; from there on: {rest}"), err=True)
        raise
    if results is not None:
        results.append(json.loads(text.getvalue()) if text.getvalue().strip() else None)


def _emit(plan: Sequence[_Planned], results: Sequence[Any], *, done: bool) -> None:
    from edgespa.cli._output import emit_json

    rows = [
        {"step": each.step.name, "command": each.line, "result": result}
        for each, result in zip(plan, results, strict=False)
    ]
    emit_json({"done": done, "steps": rows})
