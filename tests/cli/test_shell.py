"""The shell around the commands: lazy imports, failures and exit statuses, logging, and the generated reference."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import shlex
import statistics
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edgespa import __version__
from edgespa.cli import main
from edgespa.cli._options import json_option
from edgespa.cli._output import emit_json
from edgespa.cli._shell import COMMANDS
from edgespa.errors import DataError, MissingExtraError

ROOT = Path(__file__).resolve().parents[2]
ALL_COMMANDS = [
    "compress",
    "search",
    "inspect",
    "adapt",
    "prune",
    "heal",
    "tasks",
    "calibration",
    "data",
    "export",
    "evaluate",
]
ALL_COMMANDS += ["verify", "sign", "pack", "unpack", "devices", "profile", "ship", "rollback", "status", "card"]
ALL_COMMANDS += ["report", "run", "demo", "init", "completion"]
HEAVY = ["torch", "numpy", "pydantic", "rich", "scipy", "sklearn", "PIL", "onnx", "onnxruntime", "logging.config"]
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("EDGESPA_")}

# Runs the command line and tells on stderr what was imported for it.
PROBE = """
import json, sys
from edgespa.cli import main
try:
    main(sys.argv[1:], prog_name="edgespa")
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def probe(*arguments: str) -> tuple[str, set[str]]:
    """What a command prints, and the modules that were imported for it."""
    command = [sys.executable, "-c", PROBE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=CLEAN, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(json.loads(done.stderr.splitlines()[-1]))


class TestHelp:
    def test_the_commands(self) -> None:
        assert list(COMMANDS) == ALL_COMMANDS

    @pytest.mark.parametrize("name", ALL_COMMANDS)
    def test_a_command_imports_only_itself(self, name: str) -> None:
        text, modules = probe(name, "--help")
        assert text.startswith(f"Usage: edgespa {name} ")
        assert modules.isdisjoint(HEAVY)
        public = {module for module in modules if module.startswith("edgespa.cli.") and "._" not in module}
        assert public == {f"edgespa.cli.{name}"}

    def test_the_whole_imports_no_weight(self) -> None:
        text, modules = probe("--help")
        assert modules.isdisjoint(HEAVY)
        lines = [line.split() for line in text.partition("Commands:")[2].splitlines() if line.strip()]
        # A name and a short help each, in the order of the table.
        assert [line[0] for line in lines if line[0] in ALL_COMMANDS] == ALL_COMMANDS
        assert all(len(line) > 2 for line in lines if line[0] in ALL_COMMANDS)

    @pytest.mark.parametrize("arguments", [["--version"], ["-h"]])
    def test_other_ways_are_light_too(self, arguments: list[str]) -> None:
        _, modules = probe(*arguments)
        assert modules.isdisjoint(HEAVY)

    @pytest.mark.more
    def test_takes_no_longer_than_three_times_the_import_of_click(self) -> None:
        def seconds(*command: str) -> float:
            """Of CPU time: what else the machine does is no fault."""
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=ROOT, env=CLEAN, timeout=60)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

        kinds = {"click": ("-c", "import click"), **{n: ("-m", "edgespa", n, "--help") for n in ALL_COMMANDS}}
        kinds["all"] = ("-m", "edgespa", "--help")
        # Taken in turn, so that a busy moment of the machine meets all of them; once before, to fill the caches. What
        # seems slow is measured again: beside other work a core does less in a second of its own, too.
        slow = dict.fromkeys(kinds, 0.0)
        for _ in range(4):
            some = {name: kinds[name] for name in kinds if name == "click" or name in slow}
            rounds = [{name: seconds(*command) for name, command in some.items()} for _ in range(4)][1:]
            click_only = statistics.median(each["click"] for each in rounds)
            best = {name: min(each[name] for each in rounds) for name in some}
            slow = {name: value / click_only for name, value in best.items() if value > 3 * click_only}
            if not slow:
                break
        assert slow == {}


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Runs ``edgespa boom ARGS`` with a body of the test's choice in place of a real command."""

    def run(body: Callable[[], object], *arguments: str, before: tuple[str, ...] = (), **env: str) -> Result:
        module = types.ModuleType("edgespa_made_up")

        @click.command(name="boom")
        @click.option("--size", type=int)
        @json_option()
        def command(size: int | None, as_json: bool) -> None:
            result = body()
            if as_json:
                emit_json(result)

        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "edgespa_made_up", module)
        monkeypatch.setattr(main, "table", {**COMMANDS, "boom": "edgespa_made_up"})
        return CliRunner(env=dict(env)).invoke(main, [*before, "boom", *arguments], prog_name="edgespa")

    for name in list(os.environ):
        if name.startswith("EDGESPA_"):
            monkeypatch.delenv(name)
    yield run
    assert logging.getLogger("edgespa").handlers == []


