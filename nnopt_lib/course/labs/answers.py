"""What a student typed as an answer, read from a cell's text: literals and arithmetic, never executed."""

from __future__ import annotations

import ast
import contextlib
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
# What people wrap a number in that they copied from an output or rounded.
CALLS: dict[str, Callable[..., Any]] = {
    **{"round": round, "float": float, "int": int, "abs": abs, "str": str, "bool": bool, "dict": dict},
    **dict.fromkeys(("float64", "float32", "float16"), float),
    **dict.fromkeys(("int64", "int32", "int16", "int8", "uint8"), int),
    **{"bool_": bool, "str_": str},
}
SMALL = (str, int, float, type(None), type(...))
MOST_LETTERS, MOST_OF_A_TEXT = 10_000, 1000
MOST_BITS = 4096  # of a whole number: Python writes no more than 4300 digits
MOST_DIGITS = 1000  # to round to
OF_PYTHON = ("%%time", "%%capture", "%%prun")  # and %%timeit, which keeps no variables, but means well


class NotTypedError(Exception):
    """An answer that is computed, not typed."""


def typed(sources: str | Sequence[str], name: str) -> Any:
    """The value that cells' texts, in their order, give to `name`: literals, and arithmetic on them.

    Raises `KeyError` where no cell gives it a value, `NotTypedError` where the last one was computed: also
    where a loop, a method or anything else may have changed what was typed.
    """
    values: dict[str, Any] = {}
    assigned = False
    for source in [sources] if isinstance(sources, str) else sources:
        if name in source:  # others need no reading
            for statement in _statements(source):
                assigned = _carry_out(statement, values, name) or assigned
    if not assigned:
        raise KeyError(name)
    if name not in values:
        raise NotTypedError(name)
    return values[name]


def _statements(source: str) -> Sequence[ast.stmt]:
    if source.startswith("%%") and not source.startswith(OF_PYTHON):
        return []  # another language, or a file
    for text in (source, "\n".join(map(_without_magic, source.splitlines()))):
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            return ast.parse(text).body
    return []


def _without_magic(line: str) -> str:
    """A line that Python can read in place of one that only IPython understands."""
    words = line.strip()
    is_magic = words.startswith(("%", "!", "?")) or words.endswith("?")
    return line[: len(line) - len(line.lstrip())] + "pass" if is_magic else line


def _carry_out(statement: ast.stmt, values: dict[str, Any], name: str) -> bool:
    """Make the assignments of a statement in `values`; returns whether `name` was among them."""
    changed = _changed(statement, values)
    made = set[str | None]()
    # NotTypedError, or arithmetic that cannot be done: the kernel will know.
    with contextlib.suppress(Exception):
        targets, value = _assignment(statement)
        whole = [target for target in targets if isinstance(target, ast.Name)]
        if whole:  # evaluated once, since a = b = {} is one dictionary of two names
            result = _whole(value, values) if isinstance(value, ast.Name) else evaluate(value, values)
            values |= {target.id: result for target in whole}
        for target in targets:
            _assign_part(values, target, value)
        made = {_base(target) for target in targets}
    for one in changed - made:
        lost = values.pop(one, None)
        if isinstance(lost, (list, dict)):  # under its other names, too
            for other in [key for key, value in values.items() if value is lost]:
                del values[other]
    return name in changed


def _changed(statement: ast.stmt, values: Mapping[str, Any]) -> set[str]:
    """The names to which a statement may give another meaning or other contents."""
    nodes = list(ast.walk(statement))
    names = {getattr(node, "name", None) for node in nodes}  # functions, classes, exceptions, patterns
    names |= {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}
    for node in nodes:
        if isinstance(node, (ast.Name, ast.Subscript, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
            names.add(_base(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            base = _base(node.func)  # of a method, as append
            names |= {base} if isinstance(values.get(str(base)), (list, dict)) else set()
    return {one for one in names if isinstance(one, str)}


def _base(target: ast.AST) -> str | None:
    """The name in ``name``, ``name["a"]``, ``name["a"][0]`` and ``name.update``."""
    while isinstance(target, (ast.Subscript, ast.Attribute)):
        target = target.value
    return target.id if isinstance(target, ast.Name) else None


def _assignment(statement: ast.stmt) -> tuple[list[ast.expr], ast.expr]:
    """Targets and value of an assignment; those of ``name.update(...)`` are its function and itself."""
    if isinstance(statement, ast.Assign):
        return statement.targets, statement.value
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return [statement.target], statement.value
    call = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "update":
        return [call.func], call
    raise NotTypedError("statement")


def _assign_part(values: dict[str, Any], target: ast.expr, value: ast.expr) -> None:
    """Carry out an assignment to a part of what a name stands for, or raise what stands against it."""
    if isinstance(target, ast.Subscript):
        _whole(target.value, values)[evaluate(target.slice, values)] = evaluate(value, values)
    elif isinstance(target, ast.Attribute) and isinstance(value, ast.Call):  # update
        contents = _whole(target.value, values)
        for part in value.args:
            contents.update(evaluate(part, values))
        for option in value.keywords:
            if option.arg is None:
                raise NotTypedError("**")
            contents[option.arg] = evaluate(option.value, values)
    elif not isinstance(target, ast.Name):
        raise NotTypedError("target")


def _whole(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """The value of an expression, which may be a list or dictionary that a name stands for."""
    if isinstance(node, ast.Name):
        if node.id not in known:
            raise NotTypedError(node.id)
        return known[node.id]
    if isinstance(node, ast.Subscript):
        return _whole(node.value, known)[evaluate(node.slice, known)]
    return evaluate(node, known)


def evaluate(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """The value of an expression of literals, else `NotTypedError`; names are looked up in `known` only."""
    if isinstance(node, ast.Constant) and isinstance(node.value, SMALL):
        if isinstance(node.value, int) and node.value.bit_length() > MOST_BITS:
            raise NotTypedError("a number that Python does not write out")
        return node.value
    if isinstance(node, (ast.Name, ast.Subscript)):
        value = _whole(node, known)
        if isinstance(value, SMALL) and (not isinstance(value, str) or len(value) <= MOST_OF_A_TEXT):
            return value
        raise NotTypedError("name")  # ten lists, each of ten names for lists, and so on, fill any memory
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [evaluate(one, known) for one in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        keys = [evaluate(key, known) for key in node.keys if key is not None]
        return dict(zip(keys, (evaluate(one, known) for one in node.values), strict=True))
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_number(node.operand, known))
    if isinstance(node, ast.BinOp):
        return _arithmetic(node, known)
    if isinstance(node, ast.Call):
        return _call(node, known)
    raise NotTypedError(ast.dump(node)[:40])


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
    digits = [*arguments[1:], *options.values()] if name == "round" else []
    if any(isinstance(one, int) and abs(one) > MOST_DIGITS for one in digits):
        raise NotTypedError(name)  # a power of ten that fills memory
    return CALLS[name](*arguments, **options)
