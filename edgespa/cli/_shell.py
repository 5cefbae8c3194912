"""The ``edgespa`` command: a table of commands, each imported when it is named, and what holds for all of them."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import click

from edgespa.cli._failures import reported
from edgespa.cli._help import ExplainedGroup
from edgespa.cli._said import said
from edgespa.cli._sections import MAIN_EXAMPLES
from edgespa.cli._terminal import echo, harmless

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "compress": "edgespa.cli.compress",
        "search": "edgespa.cli.search",
        "inspect": "edgespa.cli.inspect",
        "adapt": "edgespa.cli.adapt",
        "prune": "edgespa.cli.prune",
        "heal": "edgespa.cli.heal",
        "tasks": "edgespa.cli.tasks",
        "calibration": "edgespa.cli.calibration",
        "data": "edgespa.cli.data",
        "export": "edgespa.cli.export",
        "evaluate": "edgespa.cli.evaluate",
        "verify": "edgespa.cli.verify",
        "sign": "edgespa.cli.sign",
        "pack": "edgespa.cli.pack",
        "unpack": "edgespa.cli.unpack",
        "devices": "edgespa.cli.devices",
        "profile": "edgespa.cli.profile",
        "ship": "edgespa.cli.ship",
        "rollback": "edgespa.cli.rollback",
        "status": "edgespa.cli.status",
        "card": "edgespa.cli.card",
        "report": "edgespa.cli.report",
        "run": "edgespa.cli.run",
        "demo": "edgespa.cli.demo",
        "init": "edgespa.cli.init",
        "completion": "edgespa.cli.completion",
    }
)
"""Command -> the module that defines it as ``command``, in the order of the help."""


def _require_readable_paths(args: Sequence[str]) -> None:
    """Say that it is the locale where names of files are read as ASCII: libraries would be given other paths.

    Raises:
        ConfigError: One of the arguments, or the current folder, has other letters.
    """
    encoding = sys.getfilesystemencoding()
    if encoding.replace("-", "").lower() == "utf8":
        return
    with contextlib.suppress(OSError):
        args = [*args, os.getcwd()]
    if any("\udc80" <= letter <= "\udcff" for each in args for letter in each):
        from edgespa.errors import ConfigError

        raise ConfigError(
            f"names of files are read as {encoding} here, by LC_ALL or PYTHONUTF8, and one has other letters",
            "set LC_ALL=C.UTF-8, or PYTHONUTF8=1",
        )


class Shell(ExplainedGroup):
    """A group whose commands are imported when they are asked for, and whose failures are reported.

    Args:
        name: As `click.Group`.
        table: Command -> module that has it as ``command``.
        **attrs: As `click.Group`.
    """

    def __init__(self, name: str | None = None, *, table: Mapping[str, str] = COMMANDS, **attrs: object) -> None:
        super().__init__(name, **attrs)  # type: ignore[arg-type]  # click's own keywords, passed on
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the table; nothing is imported.

        Args:
            ctx: Not used.
        """
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command.

        Args:
            ctx: Not used.
            cmd_name: As typed.

        Returns:
            The command, None where there is none of that name.
        """
        path = self.table.get(cmd_name)
        if path is None:
            return None
        command: click.Command = importlib.import_module(path).command
        _take_global_options(command)
        if COMPLETE in os.environ:
            from edgespa.cli._completing import fit

            fit(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, but a mistyped command is answered with the nearest one.

        Args:
            ctx: Of the group.
            args: What is left of the command line.

        Raises:
            click.UsageError: There is no such command.
        """
        if args[0] not in self.table and not ctx.resilient_parsing and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], self.table, n=1)
            more = f"Did you mean '{near[0]}'?" if near else f"Commands: {', '.join(self.table)}."
            ctx.fail(f"No such command '{args[0]}'. {more}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the global options; ``--help`` is answered here too, and imports every command.

        Args:
            ctx: Of the group.
            args: The command line.
        """
        ctx.meta[_LINE] = tuple(args)
        with reported(lambda: _debug(ctx)):
            _require_readable_paths(args)
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command and report its failure.

        Args:
            ctx: Of the group.
        """
        from edgespa.api.shell import adding

        with reported(lambda: _debug(ctx), ctx.meta.get(_LINE, ())), adding(lines=True):
            return super().invoke(ctx)

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click; what it calls the program is what to type here, and completion is one however it is started.

        Args:
            *args: As click.
            **extra: As click.
        """
        from edgespa.system.started import program

        _open_what_is_closed()
        if len(args) < 2 and extra.get("prog_name") is None:
            extra = {**extra, "prog_name": program(), "complete_var": COMPLETE}
            if COMPLETE in os.environ:
                from click.shell_completion import add_completion_class

                from edgespa.cli._completing import Bash

                add_completion_class(Bash)
        return super().main(*args, **extra)


def _open_what_is_closed() -> None:
    """Give streams that were closed (``>&-``, some services) to nobody.

    Else the next file takes their number and gets what is printed, and libraries write to what is not there.
    """
    for number, name, mode in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            if (opened := os.open(os.devnull, mode)) != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            how = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, how, encoding="utf-8", closefd=False))  # noqa: SIM115  # to the end


COMPLETE = "_EDGESPA_COMPLETE"
"""The variable by which a shell asks what may come next."""
_LINE = "edgespa.line"
_LOUDER = "edgespa.louder"


def _take_global_options(command: click.Command) -> None:
    """Let a command, and those below it, take the options of the program itself behind its name, unlisted."""
    if any(param.name == "debug" for param in command.params):
        return
    options = {"expose_value": False, "hidden": True, "is_eager": True, "allow_from_autoenv": False}
    command.params += [
        click.Option(["-v", "--verbose"], count=True, callback=_more_verbose, **options),  # type: ignore[arg-type]
        click.Option(["-q", "--quiet"], is_flag=True, callback=_quiet_too, **options),  # type: ignore[arg-type]
        click.Option(["--no-project"], is_flag=True, **options),  # type: ignore[arg-type]  # read before: `_project`
        click.Option(["--debug"], is_flag=True, callback=_debug_too, **options),  # type: ignore[arg-type]
    ]
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _take_global_options(inner)


def _more_verbose(ctx: click.Context, param: click.Parameter, value: int) -> None:
    root = ctx.find_root()
    if value and not ctx.resilient_parsing and _LOUDER in root.meta:
        root.meta[_LOUDER](value)


def _quiet_too(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    root = ctx.find_root()
    if value and not ctx.resilient_parsing:
        root.params["quiet"] = True
        if _LOUDER in root.meta:
            root.meta[_LOUDER](0)


def _debug_too(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().params["debug"] = True


def _debug(ctx: click.Context) -> bool:
    return bool(ctx.params.get("debug"))


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from edgespa import __version__

    echo(f"edgespa {__version__}")
    ctx.exit()


def _set_up_logging(ctx: click.Context, verbose: int) -> None:
    """Log to stderr while the context lives: warnings and notes; with -v progress too; with -vv everything.

    With --quiet warnings alone.

    Python warnings come from other libraries (edgespa logs its own): shown with -v, or as ``python -W`` says.
    """
    import logging
    import warnings

    from edgespa.system.quiet import NOTE

    class Echo(logging.Handler):
        # Whatever stderr is now: a progress bar takes its place, and moves itself for what is written. `click.echo`
        # would write past it, behind the bar's own words.
        def emit(self, record: logging.LogRecord) -> None:
            text = harmless(said(self.format(record)))
            if sys.stderr is not None:
                with contextlib.suppress(OSError):
                    sys.stderr.write(f"{text}\n")
                    sys.stderr.flush()

    handler = Echo()
    logger = logging.getLogger("edgespa")
    before = logger.level
    logger.addHandler(handler)

    def set_level(verbose: int) -> None:
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s" if verbose < 2 else _LONG_FORMAT))
        least = logging.WARNING if ctx.params.get("quiet") else NOTE
        logger.setLevel((least, logging.INFO, logging.DEBUG)[min(verbose, 2)])

    def restore() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    set_level(verbose)
    ctx.call_on_close(restore)
    quietened = contextlib.ExitStack()
    ctx.call_on_close(quietened.close)
    if not verbose and not sys.warnoptions:
        quietened.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")

    def more(added: int) -> None:
        set_level(verbose + added)
        if added:
            quietened.close()

    ctx.meta[_LOUDER] = more


_LONG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@click.group(
    cls=Shell,
    examples=MAIN_EXAMPLES,
    context_settings={
        "auto_envvar_prefix": "EDGESPA",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.option("--debug", is_flag=True, is_eager=True, help="Show the traceback of an error.")
@click.option("-v", "--verbose", count=True, help="Log to stderr what is done; twice: everything.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing but results and errors: no progress, no notes.")
@click.option("--no-project", is_flag=True, help="Take nothing from the edgespa.toml of this folder.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def main(ctx: click.Context, debug: bool, verbose: int, quiet: bool, no_project: bool) -> None:
    """Small, fast, proved-correct per-task vision models for edge devices.

    MODEL is path/file.py:factory, package.module:factory, torchvision:name, timm:name, hf:name-or-folder, or a .pt2
    or .onnx file. DATA is PATH[:SPLIT]: an image folder with a folder per class (also inside a zip), a folder of idx
    files, an .npz, or module:callable.

    Every option can be set by an environment variable, EDGESPA_DEBUG=1, EDGESPA_ADAPT_EPOCHS=5, and for a project in
    its edgespa.toml: see edgespa init. Results go to stdout, all else to stderr. Exit status: 0 done, 1 could not, 2
    wrong usage, 130 interrupted.
    """
    _share_the_machine()
    _end_in_order(ctx)
    _set_up_logging(ctx, verbose)


def _end_in_order(ctx: click.Context) -> None:
    """Let a request to end (SIGTERM, a closed terminal) clean up as Ctrl-C does, instead of leaving half of a file."""
    if threading.current_thread() is not threading.main_thread():
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Only where nobody has decided otherwise: nohup ignores the second.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
            ctx.call_on_close(partial(signal.signal, number, signal.SIG_DFL))


def _share_the_machine() -> None:
    """Let threads that wait for each other give up their core soon; read by GNU OpenMP when torch is loaded.

    On two cores beside two busy processes a training step had stalls of up to 3 s; with this it took 0.2 s at most. On
    an idle machine it makes no difference (34 against 36 ms).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
