"""Commands that can be left and gone on with: ``--resume [FILE]``, ``--fresh``, and what is said of what is kept."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from edgespa.cli._failures import Failure, as_failure
from edgespa.cli._recipes import Repeatable
from edgespa.cli._said import set_typed_in, typed_in
from edgespa.cli._terminal import aside, echo

if TYPE_CHECKING:
    from edgespa.tasks.unfinished import Unfinished

_F = TypeVar("_F", bound=Callable[..., Any])
_SUFFIX = ".resume"
_OF_THE_CALL = ("resume", "fresh", "overwrite", "as_json", "save_recipe", "dry_run", "verbose", "debug")
_PLACES = {"log_file": "--log", "tensorboard": "--tensorboard", "mlflow": "--mlflow"}
"""Where a run is told: by name, the option."""
_FREE = (*_OF_THE_CALL, *_PLACES, "trust")
"""What may be said otherwise when a run is gone on with."""
_ASKED = "edgespa.asked"
_NO = ("0", "false", "no", "off")
"""Of the environment, where a flag is so given."""
_YES = ("", "1", "true", "yes", "on")


def resume_options() -> Callable[[_F], _F]:
    """``--resume [FILE] --fresh`` -> ``resume: bool``, ``fresh: bool``; for commands of the class `Resumable`."""

    def decorate(function: _F) -> _F:
        fresh = click.option(
            "--fresh", is_flag=True, help="Start anew where there is the state of an interrupted run, and give it up."
        )
        resume = click.option(
            "--resume",
            is_flag=False,
            flag_value="",
            metavar="[FILE]",
            callback=lambda ctx, param, value: value is not None and value.lower() not in _NO,
            help=f"Go on with an interrupted run, by its state: OUTPUT{_SUFFIX}. FILE alone is enough: the state knows "
            "the other options.",
        )
        return resume(fresh(function))

    return decorate


class Resumable(Repeatable):
    """A command that goes on with an interrupted run of its own by the name of its state alone."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click, with the options that the state of a run was asked for with.

        Args:
            ctx: Of the command.
            args: As typed.

        Raises:
            click.UsageError: An option says something else than the state.
            UnfinishedError: There is no such state, or it cannot be gone on with here.
        """
        args = self._completed(ctx, list(args)) if not ctx.resilient_parsing else args
        raw = self.make_parser(ctx).parse_args(list(args))[0]
        rest = super().parse_args(ctx, args)
        asked = []
        for param in self.get_params(ctx):
            source = ctx.get_parameter_source(str(param.name))
            if param.name in _OF_THE_CALL:
                continue
            if source is ParameterSource.COMMANDLINE:
                asked += _as_typed(param, raw.get(str(param.name)))
            elif source is ParameterSource.ENVIRONMENT:
                asked += _as_typed(param, param.value_from_envvar(ctx))
            elif source is ParameterSource.DEFAULT_MAP:  # of edgespa.toml
                asked += _as_typed(param, ctx.lookup_default(str(param.name)))
        ctx.meta[_ASKED] = asked
        return rest

    def _completed(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments with those of the state that is named, if any is."""
        from edgespa.tasks.unfinished import Unfinished, nothing_to_resume, state_path

        if not any(word == "--resume" or word.startswith("--resume=") for word in args):
            return args
        raw = self.make_parser(ctx).parse_args(list(args))[0]
        named = raw.get("resume")
        file = named if isinstance(named, str) and named.lower() not in _YES else None
        if file is not None and not _is_given(raw.get("model")) and not _is_state(file):
            # "--resume MODEL --data ...": click takes the word behind the option for its value.
            at = next(i for i, word in enumerate(args[:-1]) if word == "--resume" and args[i + 1] == file)
            return self._completed(ctx, [file, *args[:at], "--resume=", *args[at + 2 :]])
        if file is None and not isinstance(raw.get("output"), str):
            raise click.UsageError(f"--resume needs the state, or --output: --resume FILE{_SUFFIX}", ctx)
        path = _state_of(file) if file is not None else state_path(Path(raw["output"]))
        if not path.exists():
            raise nothing_to_resume(path)
        alone = not any(_is_given(raw.get(name)) for name in ("model", "start"))
        return self._with_state(ctx, args, raw, Unfinished.read(path), alone=alone)

    def _with_state(
        self, ctx: click.Context, args: list[str], raw: Mapping[str, Any], found: Unfinished, *, alone: bool
    ) -> list[str]:
        from edgespa.errors import UnfinishedError
        from edgespa.tasks.unfinished import state_path

        command = found.command
        if command is None:
            if alone:
                raise UnfinishedError(
                    f"{found.path} was not written by you on this machine, or not by a command, so what it says of "
                    "its model and options is not taken",
                    "say all that the run was asked for, MODEL, --data and the rest, and --resume with it",
                )
            return args
        name, stored, _ = command
        if name != ctx.info_name:
            raise UnfinishedError(f"{found.path} is the state of edgespa {name}", f"go on with: {found.how}")
        here, there = Path.cwd(), found.folder or Path.cwd()
        known = self.make_context(name, list(stored), parent=ctx.parent)
        by_name = {str(param.name): param for param in self.get_params(ctx)}
        free: list[str] = []
        for key, value in raw.items():
            param = by_name.get(key)
            if param is None or not _is_given(value):
                continue
            if key in _FREE:
                typed = param.process_value(ctx, value) if key in ("log_file", "tensorboard", "save_recipe") else value
                free += _as_typed(param, str(typed.absolute()) if isinstance(typed, Path) else typed)
                continue
            given = param.process_value(ctx, value)
            if given != known.params.get(key) and not _same_path(given, here, known.params.get(key), there):
                own = param.opts[-1] if isinstance(param, click.Option) else param.make_metavar(ctx)
                raise click.UsageError(
                    f"{own} is {_text(given)} here, and {_text(known.params.get(key))} in {found.path}. Leave it out, "
                    "or start anew with --fresh.",
                    ctx,
                )
        if state_path(there / known.params["output"]).resolve() != found.path.resolve():
            raise UnfinishedError(
                f"{found.path} is not where it was written: {state_path(there / known.params['output'])}",
                "move it back",
            )
        told = tuple(f"{option}=" for key, option in _PLACES.items() if _is_given(raw.get(key)))
        rest = [word for word in stored if not word.startswith(told)]
        words = shlex.join(["edgespa", name, *rest])
        aside(f"going on: {words} ({found.progress})")
        if there.resolve() != here.resolve():
            aside(f"in the folder {there}")
            os.chdir(there)
            set_typed_in(ctx, here)
        return [*rest, *[word for word in free if not word.startswith("--resume")], "--resume="]


