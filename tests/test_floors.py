"""The floors of docs/architecture.md: who may import whom, read from the source without running it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "edgespa"

# Room -> floor. A room is a file or a folder of the package; the longest matching one decides.
FLOORS: Mapping[str, int] = {
    "errors": 0,
    "config": 0,
    "system": 0,
    "pixels": 0,
    "bundle": 0,
    "findings": 0,
    "models/imports": 0,
    "models/inputs": 0,
    "models/sources": 0,
    "models/given": 0,
    "models/trust": 0,
    "distributed/ranks": 0,
    "api/demo_folder": 0,
    "objectives/measured": 0,
    "objectives/measures": 0,
    "tasks/unfinished": 0,
    "trials": 0,
    "models": 1,
    "data": 1,
    "graph": 1,
    "graph/blocks": 2,
    "graph/streams": 2,
    "graph/inner": 2,
    "graph/head_widths": 2,
    "graph/proof": 2,
    "graph/rewrites": 2,
    "graph/surgery": 2,
    "models/interface": 2,
    "models/from_onnx": 2,
    "adapters": 2,
    "selection": 2,
    "quantisation": 2,
    "objectives": 2,
    "distributed": 2,
    "tasks/sealed": 2,
    "models/opening": 3,
    "tasks": 3,
    "adaptation": 3,
    "pruning": 3,
    "exporting": 4,
    "device": 4,
    "reports": 4,
    "workers": 4,
    "latency": 5,
    "api": 5,
    "cli": 5,
}
FRONT_DOOR = "edgespa"  # it names what is behind it for tools, and loads it when it is asked for
# Not rooms: the package itself has a version and nothing else, and the entry of ``python -m`` belongs to the cli.
OUTSIDE = {"edgespa": 0, "edgespa.__main__": 5}
WITHOUT_TORCH = (
    "errors",
    "config",
    "system",
    "pixels",
    "bundle",
    "findings",
    "models/imports",
    "models/inputs",
    "models/sources",
    "models/given",
    "models/trust",
    "distributed/ranks",
    "api/demo_folder",
    "objectives/measured",
    "objectives/measures",
    "tasks/unfinished",
    "trials",
    "device",
    "reports",
    "workers",
)
TORCH = {"torch", "torchvision", "torchao", "timm", "transformers", "litert_torch", "onnxsim", "safetensors.torch"}


@dataclass(frozen=True)
class Import:
    """One import statement's target: ``edgespa.graph.trace`` or ``torch.export``."""

    target: str
    line: int
    top_level: bool
    typing_only: bool


def module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_package(package: Path) -> dict[str, list[Import]]:
    """Module -> its imports, for every file of a package."""
    paths = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    return {name: list(_imports(path, name, set(paths))) for name, path in paths.items()}


