"""The files that a piece of Python code is made of.

They are itself, what it imports from beside it, and what lies there in the place of installed modules.

They are read and never run. Another module beside it, imported in other ways than by an ``import``, is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder, all_suffixes
from pathlib import Path

_MOST = 500
_LONGEST = 255
"""Characters of a text that may name a file."""


def code_digest(file: Path, root: Path) -> str:
    """Digest of a file and of all that it imports from below a folder, directly or not, wherever the folder lies.

    A file that would be found there in the place of an installed module counts, whoever imports it.

    Args:
        file: Python source.
        root: The folder that stands on the path for imports while it runs.

    Raises:
        OSError: If one of them cannot be read.
    """
    digest = hashlib.sha256()
    for path, content in code_files(file, root):
        digest.update(f"{path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name}\0".encode())
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def code_files(file: Path, root: Path) -> Iterator[tuple[Path, bytes]]:
    """A file, and all that it imports from below a folder, directly or not, with their content; see `code_digest`.

    Args:
        file: Python source.
        root: As `code_digest`.

    Raises:
        OSError: If one of them cannot be read.
    """
    # The packages that it lies in are run first.
    above = [folder / "__init__.py" for folder in file.parents if folder.is_relative_to(root) and folder != root]
    waiting = [*(each for each in above if each.is_file() and each != file), *_in_place_of_others(root), file]
    seen = set(waiting)
    while waiting and len(seen) <= _MOST:
        path = waiting.pop()
        content = path.read_bytes()
        yield path, content
        for found in sorted(_imported(content, path, root)):
            if found not in seen:
                seen.add(found)
                waiting.append(found)


def named_beside(content: bytes, root: Path) -> set[Path]:
    """Files below a folder that code names in a text of its own, such as weights: ``HERE / "net.safetensors"``.

    Args:
        content: Python source.
        root: The folder that it lies in.
    """
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) <= _LONGEST:
            parts = Path(node.value).parts
            if "\0" in node.value or not parts or Path(node.value).is_absolute() or ".." in parts:
                continue
            path = root.joinpath(*parts)
            try:
                if path.is_file():
                    found.add(path)
            except OSError:  # no name of a file
                continue
    return found


def _imported(content: bytes, path: Path, root: Path) -> set[Path]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # not Python after all: it will not run
        return set()
    return {each for name in _names(tree, path, root) for each in _files(name, root)}


def _names(tree: ast.AST, path: Path, root: Path) -> Iterator[tuple[str, ...]]:
    """The dotted names that are imported, and those of what is taken out of them, which may be modules."""
    package = path.parent.relative_to(root).parts if path.is_relative_to(root) else ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            whole = (*above, *(node.module.split(".") if node.module else ()))
            yield whole
            for alias in node.names:
                yield (*whole, alias.name)


def _files(name: tuple[str, ...], root: Path) -> Iterator[Path]:
    """The files that are run when a module is imported: its own and those of the packages that it lies in."""
    folder = root
    for part in name:
        for suffix in all_suffixes():
            for candidate in (folder / part / f"__init__{suffix}", folder / f"{part}{suffix}"):
                if candidate.is_file():
                    yield candidate
        folder = folder / part


def _in_place_of_others(root: Path) -> Iterator[Path]:
    """Files in a folder that are named as modules of Python or of installed packages."""
    elsewhere = [entry for entry in sys.path if entry and Path(entry).resolve() != root]
    for entry in sorted(root.iterdir()) if root.is_dir() else ():
        name = entry.name.partition(".")[0]
        if not name.isidentifier() or not (entry.is_dir() or entry.name.endswith(tuple(all_suffixes()))):
            continue
        if name in sys.stdlib_module_names or PathFinder.find_spec(name, elsewhere) is not None:
            yield from _files((name,), root)
