"""What the pages for people and programs that carry on name is there: files, make targets, tools, commands."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from typed import commands_in, problem_of

from edgespa.cli import main

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))
PAGES = [ROOT / name for name in ("CONTRIBUTING.md", "AGENTS.md", "llms.txt")] + TEMPLATES
# What is made, or lies with the user.
ELSEWHERE = (".venv", "~")


def code_of(text: str) -> Iterator[str]:
    """Every span of code, and every line of a block of code without its comment."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from (line.partition(" #")[0].strip().removeprefix("$ ") for line in block.splitlines())
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def missing_in(text: str) -> list[str]:
    """What a page names and the repository lacks."""
    missing = []
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tools = {re.split(r"[>=<]", each)[0] for each in project["optional-dependencies"]["dev"]} | {"python", "edgespa"}
    for link in re.findall(r"\]\(([^)#]+)", text):
        missing += [] if ":" in link or (ROOT / link).exists() else [link]
    for code in filter(None, code_of(text)):
        words = code.split()
        if words[0] == "make" and len(words) > 1:
            missing += [] if words[1] in targets else [code]
        elif words[0].startswith(".venv/bin/"):
            missing += [] if words[0].removeprefix(".venv/bin/") in tools else [code]
        for word in words:
            path = re.split(r"[:{*]", word)[0]
            looks = re.fullmatch(r"\.?[\w./-]+(/|\.(py|md|toml|txt))|\.ci/\w+", path)
            if looks and not path.startswith(ELSEWHERE) and not any(found.exists() for found in places(path)):
                missing.append(path)
        for typed in commands_in(re.sub(r"^edgespa --\w+ ", "edgespa ", code).replace("...", "MODEL")):
            missing += [f"edgespa {shlex.join(typed)}: {why}" for why in [problem_of(typed)] if why]
    return missing


def places(path: str) -> list[Path]:
    """Where a name may stand for: from the root, or a rule's file in its room."""
    return [ROOT / path, ROOT / "edgespa" / "graph" / "rules" / path]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_named_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert missing_in(text) == []
    assert len(list(code_of(text))) > 1 or page.suffix == ".txt"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("run `make demo`, then `make dinner`", ["make dinner"]),
        ("see `edgespa/errors.py` and `edgespa/mistakes.py`", ["edgespa/mistakes.py"]),
        ("[a](README.md), [b](docs/nowhere.md)", ["docs/nowhere.md"]),
        ("```sh\n.venv/bin/mypy\n.venv/bin/pylint edgespa/  # all\n```\n", [".venv/bin/pylint edgespa/"]),
        ("`edgespa verify BUNDLE --no-run`, `edgespa verify BUNDLE --sideways`", ["--sideways"]),
        ("in `tests/nothing/` and `.ci/run`, `.ci/walk`", ["tests/nothing/", ".ci/walk"]),
    ],
)
def test_what_is_not_there_is_seen(text: str, named: list[str]) -> None:
    found = missing_in(text)
    assert len(found) == len(named)
    assert all(name in each for name, each in zip(named, found, strict=True))


def test_every_extension_that_can_be_added_is_described() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    head = "## How to add..."
    described = re.findall(r"^\*\*(An? [^*]+)\.?\*\*", text[text.index(head) :], re.MULTILINE)
    wanted = (
        "rule",
        "adapter",
        "criterion",
        "objective",
        "format",
        "augmentation",
        "kind of detector",
        "device",
        "runtime",
        "command",
        "option",
    )
    for name, found in zip(wanted, described, strict=True):
        assert name in found
    for part in re.split(r"^\*\*An? ", text[text.index(head) :], flags=re.MULTILINE)[1:]:
        assert re.search(r"`tests/", part), part


def test_commands_that_give_a_result_take_json() -> None:
    def leaves(command: click.Command) -> Iterator[click.Command]:
        if not isinstance(command, click.Group):
            yield command
            return
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from leaves(inner)

    for command in leaves(main):
        assert any("--json" in param.opts for param in command.params), command.name
