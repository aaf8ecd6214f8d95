"""Tests of a teacher's own nbgrader assignments, which run in the student's kernel: proof that one passed.

nbgrader gives full points to a test that left no error. Here a test gives points only if the kernel ran it to
its end, and if just afterwards a statement that is false still counts as false. The labs do not need this:
their tests run outside (`examine`).
"""

from __future__ import annotations

import ast
import contextlib
import secrets
from typing import Any

from nbformat.v4 import new_code_cell, new_output

from nnopt_lib.course.labs.kernel import BrokenKernelError, StudentKernel

# A false statement, told by everything that tests commonly ask; it must fail, with its token.
CONTROL = """\
assert ({a} == {b} or abs({a} - {b}) < 1 or all([False]) or any([]) or __import__("math").isclose({a}, {b})
    or __import__("numpy").allclose({a}, {b}) or __import__("numpy").array_equal([{a}], [{b}])), {token!r}
"""


def run_test(kernel: StudentKernel, cell: Any) -> None:
    """Execute a test cell; its outputs then hold an error, unless it is proven to have passed."""
    source, token = cell.source, secrets.token_hex(16)
    try:
        cell.source = _with_proof(source, token)
        succeeded = kernel.run(cell)
    finally:
        cell.source = source
    seen = any(token in one.get("text", "") for one in cell.outputs if one.output_type == "stream")
    cell.outputs = _without(cell.outputs, token)
    if not (succeeded and seen):
        cell.outputs = [one for one in cell.outputs if one.output_type != "execute_result"]
        if not any(one.output_type == "error" for one in cell.outputs):
            add_error(cell, "the test did not run to its end")
        return
    if not _control_fails(kernel):
        raise BrokenKernelError("changed how Python tells right from wrong, in or before", final=True)
    results = [one for one in cell.outputs if one.output_type == "execute_result"]
    dropped = results[:-1] if _ends_in_expression(source) else results  # those that others printed
    cell.outputs = [one for one in cell.outputs if not any(one is other for other in dropped)]
    for output in cell.outputs:
        if output.output_type == "stream":
            output.name = "stdout"  # a warning is no failure, which nbgrader takes it for


def add_error(cell: Any, why: str) -> None:
    """Leave an error in a cell's outputs, which nbgrader gives no points for."""
    cell.outputs = [*cell.outputs, new_output("error", ename="NotPassed", evalue=why, traceback=[why])]


def _control_fails(kernel: StudentKernel) -> bool:
    token, a = secrets.token_hex(16), secrets.randbelow(1000)
    control = new_code_cell(CONTROL.format(a=a, b=a + 2 + secrets.randbelow(1000), token=token))
    succeeded = kernel.run(control)
    errors = [one for one in control.outputs if one.output_type == "error"]
    return not succeeded and any(one.ename == "AssertionError" and one.evalue == token for one in errors)


def _ends_in_expression(source: str) -> bool:
    with contextlib.suppress(SyntaxError, ValueError):
        body = ast.parse(source).body
        return bool(body) and isinstance(body[-1], ast.Expr)
    return False


def _with_proof(source: str, token: str) -> str:
    """`source` printing `token` at its end, or before its last value, which nbgrader may read points from."""
    proof = f'__import__("builtins").print({token!r})'
    if not _ends_in_expression(source):
        return f"{source}\n{proof}"
    lines, last = source.splitlines(), ast.parse(source).body[-1]
    return "\n".join([*lines[: last.lineno - 1], proof, *lines[last.lineno - 1 :]])


def _without(outputs: list[Any], token: str) -> list[Any]:
    for output in outputs:
        if output.output_type == "stream":
            output.text = output.text.replace(f"{token}\n", "").replace(token, "")
    return [one for one in outputs if one.output_type != "stream" or one.text]
