"""Every message of an error that the source of edgespa can give, read from it without running any of it.

A message is a pattern: what is only known when it is shown stands as an ellipsis. Names of constants, of local texts
and of the parameters of a function that makes errors for others are followed; what cannot be followed is an ellipsis.
"""

from __future__ import annotations

import ast
import errno
import functools
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HOLE = "…"
_MOST = 6  # of the texts that one expression may have: more of them say nothing to a reader
_Scope = Mapping[str, list[str]]
# Exceptions that become another before the user sees them, or are not of the tree: how they are told apart here.
_ALSO = {"Wrong": "DataError", "RunnerError": "RunnerError", "UsageError": "UsageError", "BadParameter": "UsageError"}
# Tables of what others say: file, name -> the class; each row ends with what has happened, and what to do.
_TABLES = {
    ("device/link/complaints.py", "_COMPLAINTS"): "UnreachableError",
    ("device/link/refusals.py", "_KINDS"): "RefusedError",
    ("device/endings.py", "_WORDS"): "DeviceError",
    ("device/endings.py", "_SIGNALS"): "DeviceError",
    ("cli/_failures.py", "_OS_HINTS"): "OSError",
}


@dataclass(frozen=True, order=True)
class Said:
    """A message.

    Attributes:
        kind: The class of the error, by its name.
        area: The room of the package that it comes from.
        message: The pattern.
        hint: What to do next, a pattern too; empty where there is none.
    """

    kind: str
    area: str
    message: str
    hint: str


@dataclass(frozen=True)
class Kind:
    """A class of the tree.

    Attributes:
        name: Its name.
        base: Its base's.
        about: The first line of its docstring.
        init: How it makes message and hint of its arguments, where it does that by itself.
    """

    name: str
    base: str
    about: str
    init: ast.FunctionDef | None


class Module:
    """A file of the package.

    Args:
        path: From the package's folder.
        tree: What it holds.
    """

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self.path = path
        self.tree = tree
        self.inside: dict[ast.AST, ast.FunctionDef | None] = {}
        self._place(tree, None)

    def _place(self, node: ast.AST, function: ast.FunctionDef | None) -> None:
        for child in ast.iter_child_nodes(node):
            self.inside[child] = function
            self._place(child, child if isinstance(child, ast.FunctionDef) else function)

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        """Names that are given one value at the top of the file."""
        found: dict[str, ast.expr] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                found[node.target.id] = node.value
        return found

    @cached_property
    def imported(self) -> dict[str, str]:
        """Names that come from elsewhere in the package, and from which file."""
        return {
            alias.asname or alias.name: node.module.removeprefix("edgespa.").replace(".", "/") + ".py"
            for node in self.inside
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("edgespa.")
            for alias in node.names
        }


