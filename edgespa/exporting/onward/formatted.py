"""Lines of code as one would write them: loops in the place of numbered calls, no line too long."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_WIDTH = 100
_CALL = re.compile(r"(?P<gives>\w+(?:, \w+)*) = (?P<list>self[\w.\[\]\"]*)\[(?P<at>\d+)\](?P<rest>\(.*\))")
_LEAST = 2
_OPENS, _CLOSES = "([{", ")]}"


def looped(lines: Sequence[str], lists: Mapping[str, int]) -> list[str]:
    """Calls of one module of a list after the other, with the same values by name, as a loop.

    Args:
        lines: Of a function.
        lists: How long each list of modules is, by how it is written.
    """
    found: list[str] = []
    at = 0
    while at < len(lines):
        first = _CALL.fullmatch(lines[at])
        end = at + 1
        if first is not None and first["list"] in lists:
            start = int(first["at"])
            while end < len(lines) and lines[end] == _numbered(first, start + end - at):
                end += 1
            if end - at >= _LEAST:
                whole = start == 0 and end - at == lists[first["list"]]
                part = first["list"] if whole else f"{first['list']}[{start}:{start + end - at}]"
                found += [f"for part in {part}:", f"    {first['gives']} = part{first['rest']}"]
                at = end
                continue
        found.append(lines[at])
        at += 1
    return found


def _numbered(first: re.Match[str], number: int) -> str:
    return f"{first['gives']} = {first['list']}[{number}]{first['rest']}"


def formatted(line: str) -> str:
    """A line; what is too long for one in several.

    Args:
        line: A statement, with its indent.
    """
    if len(line) <= _WIDTH:
        return line
    cut = _outermost(line)
    if cut is None:
        return line
    start, end = cut
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    parts = _separated(line[start + 1 : end])
    together = indent + ", ".join(parts)
    inside = together if len(together) <= _WIDTH else "\n".join(formatted(f"{indent}{part},") for part in parts)
    return f"{line[: start + 1]}\n{inside}\n{line[: len(indent) - 4]}{line[end:]}"


def _outermost(line: str) -> tuple[int, int] | None:
    """The last pair of brackets that is in no other and holds something."""
    depth, start, found = 0, 0, None
    for at, sign, quoted in _signs(line):
        if quoted:
            continue
        if sign in _OPENS:
            start = at if depth == 0 else start
            depth += 1
        elif sign in _CLOSES:
            depth -= 1
            if depth == 0 and at > start + 1:
                found = (start, at)
    return found


def _separated(text: str) -> list[str]:
    """What commas separate that are in no brackets."""
    depth, start, found = 0, 0, []
    for at, sign, quoted in _signs(text):
        if quoted:
            continue
        depth += (sign in _OPENS) - (sign in _CLOSES)
        if sign == "," and depth == 0:
            found.append(text[start:at].strip())
            start = at + 1
    rest = text[start:].strip()
    return [*found, *([rest] if rest else [])]


def _signs(text: str) -> list[tuple[int, str, bool]]:
    """Each sign, where it is, and whether it stands in a text."""
    found, quote, escaped = [], "", False
    for at, sign in enumerate(text):
        found.append((at, sign, bool(quote)))
        if escaped:
            escaped = False
        elif quote:
            escaped = sign == "\\"
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
    return found
