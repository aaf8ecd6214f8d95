"""What a student typed as an answer, read from a cell's text: literals and arithmetic, never executed."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

OPERATORS: dict[type, Callable[..., Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
        ast.USub: operator.neg,
        ast.UAdd: operator.pos,
    },
}


def _rounded(number: Any, ndigits: int | None = None) -> Any:
    # Python's own would make a power of ten of any size, and compute for hours.
    return round(number, None if ndigits is None else min(max(int(ndigits), -400), 400))


# What people wrap a number in that they copied from an output or rounded.
CALLS: dict[str, Callable[..., Any]] = {
    **{"round": _rounded, "float": float, "int": int, "abs": abs, "str": str, "bool": bool, "dict": dict},
    **dict.fromkeys(("float64", "float32", "float16"), float),
    **dict.fromkeys(("int64", "int32", "int16", "int8", "uint8"), int),
    **{"bool_": bool, "str_": str},
}
MOST_LETTERS = 10_000
MOST_PARTS, DEEPEST = 1000, 10  # of what is known under a name, letters of texts included


class NotTypedError(Exception):
    """An answer that is computed, not typed."""


def typed(source: str, name: str, known: Mapping[str, Any] | None = None) -> Any:
    """The value that a cell's text gives to `name`: literals, arithmetic on them, or names typed before.

    Raises `KeyError` where the cell does not assign `name`, `NotTypedError` where it is computed.
    """
    values: dict[str, Any] = dict(known or {})
    assigned = False
    for statement in _statements(source):
        for target, value in _assignments(statement):
            assigned = _assign(values, name, target, value) or assigned
    if not assigned:
        raise KeyError(name)
    if name not in values:
        raise NotTypedError(name)
    return values[name]


def _statements(source: str) -> Sequence[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _assignments(statement: ast.stmt) -> list[tuple[ast.expr, ast.expr]]:
    if isinstance(statement, ast.Assign):
        return [(target, statement.value) for target in statement.targets]
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return [(statement.target, statement.value)]
    call = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "update":
        return [(call.func, call)]
    return []


def _assign(values: dict[str, Any], name: str, target: ast.expr, value: ast.expr) -> bool:
    """Carry out one assignment if it can be read; returns whether it was to `name` or a part of it."""
    whole = isinstance(target, ast.Name)
    base = target if whole else getattr(target, "value", None)
    called = base.id if isinstance(base, ast.Name) else None
    if called is None:
        return False
    try:
        if whole:
            values[called] = evaluate(value, values)
        elif isinstance(target, ast.Subscript):
            values[called] = {**values[called], evaluate(target.slice, values): evaluate(value, values)}
        elif isinstance(value, ast.Call):  # update
            parts = [evaluate(part, values) for part in value.args]
            parts += [{part.arg: evaluate(part.value, values)} for part in value.keywords]
            for part in parts:
                values[called] = {**values[called], **part}
    except Exception:  # NotTypedError, or arithmetic that cannot be done: the kernel will know
        values.pop(called, None)
    return called == name


def evaluate(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """The value of an expression of literals, else `NotTypedError`; names are looked up in `known` only."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, type(None), type(...))):
        return node.value
    if isinstance(node, ast.Name) and node.id in known:
        _parts(known[node.id])
        return known[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [evaluate(one, known) for one in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        keys = [evaluate(key, known) for key in node.keys if key is not None]
        return dict(zip(keys, (evaluate(one, known) for one in node.values), strict=True))
    if isinstance(node, ast.Subscript):
        return evaluate(node.value, known)[evaluate(node.slice, known)]
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_number(node.operand, known))
    if isinstance(node, ast.BinOp):
        return _arithmetic(node, known)
    if isinstance(node, ast.Call):
        return _call(node, known)
    raise NotTypedError(ast.dump(node)[:40])


def _parts(value: Any, depth: int = 0, before: int = 0) -> int:
    """How large a value is; `NotTypedError` if too large, as lists of lists of lists soon are."""
    count = before + (len(value) if isinstance(value, str) else 1)
    if count > MOST_PARTS or depth > DEEPEST:
        raise NotTypedError("too large")
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    for part in parts if isinstance(parts, (list, tuple)) else ():
        count = _parts(part, depth + 1, count)
    return count


def _arithmetic(node: ast.BinOp, known: Mapping[str, Any]) -> Any:
    left, right = _number(node.left, known), _number(node.right, known)
    if isinstance(node.op, ast.Pow) and abs(right) <= 64 and abs(left) <= 1e6:  # no power that fills memory
        return left**right
    if type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](left, right)
    raise NotTypedError("operator")


def _number(node: ast.expr, known: Mapping[str, Any]) -> Any:
    value = evaluate(node, known)
    if isinstance(value, (int, float)) and (isinstance(value, float) or value.bit_length() < 1024):
        return value
    raise NotTypedError("no number")


def _call(node: ast.Call, known: Mapping[str, Any]) -> Any:
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name not in CALLS or name in known:
        raise NotTypedError(name)
    if isinstance(function, ast.Attribute) and not isinstance(function.value, ast.Name):
        raise NotTypedError(name)
    arguments = [evaluate(one, known) for one in node.args]
    options = {part.arg: evaluate(part.value, known) for part in node.keywords if part.arg}
    if len(options) != len(node.keywords) or any(len(str(one)) > MOST_LETTERS for one in arguments):
        raise NotTypedError(name)
    return CALLS[name](*arguments, **options)
