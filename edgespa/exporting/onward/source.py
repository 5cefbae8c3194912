"""The compact network as one readable Python file that needs torch and nothing else.

Modules have the names and the classes that they had in the original; those that differ in sizes alone share a class,
whose constructor takes the sizes. All text that is written is made here: names from elsewhere have gone through
`edgespa.exporting.onward.naming`, values are written by `repr`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import fx, nn

from edgespa import __version__
from edgespa.exporting.onward.formatted import formatted, looped
from edgespa.exporting.onward.naming import class_name, identifier
from edgespa.exporting.onward.outline import Part, outlined
from edgespa.exporting.onward.scope import Scope

_NUMBER = re.compile(r"(?<![\w.\"'])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w\"'])")
_TAKEN = ("Path", "Parts", "Tensor", "FACTS")
_ROLES = {"Linear": ("in", "out"), "Embedding": ("count", "size")}

_HEAD = '''"""The compact network as ordinary PyTorch layers. Written by edgespa {version}.

    net = load("{weights}")  # in evaluation form
    net.train()  # to go on training; every parameter learns

It needs torch alone. The values of its outputs are those of the network that it was made from, to rounding.{notes}
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
'''
_PARTS = '''

class Parts(nn.Module):
    """Parameters and layers that belong together, for what is no layer of torch.nn."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
'''
_TAIL = '''

def load(path):
    """The network with the weights of a safetensors file, in evaluation form."""
    net = {root}()
    net.load_state_dict(read_weights(path), assign=True)
    return net.eval()


def build():
    """The network with the weights that lie beside this file."""
    return load(Path(__file__).with_name("{weights}"))


def read_weights(path):
    """The tensors of a safetensors file, by name."""
    content = bytearray(Path(path).read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    kinds = {{
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }}
    tensors = {{}}
    for name, entry in json.loads(content[8:start]).items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        if first == last:
            tensors[name] = torch.empty(entry["shape"], dtype=kinds[entry["dtype"]])
            continue
        part = content[start + first : start + last]
        values = torch.frombuffer(part, dtype=kinds[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors
'''


def source_of(
    module: fx.GraphModule, weights: str, notes: Sequence[str] = (), entries: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The text of the file.

    Args:
        module: Of `edgespa.exporting.onward.layers.ordinary`, not stripped.
        weights: Name of the file with its tensors, which lies beside it.
        notes: What else there is to say at the top; texts of our own.
        entries: What the network is, by key, as other files say it of themselves; texts of anybody.

    Raises:
        ExportError: If it cannot be written with torch alone; it names the operator.
    """
    root = outlined(module.graph, _root_kind(module.graph))
    writer = _Writer(module)
    writer.add(root)
    classes, name = writer.classes()
    body = "".join(f"\n\n{text}\n" for text in classes)
    parts = _PARTS if "Parts(" in body else ""
    told = "".join(f"\n{note}" for note in notes)
    head = _HEAD.format(version=__version__, weights=weights, notes=told) + _facts(entries)
    return head + parts + body + _TAIL.format(root=name, weights=weights)


def _facts(entries: Mapping[str, str]) -> str:
    """A literal that `edgespa.exporting.said.read_said` reads without running the file."""
    if not entries:
        return ""
    lines = "".join(f"    {key!r}: {value!r},\n" for key, value in entries.items())
    return f"\nFACTS = {{\n{lines}}}\n"


def _root_kind(graph: fx.Graph) -> str:
    for node in graph.nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            if not path and "GraphModule" not in kind:
                return str(kind)
    return "Network"


