"""Names that come from elsewhere, as Python takes them: nothing that is no plain name gets into code.

A name of a tensor is dotted. Its parts become attributes of modules, so each has to be an identifier (or a number, as
in ``layers.0``) that means nothing to `torch.nn.Module`, and none may be the same as another beside it.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

from torch import nn

_MOST = 80
_PLAIN = nn.Module()


def identifier(text: str, instead: str = "part") -> str:
    """A text as a Python name: letters, digits and underscores of ASCII, no keyword, not private to a class.

    Args:
        text: Any text.
        instead: What stands for a text in which nothing is left.
    """
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text)[:_MOST]
    if name.startswith("__"):  # in a class it would mean another name
        name = name.lstrip("_")
    if not name.strip("_"):
        name = instead
    if name[0].isdigit():
        name = f"{instead}_{name}"
    return f"{name}_" if keyword.iskeyword(name) or keyword.issoftkeyword(name) else name


def class_name(text: str) -> str:
    """The last part of a dotted name of a class, as one may be called in a file of its own.

    Args:
        text: ``torchvision.models.resnet.BasicBlock``.
    """
    name = identifier(text.rpartition(".")[2], "Part").strip("_") or "Part"
    return name[0].upper() + name[1:]


class Names:
    """From dotted names to those that attributes of modules can have; the same every time.

    Args:
        names: All names of tensors.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._parts: dict[tuple[str, ...], str] = {}
        self._taken: dict[tuple[str, ...], set[str]] = {}
        for name in names:
            self(name)

    def __call__(self, name: str) -> str:
        """The name to use.

        Args:
            name: Dotted; may be empty, for the whole network.
        """
        if not name:
            return ""
        above: tuple[str, ...] = ()
        found = []
        for part in name.split("."):
            path = (*above, part)
            if path not in self._parts:
                self._parts[path] = self._free(above, part)
            found.append(self._parts[path])
            above = path
        return ".".join(found)

    def _free(self, above: tuple[str, ...], part: str) -> str:
        taken = self._taken.setdefault(above, set())
        wanted = part if re.fullmatch("0|[1-9][0-9]{0,5}", part) else identifier(part)
        if hasattr(_PLAIN, wanted):
            wanted += "_"
        name, count = wanted, 1
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        taken.add(name)
        return name
