"""Pages for readers: messages that they quote, options, fields and files that they name are those of the product."""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from edgespa.bundle.manifest import Manifest
from edgespa.bundle.variant import Variant
from edgespa.cli import main
from edgespa.config import Preprocess
from edgespa.device.measure.results import VariantProfile

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = [
    DOCS / f"{name}.md"
    for name in (
        "tutorial/raspberry-pi", "how-to/choose", "how-to/ci", "how-to/jetson", "how-to/trust", "how-to/many-tasks",
        "how-to/extend", "how-to/not-faster", "how-to/segmentation", "how-to/without-run-py", "how-to/camera",
        "how-to/troubleshooting", "reference/systems", "explanation/latency", "explanation/one-base",
        "explanation/healing", "explanation/laws", "explanation/other-tools",
    )
]  # fmt: skip
OTHERS = {"--version", "--python", "--debug", "--address", "--resources"}
OTHERS |= {"--no", "--fp16", "--int8", "--expose", "--use"}  # of trtexec: --noTF32, as far as its small letters go
"""Of no command, or of other programs."""


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(name), re.MULTILINE | re.DOTALL)


def quoted(name: str) -> list[str]:
    """The messages and hints in blocks of what is printed."""
    found = re.findall(r"^```(?:text)?\n(.*?)^```$", text_of(name), re.MULTILINE | re.DOTALL)
    lines = [line for block in found for line in block.splitlines()]
    return [line.split(": ", 1)[1] for line in lines if line.startswith(("Error: ", "Hint: "))]


@pytest.fixture(scope="module")
def said() -> list[tuple[re.Pattern[str], int]]:
    """What the source may print, with anything where a value stands; and how many letters are its own."""
    found = {}
    for path in sorted((DOCS.parent / "edgespa").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(each.value) if isinstance(each, ast.Constant) else None for each in node.values]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node.value]
            else:
                continue
            found["".join(".*" if part is None else re.escape(part) for part in parts)] = letters(
                "".join(filter(None, parts))
            )
    first = {pattern.split("\\\n")[0]: own for pattern, own in found.items()}  # of several lines
    return [(re.compile(pattern, re.DOTALL), own) for pattern, own in {**first, **found}.items() if own]


def letters(text: str) -> int:
    return len(re.findall(r"[A-Za-z]", text))


def is_said(message: str, said: list[tuple[re.Pattern[str], int]]) -> bool:
    """Whether most of a message, names aside, is one text of the source; details may follow ': '."""
    heads = [message[: match.end()] for match in re.finditer(": ", message) if letters(message[: match.start()]) > 4]
    for head in (message, *heads):
        bare = re.sub(r"\(.*\)|'[^']*'|\S*[/=]\S*|\S+\.(py|pth|md|spa)\S*", "", head)
        least = max(letters(bare) * 3 // 5, min(12, letters(bare)), 5)
        if any(own >= least and pattern.fullmatch(head) for pattern, own in said):
            return True
    return False


@pytest.mark.parametrize("page", ["how-to/troubleshooting.md", "how-to/bring-a-model.md"])
def test_messages_that_are_quoted_are_in_the_source(page: str, said: list[tuple[re.Pattern[str], int]]) -> None:
    found = quoted(page)
    assert len(found) >= 2
    assert [message for message in found if not is_said(message, said)] == []


@pytest.mark.parametrize(
    "message",
    ["what net.py wants to be given is unclear", "there is no gadget 'pi4'", "pass --input-sizes, such as 1,3"],
)
def test_messages_that_are_not_in_the_source_are_seen(message: str, said: list[tuple[re.Pattern[str], int]]) -> None:
    assert not is_said(message, said)


def all_options(command: click.Command) -> Iterator[str]:
    yield from (name for param in command.params for name in (*param.opts, *param.secondary_opts))
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from all_options(inner)


def test_options_that_are_named_exist() -> None:
    known = {*all_options(main), *OTHERS}
    for page in PAGES:
        spans = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
        named = {word for span in spans for word in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", span)}
        assert named <= known, (page.name, named - known)


def fields(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def test_fields_that_are_read_by_hand_are_those_of_the_manifest() -> None:
    text = text_of("how-to/without-run-py.md")
    manifest, variant = set(re.findall(r'manifest\["(\w+)"\]', text)), set(re.findall(r'variant\["(\w+)"\]', text))
    assert {"preprocessing", "variants"} <= manifest <= fields(Manifest)
    assert {"file", "parts", "inputs", "preprocess"} <= variant <= fields(Variant)
    assert set(re.findall(r'preprocessing\["(\w+)"\]', text)) <= fields(Preprocess)
    row = next(line for line in text.splitlines() if line.startswith("| from an image to the input |"))
    named = set(re.findall(r"`(\w+)`", row)) - {"preprocessing"}
    assert named == fields(Preprocess) - {"background"}
    assert set(re.findall(r"`variants\[i\]\.(\w+)`", text)) <= fields(Variant)


def test_the_budget_reads_what_there_is() -> None:
    page = text_of("how-to/ci.md")
    assert set(re.findall(r'variant\["(\w+)"\]', page)) <= fields(Variant)
    read = set(re.findall(r'row\["(\w+)"\]', page))
    assert {"variant", "p50_ms"} <= read <= {*fields(VariantProfile), *VariantProfile.model_computed_fields}


def test_the_workflow_is_one() -> None:
    (text,) = blocks("how-to/ci.md", "yaml")
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs["ship"]["needs"] in jobs
    for job in jobs.values():
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])


def test_the_unit_is_one() -> None:
    (text,) = blocks("how-to/camera.md", "ini")
    unit = configparser.ConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    assert unit["Service"]["ExecStart"].endswith("current picamera")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]+`", "code", text)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            heads = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
            assert anchor in slugs, link
    assert f"{page.parent.name}/{page.name}" in text_of("README.md")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "skip"])
def test_figures_are_what_their_command_draws(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DOCS.parent)
    (line,) = re.findall(
        rf"^edgespa (inspect .*) --svg {name}\.svg$", text_of("explanation/channel-groups.md"), re.MULTILINE
    )
    done = CliRunner().invoke(main, [*line.split(), "--svg", str(tmp_path / "drawn.svg")])
    assert done.exit_code == 0, done.output
    drawn = (tmp_path / "drawn.svg").read_bytes()
    assert drawn == (DOCS / "figures" / f"{name}.svg").read_bytes()
    assert len(drawn) < 60_000
