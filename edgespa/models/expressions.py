"""Size expressions of a saved program, which torch evaluates as Python text: plain arithmetic of sizes, and small."""

from __future__ import annotations

import ast
import re
from typing import Any

_CALLS = frozenset(
    {
        "Add", "Mul", "Max", "Min", "Mod", "Abs", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Equality",
        "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "Piecewise", "ExprCondPair",
        "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv",
        "FloatTrueDiv", "IntTrueDiv", "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt",
        "RoundDecimal", "ToFloat", "Identity", "floor", "ceiling",
    }
)  # fmt: skip
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow"})
_NUMBERS = frozenset({"Integer", "Float", "Rational"})
_WORDS = frozenset({"true", "false"})
_SYMBOL = re.compile(r"[a-z]{1,4}\d{1,9}")
_NUMERAL = re.compile(r"-?\d{1,18}(\.\d{0,40})?(e[+-]?\d{1,3})?")
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub, ast.UAdd)
_COMPARED = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_LENGTH, _EXPONENT, _NESTED = 4000, 8, 2


def is_plain_expression(text: Any) -> bool:
    """Whether evaluating a text computes a size from sizes and nothing else, and not one of a million digits.

    Args:
        text: As a saved program has it, ``Mul(Integer(2), Symbol('s0', integer=True))``.
    """
    if not isinstance(text, str) or len(text) > _LENGTH or "#" in text:
        return False
    try:
        return _is_plain(ast.parse(text, mode="eval").body, 0)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_plain(node: ast.expr, powers: int) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and abs(node.value) < 2**63
    if isinstance(node, ast.Name):
        return node.id in _WORDS or _SYMBOL.fullmatch(node.id) is not None
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, _OPERATORS) and _is_plain(node.operand, powers)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _is_power(node.left, node.right, powers)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, _OPERATORS) and _is_plain(node.left, powers) and _is_plain(node.right, powers)
    if isinstance(node, ast.Compare):
        compared = all(isinstance(each, _COMPARED) for each in node.ops)
        return compared and all(_is_plain(each, powers) for each in (node.left, *node.comparators))
    if isinstance(node, ast.Tuple):
        return all(_is_plain(each, powers) for each in node.elts)
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and _is_call(node, node.func.id, powers)


def _is_call(node: ast.Call, name: str, powers: int) -> bool:
    if not all(each.arg and isinstance(each.value, ast.Constant) and _is_flag(each.value) for each in node.keywords):
        return False
    if name == "Symbol":
        return len(node.args) == 1 and _is_text(node.args[0], _SYMBOL)
    if name in _NUMBERS:
        return bool(node.args) and all(
            _is_text(each, _NUMERAL) or (not isinstance(each, ast.Call) and _is_plain(each, powers))
            for each in node.args
        )
    if name in _POWERS:
        return len(node.args) == 2 and _is_power(node.args[0], node.args[1], powers)
    return name in _CALLS and all(_is_plain(each, powers) for each in node.args)


def _is_flag(value: ast.Constant) -> bool:
    return isinstance(value.value, bool) or (isinstance(value.value, int) and 0 <= value.value < 1000)


def _is_text(node: ast.expr, pattern: re.Pattern[str]) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(pattern.fullmatch(node.value))


def _is_power(base: ast.expr, exponent: ast.expr, powers: int) -> bool:
    """Small exponents only, written as numbers, and few of them in one another: sympy works powers of numbers out."""
    if isinstance(exponent, ast.Call) and isinstance(exponent.func, ast.Name) and exponent.func.id in _NUMBERS:
        inside: list[ast.expr] = exponent.args
    else:
        inside = [exponent]
    values = []
    for each in inside:
        negative = isinstance(each, ast.UnaryOp) and isinstance(each.op, ast.USub)
        value = each.operand if isinstance(each, ast.UnaryOp) and negative else each
        if not isinstance(value, ast.Constant):
            return False
        values.append(str(value.value))
    try:
        small = all(abs(float(value)) <= _EXPONENT for value in values)
    except ValueError:
        return False
    return bool(values) and small and powers < _NESTED and _is_plain(base, powers + 1)
