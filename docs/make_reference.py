"""Write docs/reference: cli.md from the help of every command, python.md from docstrings, errors.md from the source.

json.md and json/ are from the types of what commands print with ``--json``.

``--check`` only says whether they are up to date.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from error_messages import HOLE, Said, Source

import edgespa
from edgespa.cli import main

FOLDER = Path(__file__).resolve().parent / "reference"
WIDTH = 100
_HEAD = """\
# Command line

Written by `make docs` from the commands' own help: change that, not this page.
"""


def render(group: click.Group = main) -> str:
    """Build the page.

    Args:
        group: The command line.

    Returns:
        Markdown; the same on every machine, whatever its terminal and environment.
    """
    root = _context(group, "edgespa", None)
    sections = [_HEAD, _section(root)]
    for name in group.list_commands(root):
        command = group.get_command(root, name)
        if command is None:
            raise LookupError(f"{name} is listed but is no command")
        sections += [_section(context) for context in _walk(command, name, root)]
    return "\n".join(sections)


def _walk(command: click.Command, name: str, parent: click.Context) -> Iterator[click.Context]:
    context = _context(command, name, parent)
    yield context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from _walk(found, child, context)


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    # A fixed width, and no environment variables: the page must not depend on who writes it.
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    return click.Context(command, info_name=name, parent=parent, **settings)


def _section(context: click.Context) -> str:
    level = "##" if context.parent is None or context.parent.parent is None else "###"
    text = "\n".join(line.rstrip() for line in context.get_help().splitlines())
    return f"{level} {context.command_path}\n\n```text\n{text}\n```\n"


_SIGNATURE = "<!-- not run: a signature -->\n\n"  # see tests/docs/page_blocks.py
_PYTHON = """\
# Python

Written by `make docs` from the docstrings: change those, not this page. What may change is said on the page about
[stability](stability.md).

```python
import edgespa as es
```

"""


def render_python() -> str:
    """Build the page of the public interface.

    Returns:
        Markdown: functions, then what they give, then the error.
    """
    found = {name: getattr(edgespa, name) for name in edgespa.__all__}
    functions = [name for name, each in found.items() if inspect.isfunction(each)]
    classes = [name for name in found if name not in functions]
    parts = [f"`{name}`" for name in functions]
    head = f"{_PYTHON}Calls: {', '.join(parts)}. What they give: {', '.join(f'`{name}`' for name in classes)}.\n"
    return "\n".join(
        [head, *(_function(name, found[name]) for name in functions), *(_class(name, found[name]) for name in classes)]
    )


def _function(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    lines, star = [], False
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and not star:
            lines.append("*")
            star = True
        lines.append(str(each))
    arguments = "".join(f"    {line},\n" for line in lines)
    text = f"{name}(\n{arguments}) -> {signature.return_annotation}"
    return f"## {name}\n\n{_SIGNATURE}```python\n{text}\n```\n\n```text\n{inspect.getdoc(function)}\n```\n"


def _class(name: str, kind: type) -> str:
    own = [
        f"{member}: {(inspect.getdoc(each) or '').splitlines()[0]}"
        for member, each in inspect.getmembers(kind)
        if not member.startswith("_") and (inspect.isfunction(each) or isinstance(each, property))
    ]
    methods = "".join(f"- {line}\n" for line in own)
    return f"## {name}\n\n```text\n{inspect.getdoc(kind)}\n```\n\n{methods}"


_JSON = """\
# JSON

Written by `make docs` from the types in `edgespa/api/documents.py`: change those, not this page. What each command
prints to stdout with `--json`, and nothing else; all that is said besides goes to stderr, and the exit status says
whether it was done. Numbers that are not finite are null. The schemas (JSON Schema, draft 2020-12) have each key of
what lies inside. A key that goes, or means something else, is a new version; a new key is not. This is version
{version}.

With `--dry-run` every command prints `done` (false), `command` and `asked`: what would be done, by the keys of a
recipe.
"""


def render_json() -> dict[str, str]:
    """Build the page of what commands print as JSON, and the schema of each.

    Returns:
        Names of files below the folder -> content.
    """
    from edgespa.api.documents import DOCUMENTS, VERSION, schema

    parts, files = [_JSON.format(version=VERSION)], {}
    for command in DOCUMENTS:
        found = schema(command)
        file = f"json/{command.replace(' ', '-')}.json"
        files[file] = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        parts.append(f"## {command}\n\n[Schema]({file}).\n")
        parts += [text for each in _alternatives(found) if (text := _keys(each, found))]
    return {"json.md": "\n".join(parts), **files}


def _alternatives(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(each) for each in found.get("anyOf", [found])]


def _keys(part: dict[str, Any], whole: dict[str, Any]) -> str:
    """A list of the keys of a document: with what they are, and what of a list."""
    listed = part.get("type") == "array"
    inner = part["items"] if listed else part
    if "$ref" in inner:
        inner = whole["$defs"][inner["$ref"].rpartition("/")[2]]
    what = str(inner.get("description", "")).partition("\n")[0].strip()
    required = inner.get("required", [])
    lines = [f"{'A list, of each' if listed else 'One document'}: {what}", ""]
    for name, each in inner.get("properties", {}).items():
        lines.append(f"- `{name}`: {_kind(each)}{'' if name in required else ', may be absent'}")
    return "\n".join([*lines, ""])


def _kind(each: dict[str, Any]) -> str:
    if "anyOf" in each:
        return " or ".join(dict.fromkeys(_kind(one) for one in each["anyOf"]))
    if "$ref" in each:
        return str(each["$ref"].rpartition("/")[2])
    if each.get("type") == "array":
        return f"list of {_kind(each['items'])}" if each.get("items") else "list"
    if "enum" in each or "const" in each:
        return " or ".join(json.dumps(one) for one in each.get("enum", [each.get("const")]))
    return str(each.get("type", "anything"))


_ERRORS = f"""\
# Error messages

