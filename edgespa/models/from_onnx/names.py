"""What the parts of a module that comes from an ONNX file are called: as the file calls them, as far as that is a path.

torch's exporters leave the paths of the modules that they came from: one as names of nodes
(``/layer1/layer1.0/conv1/Conv``), the other in their metadata. A layer whose weight still has its name
(``conv1.weight``) is called by that. Else it is the name of the node, or of what it gives.
"""

from __future__ import annotations

import ast
import re
from typing import Any

_SCOPES = "pkg.torch.onnx.name_scopes"
_NO_SCOPE = "_empty_nn_module_stack_from_metadata_hook"
_WEIGHT = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)\.(weight|weight_v|in_proj_weight|kernel)")
_PATH = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
_LONGEST, _DEEPEST = 60, 12


def layer_path(node: Any, weight: str) -> str:
    """The path of a layer with weights of its own.

    Args:
        node: An ``onnx.NodeProto``.
        weight: What its weight is called in the file; empty where it was computed.
    """
    if match := _WEIGHT.fullmatch(weight):
        return match[1]
    parts = _parts(node)
    if len(parts) > 1 and parts[-1].partition("_")[0] in _OPERATORS.get(node.op_type, (node.op_type,)):
        parts = parts[:-1]
    return ".".join(parts)


_OPERATORS = {"Linear": ("MatMul", "Gemm", "Add"), "LayerNorm": ("ReduceMean", "Sub", "LayerNormalization")}


def step_path(node: Any) -> str:
    """The path of a step without weights: of the module that it belongs to, and its operator.

    Args:
        node: An ``onnx.NodeProto``.
    """
    parts = _parts(node)
    if parts[-1].partition("_")[0] != node.op_type:
        parts = [*parts, node.op_type]
    return ".".join(parts)


def tensor_path(name: str) -> str | None:
    """The path of a tensor that is called as one of a module, ``blocks.0.gamma``; None for any other name.

    Args:
        name: In the file.
    """
    return name if _PATH.fullmatch(name) and len(name) <= _LONGEST * 2 and name.count(".") < _DEEPEST else None


def plain(name: str) -> str:
    """A name as Python and paths of modules have them.

    Args:
        name: Any text.
    """
    found = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")[:_LONGEST]
    return found if found and not found[0].isdigit() else f"_{found}"


def _parts(node: Any) -> list[str]:
    scopes = _scopes(node)
    if scopes is not None:
        inner = [*scopes.split("."), node.op_type] if scopes else [node.op_type]
        return [_part(each) for each in inner[-_DEEPEST:]]
    text = node.name or next(iter(node.output), "") or node.op_type
    raw = [part for part in re.split(r"[/;]", text) if part][:_DEEPEST] or [node.op_type]
    parts = []
    for index, part in enumerate(raw):
        above = raw[index - 1] if index else ""
        inside = part.removeprefix(f"{above}.") if above else part
        parts += [_part(each) for each in inside.split(".") if each]
    return parts or [_part(node.op_type)]


def _scopes(node: Any) -> str | None:
    """The path of the module that torch's exporter has noted; None where it noted none."""
    for entry in node.metadata_props:
        if entry.key != _SCOPES or len(entry.value) > 4096:
            continue
        try:
            found = ast.literal_eval(entry.value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            return None
        known = [each for each in found[:-1] if each and each != _NO_SCOPE]
        return known[-1] if known else ""
    return None


def _part(text: str) -> str:
    return re.sub(r"\W", "_", text, flags=re.ASCII)[:_LONGEST] or "_"