def _imports(path: Path, name: str, modules: set[str]) -> Iterator[Import]:
    anchor = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]

    def visit(node: ast.AST, top_level: bool, typing_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, top_level, typing_only)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(anchor[: len(anchor) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                # `from package import name`: a module of ours if there is one, else something inside `package`.
                inside = base.partition(".")[0] == name.partition(".")[0] and full not in modules
                yield Import(base if inside else full, node.lineno, top_level, typing_only)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for statement in node.body:
                yield from visit(statement, top_level, True)
            for statement in node.orelse:
                yield from visit(statement, top_level, typing_only)
        else:
            deeper = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for child in ast.iter_child_nodes(node):
                yield from visit(child, top_level and not deeper, typing_only)

    yield from visit(ast.parse(path.read_text(encoding="utf-8"), str(path)), True, False)


def floor_of(module: str) -> int | None:
    if module in OUTSIDE:
        return OUTSIDE[module]
    path = module.partition(".")[2].replace(".", "/")
    rooms = [room for room in FLOORS if path == room or path.startswith(f"{room}/")]
    return FLOORS[max(rooms, key=len)] if rooms else None


def runs_nothing(module: str, package: Mapping[str, list[Import]]) -> bool:
    """Whether it is a room without a file of its own, so that one of its files may be on a lower floor."""
    return not package[module] and any(name.startswith(f"{module}.") for name in package)


def ancestors(module: str) -> list[str]:
    """The packages whose ``__init__`` runs before ``a.b.c`` does: a, a.b."""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def edges(
    package: Mapping[str, list[Import]], *, top_level_only: bool, typing: bool = False
) -> dict[str, dict[str, int]]:
    """Module -> modules of the package that importing it (or calling into it) runs, with the line."""
    result: dict[str, dict[str, int]] = {}
    for name, imports in package.items():
        targets: dict[str, int] = {}
        for each in imports:
            if (top_level_only and not each.top_level) or (each.typing_only and not typing):
                continue
            own = {name, *ancestors(name)}
            for module in (each.target, *ancestors(each.target)):
                if module in package and (module not in own or module == each.target != name):
                    targets.setdefault(module, each.line)
        result[name] = targets
    return result


def find_cycle(graph: Mapping[str, Iterable[str]]) -> list[str] | None:
    """The first cycle, from a module back to itself; None where there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for target in graph[name]:
            if found := walk(target, [*path, name]):
                return found
        done.add(name)
        return None

    return next((found for name in graph if (found := walk(name, []))), None)


def way_to_torch(package: Mapping[str, list[Import]], start: str) -> list[str] | None:
    """How a module reaches torch through imports at any depth of any function, None where it does not."""
    graph = edges(package, top_level_only=False)
    seen, queue = {start}, [[start]]
    while queue:
        path = queue.pop(0)
        for each in package[path[-1]]:
            names = (*ancestors(each.target), each.target)
            if not each.typing_only and any(name in TORCH for name in names):
                return [*path, f"{each.target} (line {each.line})"]
        for target in graph[path[-1]]:
            if target not in seen:
                seen.add(target)
                queue.append([*path, target])
    return None


@cache
def edgespa() -> dict[str, list[Import]]:
    return read_package(PACKAGE)


@pytest.fixture
def package() -> dict[str, list[Import]]:
    return edgespa()


def test_every_file_has_a_floor(package: dict[str, list[Import]]) -> None:
    assert [name for name in package if floor_of(name) is None] == []


def test_every_room_of_the_table_is_there(package: dict[str, list[Import]]) -> None:
    known = {name.partition(".")[2].replace(".", "/") for name in package}
    assert [room for room in FLOORS if room not in known and not (PACKAGE / room).is_dir()] == []


def test_no_upward_import(package: dict[str, list[Import]]) -> None:
    upward = [
        f"{name}:{line} imports {target}: floor {floor_of(name)} -> {floor_of(target)}"
        for name, targets in edges(package, top_level_only=False, typing=True).items()
        for target, line in targets.items()
        if (floor_of(target) or 0) > (floor_of(name) or 0) and name != FRONT_DOOR and not runs_nothing(target, package)
    ]
    assert upward == []


def test_no_cycle(package: dict[str, list[Import]]) -> None:
    assert find_cycle(edges(package, top_level_only=True)) is None


def test_torch_is_out_of_reach_where_it_must_be(package: dict[str, list[Import]]) -> None:
    rooms = {
        room: [name for name in package if f"{name}.".startswith(f"edgespa.{room.replace('/', '.')}.")]
        for room in WITHOUT_TORCH
    }
    assert [room for room, names in rooms.items() if not names] == []
    assert [way for names in rooms.values() for name in names if (way := way_to_torch(package, name))] == []


@pytest.mark.parametrize("name", sorted(name for name in edgespa() if name.startswith("edgespa.cli")))
def test_cli_modules_import_only_click_at_their_top(package: dict[str, list[Import]], name: str) -> None:
    allowed = {"click", *sys.stdlib_module_names}
    heavy = [
        f"line {each.line}: {each.target}"
        for each in package[name]
        if each.top_level
        and not each.typing_only
        and each.target.partition(".")[0] not in allowed
        and not each.target.startswith("edgespa.cli._")
    ]
    assert heavy == []


def test_the_runner_imports_nothing_of_ours(package: dict[str, list[Import]]) -> None:
    # It is copied into bundles, to devices that have no edgespa.
    parts = [name for name in package if name.startswith("edgespa.device.runner")]
    imports = [each.target for name in parts for each in package[name] if each.target.startswith("edgespa")]
    assert len(parts) > 5
    shared = {f"edgespa.bundle.{part}" for part in ("external", "limits")}
    shared |= {f"edgespa.pixels.{part}" for part in ("boxes", "picture", "placement", "values")}
    assert [each for each in imports if not each.startswith("edgespa.device.runner.") and each not in shared] == []
    deeper = [each.target for name in shared for each in package[name] if each.target.startswith("edgespa")]
    assert [each for each in deeper if each not in shared] == []


def documented_floors(text: str) -> dict[str, int]:
    """Room -> floor from the table of architecture.md; ``graph/{trace,labels}`` names two rooms."""
    floors = {}
    for floor, rooms in re.findall(r"^\| (\d) \| ([^|]*) \|", text, re.MULTILINE):
        for room in re.findall(r"`([^`]+)`", rooms):
            prefix, brace, inner = room.partition("{")
            for part in inner.rstrip("}/").split(",") if brace else [""]:
                floors[(prefix + part.strip()).rstrip("/").removesuffix(".py")] = int(floor)
    return floors


def test_the_document_names_every_room() -> None:
    documented = documented_floors((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    missing = [room for room in FLOORS if not any(d == room or d.startswith(f"{room}/") for d in documented)]
    assert missing == []
    wrong = {
        room: floor for room, floor in documented.items() if floor != floor_of("edgespa." + room.replace("/", "."))
    }
    assert wrong == {}


def test_extras_named_in_errors_exist(package: dict[str, list[Import]]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("MissingExtraError"):
                named |= {str(arg.value) for arg in call.args[1:] if isinstance(arg, ast.Constant)}
    assert named <= set(extras)


class TestTheReading:
    """The rules above on a package made for them: each violation is seen."""

    def build(self, folder: Path, files: Mapping[str, str]) -> dict[str, list[Import]]:
        for name, text in {"__init__.py": "", **files}.items():
            path = folder / "edgespa" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return read_package(folder / "edgespa")

    def test_imports_inside_functions_and_classes_are_seen(self, tmp_path: Path) -> None:
        text = "class A:\n    import torch\n    def f(self):\n        from edgespa.cli import main\n"
        package = self.build(tmp_path, {"errors.py": text, "cli/__init__.py": "main = 1\n"})
        assert package["edgespa.errors"] == [
            Import("torch", 2, True, False),
            Import("edgespa.cli", 4, False, False),
        ]
        assert edges(package, top_level_only=False)["edgespa.errors"] == {"edgespa.cli": 4}

    def test_relative_imports_and_submodules_are_resolved(self, tmp_path: Path) -> None:
        files = {"graph/__init__.py": "", "graph/trace.py": "from . import labels\nfrom ..errors import X\n"}
        package = self.build(tmp_path, {**files, "graph/labels.py": "", "errors.py": "X = 1\n"})
        assert [each.target for each in package["edgespa.graph.trace"]] == ["edgespa.graph.labels", "edgespa.errors"]

    def test_a_cycle_is_found_and_deferred_or_typing_imports_are_none(self, tmp_path: Path) -> None:
        files = {"a.py": "import edgespa.b\n", "b.py": "from edgespa import c\n", "c.py": "from edgespa.a import f\n"}
        package = self.build(tmp_path, files)
        assert find_cycle(edges(package, top_level_only=True)) == [f"edgespa.{x}" for x in "abca"]
        for text in ("def f():\n    import edgespa.a\n", "if TYPE_CHECKING:\n    import edgespa.a\n"):
            package = self.build(tmp_path, {**files, "c.py": text})
            assert find_cycle(edges(package, top_level_only=True)) is None

    def test_a_cycle_through_a_package_is_found(self, tmp_path: Path) -> None:
        files = {"g/__init__.py": "from edgespa import m\n", "g/x.py": "", "m.py": "import edgespa.g.x\n"}
        cycle = find_cycle(edges(self.build(tmp_path, files), top_level_only=True))
        assert cycle is not None
        assert set(cycle) == {"edgespa.g", "edgespa.m"}

    def test_torch_is_found_behind_two_modules(self, tmp_path: Path) -> None:
        files = {"a.py": "def f():\n    import edgespa.b\n", "b.py": "from edgespa.c import g\n"}
        package = self.build(tmp_path, {**files, "c.py": "def g():\n    from torch.nn import Linear\n"})
        assert way_to_torch(package, "edgespa.a") == ["edgespa.a", "edgespa.b", "edgespa.c", "torch.nn.Linear (line 2)"]
        package = self.build(tmp_path, {**files, "c.py": "from safetensors.numpy import load_file\n"})
        assert way_to_torch(package, "edgespa.a") is None

    def test_floors_go_by_the_longest_room(self) -> None:
        assert floor_of("edgespa.graph.surgery") == 2
        assert floor_of("edgespa.graph.surgery.walk") == 2
        assert floor_of("edgespa.graph.trace") == 1
        assert floor_of("edgespa.elsewhere") is None

    def test_the_document_is_read(self) -> None:
        text = "| 0 | `errors.py` `bundle/` | a |\n| 1 | `graph/{trace, labels}` | `x` |\n"
        assert documented_floors(text) == {"errors": 0, "bundle": 0, "graph/trace": 1, "graph/labels": 1}
