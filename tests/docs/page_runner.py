"""Runs the blocks of a page one after the other, in a folder of its own, as somebody who reads it would type them."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner
from page_blocks import Block
from typed import problem_of

from edgespa.api.project import read_project
from edgespa.api.recipes import read_recipe
from edgespa.api.sweep_file import read_sweep
from edgespa.cli import main
from edgespa.cli._recipes import words_of
from edgespa.device import load_device

_OPERATORS = re.compile(r"[|&;<>$`*~]|\b(for|while|if)\b")


def shorter(words: list[str]) -> dict[str, str]:
    """How long a command learns where a page does not say it: the stand-ins have nothing to learn."""
    found = {"EDGESPA_ADAPT_EPOCHS": "3", "EDGESPA_HEAL_STEPS": "6", "EDGESPA_COMPRESS_HEAL_STEPS": "6"}
    return {**found, "EDGESPA_PRUNE_HEAL_STEPS": "6"} if "--heal" in words else found


def lines_of(text: str) -> list[str]:
    """The lines of a shell block as they are typed: joined where one goes on, without comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line for line in (_bare(line) for line in joined.splitlines()) if line]


def _bare(line: str) -> str:
    quoted = re.compile(r"""\s+#(?=(?:[^'"]|'[^']*'|"[^"]*")*$).*""")
    return "" if line.lstrip().startswith("#") else quoted.sub("", line).strip()


def problems_of_shell(text: str) -> list[str]:
    """What could not be typed of a block that is not run: each of its commands of edgespa is parsed."""
    problems = []
    for line in lines_of(text):
        match = re.search(r"(?:^|\s|-m )edgespa (.*)", line)
        if match and (why := problem_of([word for word in shlex.split(match[1]) if word != "..."])):
            sketch = "..." in match[1] and "Missing" in why
            problems += [] if sketch else [f"{line}: {why}"]
    return problems


def problem_of_toml(text: str, folder: Path) -> str | None:
    """What is wrong with a TOML block: a project's file, a recipe, a sweep, a device's profile, or entry points."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return str(error)
    path = folder / "block.toml"
    path.write_text(text, encoding="utf-8")
    if values.keys() == {"tasks"}:  # of a sweep, whose base was said above
        path.write_text(f"version = 1\nbase.model = 'net.py:build'\n{text}", encoding="utf-8")
    try:
        if "version" in values and "model" in values:
            read_project(path)
        elif "tasks" in values:
            read_sweep(path)
        elif "version" in values:
            for step in read_recipe(path).steps:
                command = main.get_command(click.Context(main), step.command)
                assert command is not None
                command.make_context(step.command, words_of(step, command))
        elif values.keys() & {"extends", "connection"}:
            load_device(str(path))
        elif values.keys() != {"project"}:
            return "it is neither a recipe, nor a profile, nor a part of pyproject.toml"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        path.unlink()
    return None


class Reader:
    """Somebody who follows a page.

    Args:
        folder: Where they are: empty, or with what the page takes for granted.
        prepare: Called before each block with its text: what it names is put there.
    """

    def __init__(self, folder: Path, prepare: Callable[[str, Path], None] = lambda *_: None) -> None:
        self.folder = folder
        self._prepare = prepare
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._shell = folder.with_name(f"{folder.name}.state")
        self._kept = folder.with_name(f"{folder.name}.cwd")

    def follow(self, block: Block) -> str | None:
        """Do what a block says.

        Returns:
            What went wrong; None where nothing did.
        """
        where = self.folder / block.marks.get("run in", ".")
        self._prepare(block.marks.get("run in", ""), self.folder)
        self._prepare(block.text, where)
        if block.file is not None:
            path = where / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            if block.language == "toml":
                problem = problem_of_toml(block.text, path.parent)
                if problem:
                    return problem
            else:
                compile(block.text, block.place, "exec")
            path.write_text(block.text, encoding="utf-8")
            return None
        with contextlib.chdir(where):
            if block.language == "toml":
                return problem_of_toml(block.text, where)
            return self._python(block) if block.language == "python" else self._sh(block)

    def _python(self, block: Block) -> str | None:
        self._names["__file__"] = block.place
        before = list(sys.path)
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("default")
                exec(compile(block.text, block.place, "exec"), self._names)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            sys.path[:] = before
        return None

    def _sh(self, block: Block) -> str | None:
        lines = lines_of(block.text)
        if self._shell.exists() or not all(_is_plain(line) for line in lines):
            return self._bash(block.text)
        for line in lines:
            words = shlex.split(line)
            problem = self._edgespa(words[1:]) if words[0] == "edgespa" else self._bash(line)
            if problem:
                return f"{line}\n{problem}"
        return None

    def _edgespa(self, words: list[str]) -> str | None:
        done = CliRunner().invoke(main, words, env=shorter(words))
        said = f"{done.stdout}{done.stderr}"
        if done.exit_code == 0 and "Traceback" not in said:
            return None
        return f"exit status {done.exit_code}: {said[-2000:]}"

    def _bash(self, text: str) -> str | None:
        """In a shell that has what earlier blocks exported, where they went."""
        own = Path(sys.executable).parent
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{own}{os.pathsep}{os.environ['PATH']}"}
        state, cwd = shlex.quote(str(self._shell)), shlex.quote(str(self._kept))
        begin = f'[ ! -f {state} ] || {{ . {state}; cd "$(cat {cwd})"; }}\n'
        keeps = re.search(r"^\s*(export|cd)\b", text, re.MULTILINE)
        end = f"\nexport -p > {state}; pwd > {cwd}\n" if keeps else ""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{begin}{text}\n{end}"],
            env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        said = f"{done.stdout}{done.stderr}"
        return f"exit status {done.returncode}: {said[-2000:]}" if done.returncode or "Traceback" in said else None


def _is_plain(line: str) -> bool:
    """Whether a line is one program and its words, and one that can be started by itself."""
    return not _OPERATORS.search(line) and line.split()[0] in ("edgespa", "python", "python3")