class Source:
    """The package as it is written.

    Args:
        folder: The package's.
    """

    def __init__(self, folder: Path) -> None:
        self.modules = {
            path.relative_to(folder).as_posix(): Module(path.relative_to(folder), ast.parse(path.read_text("utf-8")))
            for path in sorted(folder.rglob("*.py"))
        }
        self.kinds = dict(self._kinds())
        self._calls: dict[str, list[tuple[Module, ast.Call]]] = defaultdict(list)
        for module in self.modules.values():
            for node in module.inside:
                if isinstance(node, ast.Call):
                    self._calls[_name(node.func)].append((module, node))

    def _kinds(self) -> Iterator[tuple[str, Kind]]:
        for node in self.modules["errors.py"].tree.body:
            if isinstance(node, ast.ClassDef):
                inits = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
                about = (ast.get_docstring(node) or "").splitlines()[0]
                own = inits[0] if inits and node.name != "EdgespaError" else None
                yield node.name, Kind(node.name, _name(node.bases[0]), about, own)

    def said(self) -> list[Said]:
        """Every message, sorted; each once."""
        found = set(self._tables())
        for name, kind in ({each: each for each in self.kinds} | _ALSO).items():
            for module, call in self._calls[name]:
                if module.path.name != "errors.py":
                    found |= set(self._of_call(module, call, kind))
        for module in self.modules.values():
            for node in module.inside:
                if isinstance(node, ast.Call) and self._is_given_a_kind(module, node):
                    found |= set(self._of_call(module, node, "EdgespaError"))
                if isinstance(node, ast.FunctionDef) and _checks_a_field(node):
                    found |= set(self._of_field(module, node))
        return sorted(each for each in found if re.search(r"[A-Za-z]{2}", each.message))

    def _is_given_a_kind(self, module: Module, call: ast.Call) -> bool:
        """Whether it makes an error whose class is a parameter, or was chosen on the way."""
        function = module.inside.get(call)
        if not isinstance(call.func, ast.Name) or function is None:
            return False
        name = call.func.id
        own = [each.annotation for each in _parameters(function) if each.arg == name and each.annotation]
        if any(ast.unparse(each).startswith("type[") and "Error" in ast.unparse(each) for each in own):
            return True
        chosen = _assigned(function, name)
        return bool(chosen) and all(
            isinstance(each, ast.IfExp) and {_name(each.body), _name(each.orelse)} <= set(self.kinds) for each in chosen
        )

    def _of_call(self, module: Module, call: ast.Call, kind: str) -> Iterator[Said]:
        function = module.inside.get(call)
        uses = {each.id for each in ast.walk(call) if isinstance(each, ast.Name)}
        scopes: list[dict[str, list[str]]] = [{}]
        if function is not None and uses & {each.arg for each in _parameters(function)}:
            # An error that is made for others: once for each that asks for it.
            known = [
                (where, each) for where, each in self._calls[function.name] if self._is_it(module, where, function)
            ]
            scopes = [self._bound(where, each, function) for where, each in known] or scopes
        area = module.path.parts[0] if len(module.path.parts) > 1 else module.path.stem
        for scope in scopes:
            for message, hint in self._message(module, call, kind, function, scope):
                yield Said(kind, area, message, hint)

    def _is_it(self, module: Module, where: Module, function: ast.FunctionDef) -> bool:
        return where is module or where.imported.get(function.name) == module.path.as_posix()

    def _bound(self, module: Module, call: ast.Call, function: ast.FunctionDef) -> dict[str, list[str]]:
        names = [each.arg for each in _parameters(function) if each.arg not in ("self", "cls")]
        given = dict(zip(names, call.args, strict=False))
        given |= {each.arg: each.value for each in call.keywords if each.arg}
        around = module.inside.get(call)
        return {name: self._texts(module, value, around, {}) for name, value in given.items()}

    def _message(
        self, module: Module, call: ast.Call, kind: str, function: ast.FunctionDef | None, scope: _Scope
    ) -> Iterator[tuple[str, str]]:
        """Pairs of message and hint."""
        names = ["kind", "message", "hint"] if kind == "RefusedError" else ["message", "hint"]
        init = self.kinds[kind].init if kind in self.kinds else None
        if init is not None:
            names = [each.arg for each in _parameters(init) if each.arg != "self"]
        given: dict[str, ast.expr] = dict(zip(names, call.args, strict=False))
        given |= {each.arg: each.value for each in call.keywords if each.arg}
        texts = {name: self._texts(module, value, function, scope) for name, value in given.items()}
        if init is not None and kind != "RefusedError":
            texts = self._made(init, texts)
        hints = texts.get("hint", [""]) if kind != "UsageError" else [""]
        messages = texts.get("message", [])
        # Where both have as many ways, they belong together.
        pairs = zip(messages, hints, strict=True) if len(messages) == len(hints) else itertools.product(messages, hints)
        for message, hint in pairs:
            yield _tidy(message), "" if _tidy(hint) == HOLE else _tidy(hint)

    def _made(self, init: ast.FunctionDef, texts: _Scope) -> dict[str, list[str]]:
        module = self.modules["errors.py"]
        defaults = dict(
            zip([each.arg for each in init.args.args[-len(init.args.defaults) :]], init.args.defaults, strict=False)
        )
        scope = {name: self._texts(module, value, None, {}) for name, value in defaults.items()} | dict(texts)
        (up,) = (each for each in ast.walk(init) if isinstance(each, ast.Call) and _name(each.func) == "__init__")
        return {
            name: self._texts(module, value, None, scope)
            for name, value in zip(("message", "hint"), up.args, strict=False)
        }

    def _of_field(self, module: Module, function: ast.FunctionDef) -> Iterator[Said]:
        """What a configuration refuses: the file and the field are put before it."""
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and _name(node.func) == "ValueError" and node.args:
                for text in self._texts(module, node.args[0], function, {}):
                    yield Said("ConfigError", module.path.parts[0], f"{HOLE}: {_tidy(text)}", "")

    def _tables(self) -> Iterator[Said]:
        for (path, name), kind in _TABLES.items():
            module = self.modules[path]
            table = module.constants[name]
            if isinstance(table, ast.Dict):
                rows = [(key, value) for key, value in zip(table.keys, table.values, strict=True) if key is not None]
                if kind == "OSError":
                    texts = [os.strerror(getattr(errno, _name(key))) for key, _ in rows]
                    cells = [
                        [ast.Constant(f"{HOLE}: {text}"), value] for text, (_, value) in zip(texts, rows, strict=True)
                    ]
                else:
                    cells = [value.elts for _, value in rows if isinstance(value, ast.Tuple)]
            else:
                assert isinstance(table, ast.Tuple)
                cells = [row.elts for row in table.elts if isinstance(row, ast.Tuple)]
            for row in cells:
                (what, *_), (hint, *_) = (self._texts(module, each, None, {}) for each in row[-2:])
                what = re.sub(r"\{\w*\}", HOLE, what)
                yield Said(kind, module.path.parts[0], _tidy(what), re.sub(r"\{\w*\}", HOLE, _tidy(hint)))

    def _texts(
        self, module: Module, node: ast.expr, function: ast.FunctionDef | None, scope: _Scope, deep: int = 0
    ) -> list[str]:
        """The texts that an expression may be, at most some; an ellipsis where it cannot be said."""

        def inside(each: ast.expr) -> list[str]:
            return self._texts(module, each, function, scope, deep + 1)

        found = [HOLE]
        if deep > 12:
            return found
        if isinstance(node, ast.Constant):
            found = [node.value if isinstance(node.value, str) else "" if node.value is None else str(node.value)]
        elif isinstance(node, ast.JoinedStr):
            found = _joined([inside(each) for each in node.values])
        elif isinstance(node, ast.FormattedValue):
            found = inside(node.value)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            both = [inside(node.left), inside(node.right)]
            number = any(
                isinstance(each, ast.Constant) and not isinstance(each.value, str) for each in (node.left, node.right)
            )
            found = [HOLE] if number else _joined(both)
        elif isinstance(node, ast.IfExp):
            found = [*inside(node.body), *inside(node.orelse)]
        elif isinstance(node, ast.BoolOp):
            found = [text for each in node.values for text in inside(each) if text not in ("", HOLE)] or [HOLE]
        elif isinstance(node, ast.Name):
            found = self._named(module, node.id, function, scope, deep)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
            found = [re.sub(r"\{[^{}]*\}", HOLE, text) for text in inside(node.func.value)]
        found = list(dict.fromkeys(found))
        return found if len(found) <= _MOST else [HOLE]

    def _named(
        self, module: Module, name: str, function: ast.FunctionDef | None, scope: _Scope, deep: int
    ) -> list[str]:
        if name in scope:
            return list(scope[name])
        if function is not None:
            if any(each.arg == name for each in _parameters(function)):
                return [HOLE]
            local = _assigned(function, name)
            if local:
                return [text for each in local for text in self._texts(module, each, function, scope, deep + 1)]
        if name in module.constants:
            return self._texts(module, module.constants[name], None, {}, deep + 1)
        other = self.modules.get(module.imported.get(name, ""))
        if other is not None and name in other.constants:
            return self._texts(other, other.constants[name], None, {}, deep + 1)
        return [HOLE]


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _parameters(function: ast.FunctionDef) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def _assigned(function: ast.FunctionDef, name: str) -> list[ast.expr]:
    """What a local name is given, where it is only ever given values as a whole."""
    return _all_assigned(function).get(name, [])


@functools.cache
def _all_assigned(function: ast.FunctionDef) -> dict[str, list[ast.expr]]:
    stored: Counter[str] = Counter()
    values = defaultdict(list)
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            stored[node.id] += 1
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id].append(node.value)
    return {name: each for name, each in values.items() if len(each) == stored[name]}


def _checks_a_field(function: ast.FunctionDef) -> bool:
    return any("validator" in ast.unparse(each) for each in function.decorator_list)


def _joined(parts: list[list[str]]) -> list[str]:
    """Every way to put the parts together; a part of too many ways is an ellipsis."""
    count = 1
    for index, part in enumerate(parts):
        count *= len(part)
        if count > _MOST:
            count //= len(part)
            parts[index] = [HOLE]
    return ["".join(each) for each in itertools.product(*parts)]


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(rf"{HOLE}(\s?{HOLE})+", HOLE, text)