Written by `make docs` from the source: change that, not this page.

A command that fails says what failed and where, then what to do next, on stderr:

```text
Error: net.py has no 'mak'
Hint: factory names there, nearest first: make
```

Here is every message that edgespa has, by class, with its hint. `{HOLE}` stands for what is only known then: a name, a
number, the words of another program. So search for words that are not yours: of the message above, for
`has no`. `--debug` before the command shows the traceback.

| exit status | |
| --- | --- |
| 0 | done |
| 1 | could not: all messages here but those of [wrong usage](#wrong-usage) |
| 2 | wrong usage: an option that there is not, or two that exclude each other; nothing was begun |
| 130 | interrupted (Ctrl-C), or a question was answered with no |

From Python, all are subclasses of `edgespa.EdgespaError`, with `message` and `hint`; the classes below are in
`edgespa.errors`.

```text
{{tree}}
```
"""
_OTHERS = {
    "EdgespaError": "Of the class that fits what was read: a `ModelError` for a model, a `DataError` for data, ...",
    "RunnerError": "What `run.py` of a bundle says after `error: `, on a device without edgespa too; exit status 1.",
    "OSError": "What the system says of a file: its name, and why. edgespa adds what to do.",
    "UsageError": "Exit status 2. That there is no such option, or that a value is of another kind, click says itself.",
}
_TITLES = {"UsageError": "Wrong usage", "EdgespaError": "Of several classes", "RunnerError": "run.py of a bundle"}
_LONG = 30  # a class with more messages has headings for the rooms of the package that they come from


def render_errors(folder: Path) -> str:
    """Build the page of the messages.

    Args:
        folder: The package's.

    Returns:
        Markdown: the tree, then each class with its messages.
    """
    source = Source(folder)
    tree = str(ast.get_docstring(source.modules["errors.py"].tree)).split("\n\n")[1]
    parts = [_ERRORS.replace("{tree}", inspect.cleandoc(tree))]
    found = {name: list(each) for name, each in itertools.groupby(source.said(), key=lambda said: said.kind)}
    for name in [*source.kinds, "RunnerError", "OSError", "UsageError"]:
        if name in found:
            kind = source.kinds.get(name)
            said = _OTHERS.get(name) or f"{kind.about if kind else ''} `edgespa.errors.{name}`, exit status 1."
            parts.append(f"## {_TITLES.get(name, name)}\n\n{said}\n\n{_messages(found[name])}")
    return "\n".join(parts)


def _messages(found: list[Said]) -> str:
    rooms = itertools.groupby(found, key=lambda said: said.area)
    if len(found) <= _LONG:
        return _list(found)
    kind = found[0].kind
    return "\n".join(f"### {kind}: {room}\n\n{_list(list(each))}" for room, each in rooms)


def _list(found: list[Said]) -> str:
    lines = []
    for said in sorted(found, key=lambda said: (said.message.lstrip(f"{HOLE}:/'. ").lower(), said.hint)):
        tick = "``" if "`" in said.message else "`"
        lines.append(f"- {tick}{said.message}{tick}" + (f"\\\n  {_plain(said.hint)}" if said.hint else ""))
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text that Markdown shows as it stands; spans of code stay."""
    spans = text.split("`")
    if len(spans) % 2 == 0:
        return re.sub(r"([\\`*_<>\[\]|#~])", r"\\\1", text)
    return "`".join(re.sub(r"([\\*_<>\[\]|#~])", r"\\\1", each) if not n % 2 else each for n, each in enumerate(spans))


def cli(arguments: list[str] | None = None) -> int:
    """Write the pages, or check them.

    Args:
        arguments: Of the command line; the process's own by default.

    Returns:
        The exit status: 1 where ``--check`` finds an old page.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    options = parser.parse_args(arguments)
    status = 0
    pages = {"cli.md": render(), "python.md": render_python(), **render_json()}
    pages["errors.md"] = render_errors(Path(edgespa.__file__).resolve().parent)
    for name, text in pages.items():
        target = FOLDER / name
        if options.check and not (target.is_file() and target.read_text(encoding="utf-8") == text):
            sys.stderr.write(f"{os.path.relpath(target)} is out of date: run make docs\n")
            status = 1
        elif not options.check:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(cli())
