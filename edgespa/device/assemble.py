"""One file out of the parts of the runner: what a bundle has as ``run.py``."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PARTS = ("bundle", "runtimes", "models", "check", "measure", "answer", "command")
"""In the order in which names are defined before they are used."""

_FOLDER = Path(__file__).with_name("runner")
_OWN = "edgespa.device.runner."
_DOC = '''"""Runs the models of this bundle: checks them, measures them, says what they see in an image.

Joined by edgespa from parts, which are what is tested. It stands alone: Python 3.8 or newer, numpy, and one of
onnxruntime, ai_edge_litert, tflite_runtime or tensorflow; Pillow only for --input IMAGE. It reads manifest.json beside
itself.
"""
'''
_END = """
if __name__ == "__main__":
    sys.exit(main())
"""


@cache
def runner_source() -> bytes:
    """The runner as one file: the imports of all parts, then their bodies, each below a line with its title."""
    imports: set[str] = set()
    bodies = []
    for part in PARTS:
        text = (_FOLDER / f"{part}.py").read_text(encoding="utf-8")
        title, found, body = _split(text)
        imports |= found
        bodies.append(f"\n\n# {'-' * 16} {title}\n\n{body}")
    plain = sorted(line for line in imports if "numpy" not in line)
    ordered = [line for line in plain if line.startswith("import")] + [line for line in plain if line[0] == "f"]
    head = [_DOC, "from __future__ import annotations\n", *ordered, "\nimport numpy as np"]
    return ("\n".join(head) + "".join(bodies) + "\n" + _END).encode()


def _split(text: str) -> tuple[str, set[str], str]:
    """A part's title, its imports but those of other parts, and the rest as it stands there."""
    tree = ast.parse(text)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    foreign = {
        ast.unparse(node)
        for node in imports
        if not (isinstance(node, ast.ImportFrom) and str(node.module).startswith((_OWN, "__future__")))
    }
    body = "\n".join(text.splitlines()[imports[-1].end_lineno :])
    return (ast.get_docstring(tree) or "").splitlines()[0], foreign, body.strip("\n")
