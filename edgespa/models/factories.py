"""What in a Python file may give a network when it is called with nothing: by its text, which is parsed and not run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from edgespa.system.files import plain_text

_MOST_BYTES = 1 << 20
_MAKERS = ("build", "make", "create", "get_model", "model", "net", "network")
"""How functions begin that give a network."""


def factories_in(file: Path) -> list[str]:
    """Their names, the likeliest first: functions that say so, functions that are called so, classes of modules.

    Args:
        file: From wherever; one that is no Python, or too large, has none.
    """
    try:
        tree = ast.parse(plain_text(file, most=_MOST_BYTES))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [name for _, name in sorted(_ranked(tree), key=lambda found: found[0])]


def _ranked(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and _is_free(node, 0):
            gives = ast.unparse(node.returns).rpartition(".")[2] if node.returns is not None else ""
            if gives in ("Module", "Sequential"):
                yield 0, node.name
            elif node.name.startswith(_MAKERS) and not gives:
                yield 1, node.name
        elif isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Module") for base in node.bases):
            made = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
            if not made or _is_free(made[0], 1):
                yield 2, node.name


def _is_free(node: ast.FunctionDef, bound: int) -> bool:
    """Whether it can be called with nothing but ``bound`` arguments."""
    of = node.args
    required = len(of.posonlyargs) + len(of.args) - len(of.defaults)
    return required <= bound and all(each is not None for each in of.kw_defaults)