def raising(error: BaseException) -> Callable[[], object]:
    def body() -> object:
        raise error

    return body


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "lines"),
        [
            (
                DataError("d.zip: no classes", "give a folder per class"),
                ["d.zip: no classes", "give a folder per class"],
            ),
            (DataError("d.zip: no classes"), ["d.zip: no classes"]),
            (MissingExtraError("onnxsim", "onnx"), ["onnxsim is not installed", "[onnx]'"]),
            (
                OSError(errno.ENOSPC, "No space left on device", "a.spa"),
                ["a.spa: No space left on device", "free some"],
            ),
            (PermissionError(errno.EACCES, "Permission denied", "/x"), ["/x: Permission denied", "check who may"]),
            (FileNotFoundError(errno.ENOENT, "No such file", Path("y")), ["y: No such file", "check the path"]),
            (OSError(errno.EXDEV, "Cross-device link", "a", None, "b"), ["a -> b: Cross-device link"]),
            (OSError(errno.EBADF, "Bad file descriptor"), ["Bad file descriptor"]),
            (MemoryError(), ["out of memory", "smaller batches"]),
            (ValueError("first\nsecond"), ["internal error: ValueError: first", "--debug for the traceback"]),
            (AssertionError(), ["internal error: AssertionError", "--debug for the traceback"]),
            (OSError("no number"), ["internal error: OSError: no number", "--debug for the traceback"]),
            (EOFError("a short file"), ["internal error: EOFError: a short file", "--debug for the traceback"]),
        ],
    )
    def test_are_one_message_and_a_hint(
        self, invoke: Callable[..., Result], error: Exception, lines: list[str]
    ) -> None:
        result = invoke(raising(error), "--json")
        shown = result.stderr.splitlines()
        assert result.exit_code == 1
        assert result.stdout == ""
        assert [line.partition(": ")[0] for line in shown] == ["Error", "Hint"][: len(lines)]
        assert shown[0] == f"Error: {lines[0]}"
        assert all(part in line for part, line in zip(lines, shown, strict=True))

    @pytest.mark.parametrize("how", [{"before": ("--debug",)}, {"EDGESPA_DEBUG": "1"}])
    @pytest.mark.parametrize("error", [DataError("no classes", "make some"), KeyError("units")])
    def test_have_a_traceback_when_asked_for(
        self, invoke: Callable[..., Result], how: dict[str, object], error: Exception
    ) -> None:
        result = invoke(raising(error), **how)
        assert result.exit_code == 1
        assert "Traceback (most recent call last)" in result.stderr
        assert "in body" in result.stderr
        assert "run again with --debug" not in result.stderr
        assert "Traceback" not in invoke(raising(error)).stderr

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
    def test_an_interrupt_is_130_and_one_line(self, invoke: Callable[..., Result], error: BaseException) -> None:
        result = invoke(raising(error))
        assert (result.exit_code, result.stdout, result.stderr) == (130, "", "Interrupted\n")

    def test_an_interrupt_says_what_was_saved(self, invoke: Callable[..., Result]) -> None:
        result = invoke(raising(KeyboardInterrupt("state saved in a.partial")))
        assert result.stderr == "Interrupted; state saved in a.partial\n"

    @pytest.mark.parametrize("arguments", [["--size", "many"], ["--sise", "1"], ["extra"]])
    def test_usage_is_2(self, invoke: Callable[..., Result], arguments: list[str]) -> None:
        result = invoke(lambda: None, *arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith("Usage: edgespa boom")

    def test_a_mistyped_command_is_answered_with_the_nearest(self) -> None:
        result = CliRunner().invoke(main, ["profil"], prog_name="edgespa")
        assert result.exit_code == 2
        assert "No such command 'profil'. Did you mean 'profile'?" in result.stderr
        result = CliRunner().invoke(main, ["xyzzy"], prog_name="edgespa")
        assert result.exit_code == 2
        assert "Commands: compress, search, inspect," in result.stderr

    def test_a_command_that_cannot_be_imported_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(main, "table", {"broken": "edgespa.no_such_module"})
        for arguments in (["broken"], ["--help"]):
            result = CliRunner().invoke(main, arguments, prog_name="edgespa")
            assert result.exit_code == 1
            assert result.stderr.startswith("Error: internal error: ModuleNotFoundError")

    def test_a_closed_pipe_is_quiet(self, invoke: Callable[..., Result]) -> None:
        result = invoke(raising(BrokenPipeError(errno.EPIPE, "Broken pipe")))
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", "")

    def test_a_command_that_works_is_0(self, invoke: Callable[..., Result]) -> None:
        result = invoke(lambda: {"shape": (1, 3)}, "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        assert json.loads(result.stdout) == {"shape": [1, 3]}


class TestGlobalOptions:
    def test_waiting_threads_give_up_their_core(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for policy, expected in ((None, "3000"), ("ACTIVE", None)):
            monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
            monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
            if policy:
                monkeypatch.setenv("OMP_WAIT_POLICY", policy)
            CliRunner().invoke(main, ["verify", "nowhere"])
            assert os.environ.get("GOMP_SPINCOUNT") == expected
        monkeypatch.setenv("GOMP_SPINCOUNT", "7")
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        CliRunner().invoke(main, ["verify", "nowhere"])
        assert os.environ["GOMP_SPINCOUNT"] == "7"

    def test_version(self) -> None:
        result = CliRunner().invoke(main, ["--version"])
        assert (result.exit_code, result.stdout) == (0, f"edgespa {__version__}\n")

    def test_version_is_not_taken_from_the_environment(self, invoke: Callable[..., Result]) -> None:
        assert invoke(lambda: 1, "--json", EDGESPA_VERSION="1").stdout == "1\n"

    def test_options_of_commands_have_environment_variables(self, invoke: Callable[..., Result]) -> None:
        assert invoke(lambda: None, EDGESPA_BOOM_SIZE="many").exit_code == 2
        assert invoke(lambda: None, EDGESPA_BOOM_SIZE="3").exit_code == 0

    @pytest.mark.parametrize(("flags", "shown"), [((), "w"), (("-v",), "iw"), (("-vv",), "diw")])
    def test_verbose_logs_to_stderr(self, invoke: Callable[..., Result], flags: tuple[str, ...], shown: str) -> None:
        def body() -> object:
            logger = logging.getLogger("edgespa.graph.trace")
            logger.debug("message d")
            logger.info("message i")
            logger.warning("message w")
            return None

        result = invoke(body, "--json", before=flags)
        assert result.stdout == "null\n"
        assert [line[-1] for line in result.stderr.splitlines()] == list(shown)
        assert all("message" in line for line in result.stderr.splitlines())

    def test_warnings_of_libraries_are_shown_only_with_verbose(
        self, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "warnoptions", [])
        heard: list[str] = []

        def body() -> object:
            warnings.warn("old", DeprecationWarning, stacklevel=1)
            heard.append("went on")
            return None

        assert invoke(body).exit_code == 0
        assert heard == ["went on"]
        # Outside, and with -v, the rules are those of the caller: here pytest's, where a warning is an error.
        with pytest.raises(DeprecationWarning):
            body()
        assert "DeprecationWarning" in invoke(body, before=("-v",)).stderr


class TestReference:
    def test_is_up_to_date(self) -> None:
        """In a process of its own: click keeps help options that tests have asked single commands for."""
        # Neither the terminal nor the environment may change it.
        other = {**CLEAN, "COLUMNS": "40", "EDGESPA_VERIFY_THREADS": "9"}
        script = [sys.executable, str(ROOT / "docs" / "make_reference.py"), "--check"]
        done = subprocess.run(script, env=other, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        text = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
        assert all(f"## edgespa {name}\n" in text for name in ALL_COMMANDS)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_opened_to_nobody(tmp_path: Path, closed: str) -> None:
    """Else the file that is written next has their number, and a line that is printed goes into it."""
    code = (
        "import os, sys; from edgespa.cli import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n    pass\n"
        "file = os.open('out', os.O_CREAT | os.O_WRONLY); print('said'); print('said', file=sys.stderr)\n"
        "sys.stdout.flush(); sys.stderr.flush(); sys.stdin.read(0); os.write(file, b'written'); sys.exit(file < 3)"
    )
    shell = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} {closed}"
    done = subprocess.run(["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_text() == "written"


def test_from_a_folder_that_is_gone(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("edgespa")
    shell = f"mkdir gone && cd gone && rmdir ../gone && exec {shlex.quote(str(program))} --version"
    done = subprocess.run(["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