class _Writer:
    """Classes of all parts, each once.

    Args:
        module: The network.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self._groups: dict[tuple[str, str], list[Part]] = {}
        self._key: dict[Part, tuple[str, str]] = {}
        self._made: dict[Part, str] = {}

    def add(self, part: Part) -> None:
        """A part, after those that are in it: they are the same if their text is, but for its numbers."""
        for each in part.items:
            if isinstance(each, Part):
                self.add(each)
        order = {key: index for index, key in enumerate(self._groups)}
        inside = {each: f"<K{order[self._key[each]]}>" for each in part.items if isinstance(each, Part)}
        init, forward = self._lines(part, inside)
        self._key[part] = (class_name(part.kind), _NUMBER.sub("#", "\n".join([*init, "", *forward])))
        self._groups.setdefault(self._key[part], []).append(part)

    def classes(self) -> tuple[list[str], str]:
        """The text of each class, what is needed by others first, and the name of the last, the network's."""
        taken = set(_TAKEN)
        texts, name = [], ""
        for (wanted, _), parts in self._groups.items():
            name, count = wanted, 1
            while name in taken:
                count += 1
                name = f"{wanted}{count}"
            taken.add(name)
            texts.append(self._class(name, parts))
        return texts, name

    def _lines(self, part: Part, inside: Mapping[Part, str]) -> tuple[list[str], list[str]]:
        scope = Scope(self._module, part, inside)
        return scope.init(), looped(scope.forward(), scope.lists())

    def _class(self, name: str, parts: Sequence[Part]) -> str:
        written = [self._lines(part, self._made) for part in parts]
        numbers = [_NUMBER.findall("\n".join([*init, "", *forward])) for init, forward in written]
        init, forward = written[0]
        columns = [tuple(row[index] for row in numbers) for index in range(len(numbers[0]))]
        arguments: dict[tuple[str, ...], str] = {}
        stored: list[str] = []
        at = iter(columns)

        def replaced(line: str, where: str) -> str:
            position = 0

            def one(found: re.Match[str]) -> str:
                nonlocal position
                column = next(at)
                position += 1
                if len(set(column)) == 1:
                    return found[0]
                if column not in arguments:
                    arguments[column] = _free(_called(line, position - 1), set(arguments.values()))
                if where == "forward" and arguments[column] not in stored:
                    stored.append(arguments[column])
                return f"self.{arguments[column]}" if where == "forward" else arguments[column]

            return _NUMBER.sub(one, line)

        init = [replaced(line, "init") for line in init]
        forward = [replaced(line, "forward") for line in forward]
        for index, part in enumerate(parts):
            values = ", ".join(column[index] for column in arguments)
            self._made[part] = f"{name}({values})"
        takes = "".join(f", {each}" for each in arguments.values())
        inputs = ", ".join(Scope(self._module, parts[0], self._made).inputs())
        lines = [f"class {name}(nn.Module):"]
        init += [f"self.{each} = {each}" for each in stored]
        if init:
            lines += [
                f"    def __init__(self{takes}):",
                "        super().__init__()",
                *(f"        {each}" for each in init),
                "",
            ]
        lines += [f"    def forward(self{', ' + inputs if inputs else ''}):", *(f"        {each}" for each in forward)]
        return "\n".join(formatted(line) for line in lines)


def _called(line: str, position: int) -> str:
    """What a number in the line of a constructor is: ``conv1_out``."""
    found = re.match(r"self\.(\w+) = (?:nn\.)?(\w+)", line)
    numbered = re.match(r"setattr\(self, \"\d+\", (?:nn\.)?(\w+)", line)
    if found is None and numbered is None:
        return "size"
    attribute, kind = (found[1], found[2]) if found else (identifier(numbered[1].lower()), numbered[1])  # type: ignore[index]
    roles: tuple[str, ...] = ("in", "out") if kind.startswith("Conv") else _ROLES.get(kind, ())
    if kind.startswith("BatchNorm") or kind == "LayerNorm":
        roles = ("size",)
    return f"{attribute}_{roles[position]}" if position < len(roles) else f"{attribute}_size"


def _free(wanted: str, taken: set[str]) -> str:
    name, count = wanted, 1
    while name in taken or hasattr(_PLAIN, name):
        count += 1
        name = f"{wanted}_{count}"
    return name


_PLAIN: Any = nn.Module()
