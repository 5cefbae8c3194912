"""One operator as a Python expression: as one types it where that is the same, else by its full name."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from edgespa.errors import ExportError
from edgespa.exporting.onward.matching import bound

Write = Callable[[Any], str]

_BETWEEN = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "matmul": "@", "bmm": "@", "mm": "@", "eq": "==", "ne": "!=",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "bitwise_and": "&", "bitwise_or": "|", "pow": "**",
}  # fmt: skip
_OF_PYTHON = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/", operator.floordiv: "//",
    operator.mod: "%", operator.pow: "**", operator.eq: "==", operator.ne: "!=", operator.lt: "<", operator.le: "<=",
    operator.gt: ">", operator.ge: ">=",
}  # fmt: skip
# Names of operators whose arguments, in their order, are those of the method or the function of that name.
_METHODS = frozenset(
    [
        "view", "reshape", "permute", "transpose", "contiguous", "unsqueeze", "squeeze", "expand", "flatten",
        "unflatten", "mean", "sum", "amax", "amin", "chunk", "split", "select", "softmax", "log_softmax", "sigmoid",
        "tanh", "exp", "log", "sqrt", "rsqrt", "abs", "neg", "clone", "detach", "repeat", "roll", "flip", "clamp",
        "cumsum", "argmax", "argmin", "topk", "gather", "masked_fill", "square", "sin", "cos", "erf", "reciprocal",
        "floor", "ceil", "round", "logical_not", "unbind", "movedim", "narrow", "t", "var", "std", "prod", "any",
        "all", "sign", "expand_as", "type_as", "view_as", "maximum", "minimum", "index_select", "tril", "triu",
        "logical_and", "logical_or", "sort", "reshape_as",
    ]
)  # fmt: skip
_FUNCTIONS = frozenset(
    [
        "relu", "relu6", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu", "gelu", "selu",
        "celu", "softplus", "glu", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
        "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "linear", "conv1d", "conv2d", "conv3d",
        "pad", "pixel_shuffle", "pixel_unshuffle", "scaled_dot_product_attention", "one_hot", "logsigmoid",
    ]
)  # fmt: skip
_TORCH = frozenset(["cat", "stack", "where", "einsum", "baddbmm", "addmm", "outer", "meshgrid"])
_MADE = frozenset(
    [
        "arange",
        "zeros",
        "ones",
        "full",
        "empty",
        "linspace",
        "eye",
        "zeros_like",
        "ones_like",
        "full_like",
        "scalar_tensor",
    ]
)
_RESIZED = {
    "upsample_nearest1d": "nearest", "upsample_nearest2d": "nearest", "upsample_nearest3d": "nearest",
    "upsample_linear1d": "linear", "upsample_bilinear2d": "bilinear", "upsample_trilinear3d": "trilinear",
    "upsample_bicubic2d": "bicubic",
}  # fmt: skip
_LEFT_OUT = ("layout", "pin_memory", "device")
_END = 1 << 62


def expression(node: fx.Node, write: Write, device: str | None) -> str:
    """What computes an operator.

    Args:
        node: A call of an operator.
        write: Writes an argument.
        device: What says where new tensors are made; None for the CPU.

    Raises:
        ExportError: If torch alone does not have the operator.
    """
    target = node.target
    if target in _OF_PYTHON:
        return f"{_operand(node.args[0], write)} {_OF_PYTHON[target]} {_operand(node.args[1], write)}"
    if target is operator.getitem:
        return f"{write(node.args[0])}[{write(node.args[1])}]"
    if target is operator.neg:
        return f"-{_operand(node.args[0], write)}"
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in ("aten", "prims"):
        named = getattr(target, "__name__", None)
        if named and re.fullmatch("sym_[a-z]+", named) and getattr(torch, named, None) is target:
            return f"torch.{named}({', '.join(map(write, node.args))})"
        raise unwritable(node)
    values = bound(node)
    name = target._schema.name.partition("::")[2]
    own = _SPECIAL.get(name)
    found = own(values, write) if own is not None and target.namespace == "aten" else None
    if found is None and name in _RESIZED and "scale_factors" in values:
        found = _resized(name, values, write)
    return found if found is not None else _called(node, target, name, values, write, device)


def unwritable(node: fx.Node) -> ExportError:
    """The error that names what cannot be written.

    Args:
        node: The operator.
    """
    places = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    return ExportError(
        f"the network has {node.target} ({places[-1] if places else node.name}), which torch alone does not have",
        "export --format pt2, which needs the library that it is of",
    )


def literal(value: Any, write: Write) -> str:
    """A value that is no node, as Python writes it.

    Args:
        value: Numbers, texts, types, lists of these and of nodes.
        write: Writes nodes.

    Raises:
        ExportError: If there is no way to write it.
    """
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    if isinstance(value, torch.device):
        return repr(str(value))
    if isinstance(value, list | tuple):
        inside = ", ".join(map(write, value))
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {write(each)}" for key, each in value.items()) + "}"
    if isinstance(value, slice):
        return f"slice({write(value.start)}, {write(value.stop)}, {write(value.step)})"
    raise ExportError(
        f"the network holds a {type(value).__name__}, which cannot be written as Python", "export --format pt2"
    )


def _operand(value: Any, write: Write) -> str:
    text = write(value)
    return text if re.fullmatch(r"[\w.]+(\[[\w, ]*\])?|\w[\w.]*\([^()]*\)", text) else f"({text})"


def _called(node: fx.Node, target: Any, name: str, values: dict[str, Any], write: Write, device: str | None) -> str:
    arguments = target._schema.arguments
    between = _BETWEEN.get(name)
    if between is not None and len(arguments) >= 2 and values.get("alpha", 1) == 1 and "rounding_mode" not in values:
        first, second = (values[each.name] for each in arguments[:2])
        return f"{_operand(first, write)} {between} {_operand(second, write)}"
    plain = [each for each in arguments if not each.kwarg_only]
    while plain and plain[-1].has_default_value() and _same(values[plain[-1].name], plain[-1].default_value):
        plain.pop()
    texts = [device or "'cpu'" if each.name == "device" else write(values[each.name]) for each in plain]
    for each in arguments:
        if each.kwarg_only and each.name not in _LEFT_OUT and not _same(values[each.name], each.default_value):
            texts.append(f"{each.name}={write(values[each.name])}")
    by_name = any(each.name == "device" and each.kwarg_only for each in arguments)
    if by_name and (name in _MADE or values["device"] is not None) and device is not None:
        texts.append(f"device={device}")
    if target.namespace == "aten" and texts:
        if name in _METHODS and isinstance(values[arguments[0].name], fx.Node):
            return f"{texts[0]}.{name}({', '.join(texts[1:])})"
        if name in _FUNCTIONS:
            return f"F.{name}({', '.join(texts)})"
        if name in _TORCH or name in _MADE:
            return f"torch.{name}({', '.join(texts)})"
    return f"torch.ops.{target.namespace}.{name}.{target._overloadname}({', '.join(texts)})"


def _same(value: Any, default: Any) -> bool:
    """Whether a value is its default: 1 is that of a list of sizes, too, and True is not 1."""
    if isinstance(value, fx.Node):
        return False
    if isinstance(value, list | tuple):
        return isinstance(default, list | tuple) and list(value) == list(default)
    return type(value) is type(default) and value == default


def _slice(values: dict[str, Any], write: Write) -> str | None:
    dim, start, end, step = values["dim"], values["start"], values["end"], values["step"]
    if not isinstance(dim, int) or not 0 <= dim <= 4:
        return None
    first = "" if start in (None, 0) else write(start)
    last = "" if end is None or (isinstance(end, int) and end > _END) else write(end)
    by = "" if step == 1 else f":{write(step)}"
    return f"{write(values['self'])}[{':, ' * dim}{first}:{last}{by}]"


def _select(values: dict[str, Any], write: Write) -> str | None:
    dim = values["dim"]
    if not isinstance(dim, int) or not 0 <= dim <= 4:
        return None
    return f"{write(values['self'])}[{':, ' * dim}{write(values['index'])}]"


def _batch_norm(values: dict[str, Any], write: Write) -> str | None:
    order = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    return f"F.batch_norm({', '.join(write(values[each]) for each in order)})"


def _layer_norm(values: dict[str, Any], write: Write) -> str | None:
    order = ("input", "normalized_shape", "weight", "bias", "eps")
    return f"F.layer_norm({', '.join(write(values[each]) for each in order)})"


def _group_norm(values: dict[str, Any], write: Write) -> str | None:
    order = ("input", "num_groups", "weight", "bias", "eps")
    return f"F.group_norm({', '.join(write(values[each]) for each in order)})"


def _embedding(values: dict[str, Any], write: Write) -> str | None:
    return f"F.embedding({write(values['indices'])}, {write(values['weight'])})"


def _copied(values: dict[str, Any], write: Write) -> str | None:
    kind = values.get("dtype")
    return (
        None
        if kind is None or values.get("memory_format") is not None
        else f"{write(values['self'])}.to({write(kind)})"
    )


def _to(values: dict[str, Any], write: Write) -> str | None:
    if values.get("copy") or values.get("memory_format") is not None or "dtype" not in values or "device" in values:
        return None
    return f"{write(values['self'])}.to({write(values['dtype'])})"


def _index(values: dict[str, Any], write: Write) -> str | None:
    places = ", ".join(":" if each is None else write(each) for each in values["indices"])
    return f"{write(values['self'])}[{places}]"


def _resized(name: str, values: dict[str, Any], write: Write) -> str:
    mode = _RESIZED[name]
    texts = [write(values["input"])]
    if values["output_size"] is not None:
        texts.append(f"size={write(values['output_size'])}")
    else:
        texts.append(f"scale_factor={write(values['scale_factors'])}")
    texts.append(f'mode="{mode}"')
    if values.get("align_corners"):
        texts.append("align_corners=True")
    return f"F.interpolate({', '.join(texts)})"


def _split(values: dict[str, Any], write: Write) -> str | None:
    return f"{write(values['self'])}.split({write(values['split_sizes'])}, {write(values['dim'])})"


_SPECIAL: dict[str, Callable[[dict[str, Any], Write], str | None]] = {
    "slice": _slice,
    "select": _select,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "embedding": _embedding,
    "_to_copy": _copied,
    "to": _to,
    "index": _index,
    "split_with_sizes": _split,
}