def asked_for(ctx: click.Context, output: Path) -> dict[str, Any]:
    """What the state of a run says of its command.

    Args:
        ctx: Of the command.
        output: What it writes in the end.
    """
    from edgespa.tasks.unfinished import marked

    return marked(str(ctx.info_name), ctx.meta.get(_ASKED, ()), output)


@contextlib.contextmanager
def saying_when_left(kept: Callable[[], str]) -> Iterator[None]:
    """Let the last line of a run that somebody ends say what is kept of it.

    Args:
        kept: Says it; nothing where nothing is to be said.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(kept()) from None
    except SystemExit as error:
        if isinstance(error.code, int) and error.code > _BY_SIGNAL:
            what = kept()
            with contextlib.suppress(OSError):  # of a closed terminal
                echo(f"Ended by a signal; {what}" if what else "Ended by a signal", err=True)
        raise


@contextlib.contextmanager
def saying_what_is_kept(output: Path) -> Iterator[None]:
    """Let the last line of a run that is left say what is kept of it, and the command that goes on.

    Args:
        output: What the run writes in the end.
    """
    from edgespa.errors import EdgespaError, UnfinishedError

    try:
        with saying_when_left(lambda: _kept(output)):
            yield
    except UnfinishedError:
        raise
    except (EdgespaError, OSError, MemoryError) as error:
        found = _found(output)
        if found is None:
            raise
        said = as_failure(error)
        how = f"{found.path} keeps the run, {found.progress}: go on with {found.how}, or start anew with --fresh"
        raise Failure(said.message, f"{said.hint}; {how}" if said.hint else how) from error


_BY_SIGNAL = 128
"""Exit codes above it are of processes that a signal ended."""


def _kept(output: Path) -> str:
    from edgespa.distributed.ranks import is_main

    if not is_main():  # which writes it, perhaps only now
        return ""
    found = _found(output)
    if found is None:
        return "nothing was kept, because nothing long had been done"
    return f"state saved in {found.path}, {found.progress}; go on with: {found.how}"


def _found(output: Path) -> Unfinished | None:
    from edgespa.errors import TaskFileError
    from edgespa.tasks.unfinished import Unfinished, state_path

    if not output.name:  # of no file, as is told elsewhere
        return None
    ctx = click.get_current_context(silent=True)
    path = state_path(output)
    if ctx is not None and typed_in(ctx) != Path.cwd():  # the user's shell is still there
        path = path.absolute()
    try:
        found = Unfinished.read(path)
    except TaskFileError:
        return None
    return found if found.has_work else None


def _is_state(file: str) -> bool:
    return file.endswith(_SUFFIX) or _state_of(file).is_file()


def _state_of(file: str) -> Path:
    """The state that is named, by itself or by the output that it will become."""
    from edgespa.tasks.unfinished import state_path

    path = Path(file)
    return path if file.endswith(_SUFFIX) else state_path(path)


def _is_given(raw: object) -> bool:
    return raw is not None and raw != () and raw != [] and type(raw).__name__ != "Sentinel"


def _as_typed(param: click.Parameter, raw: Any) -> list[str]:
    """A parameter as words of a command line."""
    if not _is_given(raw):
        return []
    values = list(raw) if isinstance(raw, list | tuple) else [raw]
    if not isinstance(param, click.Option):
        return [str(value) for value in values]
    if param.count:
        return [param.opts[0]] * int(raw)
    if param.is_flag:
        on = raw if isinstance(raw, bool) else str(raw).lower() in _YES[1:]
        return [param.opts[-1]] if on else list(param.secondary_opts[-1:])
    return [f"{max(param.opts, key=len)}={value}" for value in values]


def _same_path(given: object, here: Path, known: object, there: Path) -> bool:
    if not isinstance(given, str | Path) or not isinstance(known, str | Path):
        return False
    first, second = here / given, there / known
    return first.resolve() == second.resolve() and (isinstance(given, Path) or first.exists())


def _text(value: object) -> str:
    if value is None or value == ():
        return "nothing"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
