"""The text fields of a saved program: torch looks names up, writes them into Python code, and evaluates some.

So each kind of field has a form that it must have, and a text in a field that is not known here is refused, as is a
field that could bring code along. What serves other purposes than the graph (guards, traces, notes) is left out.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

from edgespa.graph.operators import operator_named
from edgespa.models.expressions import is_plain_expression

_DEPTH = 200
_NAME = re.compile(r"[A-Za-z_]\w{0,500}", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*", re.ASCII)
_KEY = re.compile(r"[\w\-. ]{0,200}", re.ASCII)
_WORD = re.compile(r"[\w\s,.\->]{0,300}", re.ASCII)
_ENDLESS = re.compile(r"-?Infinity|NaN")  # numbers that JSON has no form for; torch makes floats of the words
_DEVICE = re.compile(r"cpu|cuda|mps|xpu|meta")
_CONTAINERS = frozenset(
    {
        "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict",
        "torch.fx.immutable_collections.immutable_list", "torch.fx.immutable_collections.immutable_dict",
    }
)  # fmt: skip
# What is in these is no field: names of tensors, of values and of sizes, such as ``token`` or ``target``.
_NAMED = frozenset(
    {
        "config", "tensor_values", "sym_int_values", "sym_float_values", "sym_bool_values", "range_constraints",
        "opset_version",
    }
)  # fmt: skip
_TAKEN = frozenset({"self", "torch", "device", "inf", "nan", "math"})


class Refused(Exception):
    """A field that loading could run as code, in words."""


def checked_program(values: Any) -> dict[str, Any]:
    """A program's JSON document without what is not the graph, after every text in it was checked.

    Args:
        values: The document.

    Raises:
        Refused: With what is refused.
        KeyError: It has not the parts of a program; `TypeError` and `AttributeError` likewise.
    """
    graph_module = values["graph_module"]
    whole = [entry for entry in graph_module["module_call_graph"] if entry["fqn"] == ""]
    kept = {
        **values,
        "guards_code": [],  # Python, which is run with the program
        "graph_module": {
            **graph_module,
            "metadata": {},
            "treespec_namedtuple_fields": {},
            "module_call_graph": whole,
        },
    }
    _check(kept, "", 0)
    for name in ("input_specs", "output_specs"):
        for spec in graph_module["signature"][name]:
            _check_constant(spec.get("constant_input"))
    return kept


def checked_weights(values: Any) -> dict[str, Any]:
    """The JSON document that says which tensor is made of which entry, after every text in it was checked.

    Raises:
        Refused: With what is refused.
    """
    _check(values, "", 0)
    for name, each in values["config"].items():
        checked_tensor_name(name)
        if each.get("use_pickle") is not False:
            raise Refused(f"a pickled tensor ({name})")
    return dict(values)


def _check(value: Any, key: str, depth: int) -> None:
    if depth > _DEPTH:
        raise Refused("fields in fields without an end")
    if isinstance(value, str):
        check = _TEXTS.get(key)
        if check is None:
            raise Refused(f"the text {value[:60]!r} in a field '{key}'")
        check(value)
    elif isinstance(value, list):
        for each in value:
            _check(each, key, depth + 1)
    elif isinstance(value, dict) and key == "metadata" and all(isinstance(each, str) for each in value.values()):
        _clean(value)
    elif isinstance(value, dict) and key in _NAMED:
        for name, each in value.items():
            if not _PATH.fullmatch(name):
                raise Refused(f"the name {name[:100]!r}")
            _check(each, "", depth + 1)
    elif isinstance(value, dict):
        argument = "arg" in value and "kind" in value
        for name, each in value.items():
            if name in _REFUSED and each not in (None, [], {}):
                raise Refused(f"a field '{name}'")
            if not _PATH.fullmatch(name):
                raise Refused(f"the name {name[:100]!r}")
            _check(each, "argument" if argument and name == "name" else name, depth + 1)


def _clean(notes: dict[str, Any]) -> None:
    """Keep the modules that a node comes from, and the lines of source; other notes are looked up in torch."""
    kept = {}
    for name in ("nn_module_stack", "stack_trace"):
        text = notes.get(name)
        if isinstance(text, str) and len(text) < 50_000 and text.replace("\n", "").isprintable():
            kept[name] = text
    notes.clear()
    notes.update(kept)


def _operator(text: str) -> None:
    if operator_named(text) is None:
        raise Refused(f"the operator {text[:100]!r}")


def _expression(text: str) -> None:
    if not is_plain_expression(text):
        raise Refused(f"the size expression {text[:100]!r}")


def _name(text: str) -> None:
    if not _NAME.fullmatch(text) or keyword.iskeyword(text) or text in _TAKEN:
        raise Refused(f"the name {text[:100]!r}")


def _of(pattern: re.Pattern[str], what: str) -> Callable[[str], None]:
    def check(text: str) -> None:
        if not pattern.fullmatch(text):
            raise Refused(f"the {what} {text[:100]!r}")

    return check


def _tree(text: str) -> None:
    """Inputs and outputs in tuples, lists and dictionaries: other containers name classes, which are imported."""
    protocol, spec = json.loads(text)
    if protocol != 1:
        raise Refused(f"a tree of values of version {protocol!r}")
    waiting = [spec]
    while waiting:
        node = waiting.pop()
        waiting += node["children_spec"]
        if node["type"] is None and node["context"] is None:
            continue
        if node["type"] not in _CONTAINERS:
            raise Refused(f"a container {node['type']!r}")
        context = json.loads(node["context"]) if node["context"] is not None else None
        keys = context if isinstance(context, list) else [] if context is None else [context]
        if not all(isinstance(key, int) or (isinstance(key, str) and _KEY.fullmatch(key)) for key in keys):
            raise Refused(f"the keys {str(keys)[:100]}")


def _check_constant(spec: Mapping[str, Any] | None) -> None:
    value = (spec or {}).get("value") or {}
    if isinstance(value.get("as_string"), str):
        _of(_WORD, "value")(value["as_string"])


def checked_tensor_name(text: str) -> None:
    """Refuse what is no name of a tensor in modules.

    Raises:
        Refused: With the name.
    """
    if not _PATH.fullmatch(text) or any(part.startswith("__") for part in text.split(".")):
        raise Refused(f"the name {text[:100]!r} of a tensor")


_TEXTS: Mapping[str, Callable[[str], None]] = {
    "target": _operator,
    "expr_str": _expression,
    "name": _name,
    "as_name": _name,
    "user_input_name": _name,
    "forward_arg_names": _name,
    "parameter_name": checked_tensor_name,
    "buffer_name": checked_tensor_name,
    "tensor_constant_name": checked_tensor_name,
    "fqn": _of(re.compile(""), "module"),
    "type": _of(_DEVICE, "device"),
    "as_string": _of(_WORD, "word"),
    "as_strings": _of(_WORD, "word"),
    "as_float": _of(_ENDLESS, "number"),
    "as_floats": _of(_ENDLESS, "number"),
    "in_spec": _tree,
    "out_spec": _tree,
    "path_name": _of(re.compile(r"(weight|tensor)_\d{1,9}"), "entry"),
    "argument": _of(re.compile(rf"|{_NAME.pattern}", re.ASCII), "name of an argument"),
    "verifiers": _of(re.compile(r"[A-Z_]{1,40}"), "verifier"),
    "torch_version": _of(re.compile(r"[\w.+<=\-]{0,60}", re.ASCII), "version"),
}
_REFUSED = frozenset({"as_operator", "as_custom_obj", "custom_obj", "custom_obj_values", "token", "class_fqn"})
