"""One file out of several parts: the runner that a bundle has as ``run.py``, and the agent that devices get."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache

from edgespa.system.sources import own_source

PARTS = (
    *(
        "external",
        "limits",
        "bundle",
        "cores",
        "values",
        "tensors",
        "weights",
        "layouts",
        "processor",
        "engines",
        "trtexec",
        "in_onnxruntime",
        "in_litert",
        "in_openvino",
        "in_ncnn",
        "in_executorch",
        "in_trtexec",
        "runtimes",
        "models",
        "sets",
        "places",
        "compare",
        "arrays",
        "check",
        "confine",
        "layers",
        "measure",
    ),
    *(
        "placement",
        "picture",
        "boxes",
        "inputs",
        "points",
        "maps",
        "answer",
        "draw",
        "model",
        "many",
        "batches",
        "command",
    ),
)
"""Of the runner, in the order in which names are defined before they are used."""

AGENT_PARTS = (
    *("protocol", "place", "system", "facts", "share", "sensors", "disk", "cache", "copies", "environment"),
    *("processes", "watched", "versions", "tasks"),
    *("update_lock", "window", "fetching", "index", "remembered", "self_check", "units", "unit", "watch", "in_use"),
    *("guard", "set_up", "pull", "answers", "command", "by_hand"),
)
"""Of the agent, likewise."""

_OWN = "edgespa."
_SHARED = {
    **dict.fromkeys(("external", "limits"), ("bundle",)),
    **dict.fromkeys(("values", "placement", "picture", "boxes"), ("pixels",)),
}  # they stand alone, as all parts do
_DOC = '''"""Runs the models of this bundle: checks them, measures them, says what they see in images.

For programs: ``model = run.Model(folder); model(image).answer``, see the class Model below.
Joined by edgespa from parts, which are what is tested. It stands alone: Python 3.8 or newer, numpy, and one of
onnxruntime, openvino, ncnn, executorch, ai_edge_litert, tflite_runtime or tensorflow; Pillow only for --input IMAGE. It
reads manifest.json beside itself.
"""
'''
_AGENT_DOC = '''"""What edgespa runs on this device: facts, files by their digest, locks, watched processes.

Joined from parts, which are what is tested. Python 3.8 or newer and nothing else. It can be removed: edgespa puts it
back when it is needed.
"""
'''
_END = """
if __name__ == "__main__":
    sys.exit(main({}))
"""
_IMPORTED = """
forget_bytecode(getattr(globals().get("__spec__"), "cached", None))
"""


@cache
def runner_source() -> bytes:
    """The runner as one file: the imports of all parts, then their bodies, each below a line with its title."""
    return _joined("runner", PARTS, _DOC, _END.format("alone=True") + _IMPORTED)


@cache
def agent_source() -> bytes:
    """The agent as one file, in the same way."""
    return _joined("agent", AGENT_PARTS, _AGENT_DOC, _END.format(""))


def _joined(folder: str, parts: Sequence[str], doc: str, end: str) -> bytes:
    imports: set[str] = set()
    bodies = []
    for part in parts:
        text = own_source(*_SHARED.get(part, ("device", folder)), f"{part}.py")
        title, found, body = _split(text)
        imports |= found
        bodies.append(f"\n\n# {'-' * 16} {title}\n\n{body}")
    plain = sorted(line for line in imports if "numpy" not in line)
    ordered = [line for line in plain if line.startswith("import")] + [line for line in plain if line[0] == "f"]
    others = ["\nimport numpy as np"] if len(plain) < len(imports) else []
    head = [doc, "from __future__ import annotations\n", *ordered, *others]
    return ("\n".join(head) + "".join(bodies) + "\n" + end).encode()


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
