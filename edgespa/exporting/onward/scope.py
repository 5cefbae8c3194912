"""One part of the network as lines of code: what its constructor makes, and what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgespa.exporting.onward.expressions import expression, literal, unwritable
from edgespa.exporting.onward.layers import LAYERS
from edgespa.exporting.onward.naming import identifier
from edgespa.exporting.onward.outline import Part, is_number, tensors_of

_POOL = ["x", "y", "z", "a", "b", "c", "d", "e", "f", "g", "h", "k", "m", "p", "q", "r", "s", "u", "v", "w"]

Tree = dict[str, Any]


class Scope:
    """The lines of a part.

    Args:
        module: The network.
        part: Of it.
        made: How each part within is made, as an expression.
    """

    def __init__(self, module: fx.GraphModule, part: Part, made: Mapping[Part, str]) -> None:
        self._module, self._part, self._made = module, part, made
        self._tree: Tree = {}
        self._bound: dict[Any, str] = {}
        for item in part.items:
            if isinstance(item, Part):
                self._place(item.path, item)
                continue
            if item.op == "call_module":
                self._place(str(item.target), module.meta[LAYERS][str(item.target)])
            for each in item.all_input_nodes:
                if each.op == "get_attr":
                    self._place(str(each.target), _fetched(module, str(each.target)))
        if not part.path:
            for node in module.graph.nodes:
                if node.op == "output":
                    for each in node.all_input_nodes:
                        if each.op == "get_attr":
                            self._place(str(each.target), _fetched(module, str(each.target)))

    def init(self) -> list[str]:
        """What the constructor does."""
        lines = []
        for name, each in self._tree.items():
            value = _value(each, self._made)
            lines.append(f'setattr(self, "{name}", {value})' if name[0].isdigit() else f"self.{name} = {value}")
        return lines

    def inputs(self) -> list[str]:
        """What it is called with, by name."""
        if self._part.path:
            return _POOL[: len(self._part.inputs)] if len(self._part.inputs) <= len(_POOL) else _many(self._part)
        names: list[str] = []
        for node in self._part.inputs:
            name = identifier(node.name, "x")
            while name in names or name in ("self", "nn", "F", "torch"):
                name += "_"
            names.append(name)
        return names

    def lists(self) -> dict[str, int]:
        """How long each list of modules is, by how it is written."""
        found: dict[str, int] = {}

        def walk(tree: Tree, text: str) -> None:
            if _is_list(tree):
                found[text] = len(tree)
            for name, each in tree.items():
                if isinstance(each, dict):
                    walk(each, _attribute(text, tree, name, top=text == "self"))

        walk(self._tree, "self")
        return found

    def forward(self) -> list[str]:
        """What it computes."""
        part = self._part
        self._bound = dict(zip(part.inputs, self.inputs(), strict=True))
        last = self._last_uses()
        lines = []
        for index, item in enumerate(part.items):
            if isinstance(item, Part):
                reads, gives = list(item.inputs), list(item.outputs)
                text = f"{self._access(item.path)}({', '.join(map(self._write, item.inputs))})"
            elif item.op == "call_module":
                reads, gives = tensors_of(item), [item]
                text = f"{self._access(str(item.target))}({', '.join(map(self._write, item.args))})"
            else:
                reads, gives = tensors_of(item), [item]
                text = expression(item, self._write, self._device())
            free = [
                self._bound[each] for each in dict.fromkeys(reads) if last.get(each) == index and each in self._bound
            ]
            for each in [each for each in self._bound if last.get(each, -1) <= index]:
                del self._bound[each]
            names = [self._name(free) for _ in gives]
            self._bound = {each: name for each, name in self._bound.items() if isinstance(each, fx.Node)}
            self._bound.update(zip(gives, names, strict=True))
            lines.append(f"{', '.join(names)} = {text}")
        return [*lines, f"return {self._returned()}"]

    def _returned(self) -> str:
        if self._part.path:
            return ", ".join(self._bound[each] for each in self._part.outputs)
        output = next(node for node in self._module.graph.nodes if node.op == "output")
        return self._write(output.args[0])

    def _last_uses(self) -> dict[fx.Node, int]:
        """Where each value is read last; what is given, at the end."""
        found = {each: -1 for each in self._part.inputs}
        for index, item in enumerate(self._part.items):
            reads = item.inputs if isinstance(item, Part) else tensors_of(item)
            found.update(dict.fromkeys(reads, index))
        found.update(dict.fromkeys(self._part.outputs, len(self._part.items)))
        for index, item in enumerate(self._part.items):  # what nobody reads is gone at once
            for each in item.outputs if isinstance(item, Part) else (item,):
                found.setdefault(each, index)
        return found

    def _name(self, free: list[str]) -> str:
        """The name of a value that is not needed any more, or a new one."""
        taken = set(self._bound.values())
        name = next((each for each in free if each not in taken), None)
        if name is None:
            name = next((each for each in _POOL if each not in taken and each not in free), None)
        if name is None:
            count = 1
            while f"x{count}" in taken or f"x{count}" in free:
                count += 1
            name = f"x{count}"
        free[:] = [each for each in free if each != name]
        self._bound[_Held(name)] = name
        return name

    def _write(self, value: Any) -> str:
        if not isinstance(value, fx.Node):
            if isinstance(value, torch.SymInt):
                return str(int(value))
            return literal(value, self._write)
        if value.op == "get_attr":
            return self._access(str(value.target))
        if is_number(value):
            return self._number(value)
        return self._bound[value]

    def _number(self, node: fx.Node) -> str:
        """A size: that of a tensor that is there, or computed from such sizes."""
        size = node.meta["val"]
        if isinstance(size, bool | int | float):
            return repr(size)
        for each, name in self._bound.items():
            held = each.meta.get("val") if isinstance(each, fx.Node) else None
            if isinstance(held, Tensor):
                sizes: tuple[Any, ...] = tuple(held.shape)
                for axis, other in enumerate(sizes):
                    if isinstance(other, torch.SymInt) and (times := _times(other, size)):
                        return f"{name}.shape[{axis}]" + ("" if times == 1 else f" // {times}")
        if node.target is torch.ops.aten.sym_size.int:
            raise unwritable(node)
        return expression(node, self._write, None)

    def _device(self) -> str | None:
        """Where the values are that are there."""
        held = ((each.meta.get("val"), name) for each, name in self._bound.items() if isinstance(each, fx.Node))
        return next((f"{name}.device" for value, name in held if isinstance(value, Tensor)), None)

    def _relative(self, path: str) -> list[str]:
        above = self._part.path
        return (path[len(above) + 1 :] if above else path).split(".")

    def _place(self, path: str, value: Any) -> None:
        tree = self._tree
        *above, leaf = self._relative(path)
        for name in above:
            tree = tree.setdefault(name, {})
        tree.setdefault(leaf, value)

    def _access(self, path: str) -> str:
        text, tree = "self", self._tree
        for name in self._relative(path):
            text = _attribute(text, tree, name, top=text == "self")
            tree = tree[name]
        return text


def _times(size: torch.SymInt, other: Any) -> int:
    """How many times as large as another a size is, whatever that is; 0 where it is not."""
    if not isinstance(other, torch.SymInt):
        return 0
    ratio = size.node.expr / other.node.expr
    return int(ratio) if ratio.is_Integer and ratio > 0 else 0


class _Held:
    """Keeps a name from being given twice within one line."""

    def __init__(self, name: str) -> None:
        self.name = name


def _many(part: Part) -> list[str]:
    return [f"x{index}" for index in range(len(part.inputs))]


def _fetched(module: fx.GraphModule, path: str) -> Tensor:
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name)
    assert isinstance(value, Tensor)
    return value


def _is_list(tree: Any) -> bool:
    """Whether modules are numbered from 0 on, without a gap."""
    return (
        isinstance(tree, dict)
        and sorted(tree) == sorted(map(str, range(len(tree))))
        and not any(isinstance(each, Tensor) for each in tree.values())
    )


def _is_numbered(tree: Tree) -> bool:
    return all(name.isdigit() for name in tree) and not any(isinstance(each, Tensor) for each in tree.values())


def _attribute(text: str, tree: Tree, name: str, *, top: bool) -> str:
    """How what has a name in a tree is read."""
    if not top and _is_list(tree):
        return f"{text}[{name}]"
    if not top and _is_numbered(tree):
        return f'{text}["{name}"]'
    return f"{text}.{name}" if not name[0].isdigit() else f'getattr({text}, "{name}")'


def _value(each: Any, made: Mapping[Part, str]) -> str:
    """What makes a part, a layer, a tensor, or all of a tree."""
    if isinstance(each, Part):
        return made[each]
    if isinstance(each, Tensor):
        return _tensor(each)
    if not isinstance(each, dict):
        options = "".join(f", {name}={value!r}" for name, value in each.options)
        return f"nn.{each.kind}({', '.join(map(repr, each.arguments))}{options})".replace("(, ", "(")
    if _is_list(each):
        return f"nn.ModuleList([{', '.join(_value(each[str(at)], made) for at in range(len(each)))}])"
    if _is_numbered(each):
        inside = ", ".join(f'"{name}": {_value(value, made)}' for name, value in each.items())
        return f"nn.ModuleDict({{{inside}}})"
    plain = [f"{name}={_value(value, made)}" for name, value in each.items() if not name[0].isdigit()]
    others = [f'"{name}": {_value(value, made)}' for name, value in each.items() if name[0].isdigit()]
    if others:
        plain.append("**{" + ", ".join(others) + "}")
    return f"Parts({', '.join(plain)})"


def _tensor(tensor: Tensor) -> str:
    sizes = ", ".join(map(str, tensor.shape)) or "()"
    kind = "" if tensor.dtype == torch.float32 else f", dtype={tensor.dtype}"
    text = f"torch.zeros({sizes}{kind})"
    if not isinstance(tensor, nn.Parameter):
        return f"nn.Buffer({text})"
    return f"nn.Parameter({text})" if tensor.is_floating_point() else f"nn.Parameter({text}, requires_grad=False)"
