"""Cells as syntax trees, nothing executed; functions as texts that are equal if only their names differ."""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nnopt_lib.course.labs.submissions import name_of

OWN = "own cell"  # what a cell without nbgrader's name is called, with its place among the code cells
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Whatever a student's text does to Python's parser: too deep, too large, null bytes, no Python.
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


def cells_of(content: bytes, leave_out: Iterable[str] = ()) -> dict[str, str]:
    """The code cells of a notebook, by nbgrader's name; others are called ``own cell 3``.

    Parts of one cell that share a name (JupyterLab's split, a copy) are joined in their order. Cells named in
    `leave_out`, as those of tests, are not among them. What cannot be read has no cells.
    """
    unwanted, cells = set(leave_out), dict[str, str]()
    for number, cell in enumerate(_code(content), start=1):
        name = name_of(cell) or f"{OWN} {number}"
        if name not in unwanted:
            source = "".join(cell["source"])
            cells[name] = f"{cells[name]}\n{source}" if name in cells else source
    return cells


def _code(content: bytes) -> list[Any]:
    import nbformat

    try:
        notebook = json.loads(content.decode("utf-8-sig"))
        if "cells" not in notebook:  # as format 3 has it
            notebook = nbformat.reads(content.decode("utf-8-sig"), as_version=4)
        return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    except (
        Exception
    ):  # readers of notebooks share no base class; one such file must not stop a class's report
        return []


def parse(source: str) -> tuple[ast.Module | None, list[str]]:
    """The syntax tree of a cell, None where there is none, and its lines that only IPython understands."""
    try:
        return ast.parse(source), []
    except SyntaxError:
        pass  # perhaps because of such lines
    except UNREADABLE:
        return None, []
    lines = source.splitlines()
    if lines and lines[0].startswith("%%"):  # the whole cell is the magic's
        return ast.Module([], []), [lines[0]]
    magics = [line for line in lines if line.lstrip()[:1] in ("%", "!")]
    python = [line[: len(line) - len(line.lstrip())] + "pass" if line in magics else line for line in lines]
    try:
        return ast.parse("\n".join(python)), [line.strip() for line in magics]
    except UNREADABLE:
        return None, []


def functions(cells: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Each function that cells define at their top: its cell and its normalized text, the last one of a name.

    Two functions have equal texts if they are equal but for names of arguments and local variables, the names
    under which modules were imported, annotations, docstrings, comments, layout, and calls of print.
    """
    trees = {name: tree for name, source in cells.items() if (tree := parse(source)[0])}
    imported = {key: word for tree in trees.values() for key, word in _imports(tree)}
    found = {}
    for cell, tree in trees.items():
        for node in tree.body:
            if isinstance(node, FUNCTIONS):
                try:
                    found[node.name] = (cell, normalized(node, imported))
                except RecursionError:
                    continue  # deeper than anything that is worth comparing
    return found


def normalized(function: ast.stmt, imported: Mapping[str, str] | None = None) -> str:
    """A function's text with its names replaced by their order; `imported`: what other names stand for."""
    tree = copy.deepcopy(function)
    # The function's own name stays: the lab asks for it, and a function that calls itself is told by it.
    names = {name: f"v{number}" for number, name in enumerate(_bound(tree))}
    return ast.unparse(ast.fix_missing_locations(_Rename(names, imported or {}).visit(tree)))


def size(text: str) -> int:
    """How much a piece of code says: the nodes of its syntax tree, without those that only mark a place."""
    marks = (ast.expr_context, ast.arguments, ast.arg, ast.Module)
    return sum(not isinstance(node, marks) for node in ast.walk(ast.parse(text)))


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            # "import a.b" binds a, "import a.b as c" binds c to a.b
            yield from ((one.asname, one.name) for one in node.names if one.asname)
        elif isinstance(node, ast.ImportFrom):
            yield from ((one.asname or one.name, f"{node.module}.{one.name}") for one in node.names)


def _bound(function: ast.AST) -> list[str]:
    """The names that a function binds, in order of the text: arguments first, then variables as they come."""
    order: dict[str, None] = {}
    for node in _in_order(function):
        match node:
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.ExceptHandler(name=str(name)):
                order[name] = None
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if node is not function:
                order[name] = None
    for node in ast.walk(function):
        if isinstance(node, ast.Global | ast.Nonlocal):
            for name in node.names:
                order.pop(name, None)
    return list(order)


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Depth first, as the text is read; `ast.walk` goes level by level."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)


class _Rename(ast.NodeTransformer):
    """Names by order, modules by their full names; annotations, docstrings, texts and prints dropped."""

    def __init__(self, names: Mapping[str, str], imported: Mapping[str, str]) -> None:
        self.names, self.imported = names, imported

    def visit_Name(self, node: ast.Name) -> ast.AST:
        word = self.names.get(node.id) or self.imported.get(node.id, node.id)
        return ast.Name(word, node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(self.names.get(node.arg, node.arg))

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self.generic_visit(node)
        node.name = self.names.get(node.name, node.name) if node.name else None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.name, node.returns = self.names.get(node.name, node.name), None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        return ast.Assign([node.target], node.value) if node.value else None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        match node.value:
            case ast.Constant() | ast.Call(func=ast.Name(id="print")):
                return ast.Pass()  # not None: a body must hold something
        return self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Children first; then statements that do nothing go where others stay."""
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                kept = [one for one in statements if not isinstance(one, ast.Pass)]
                setattr(node, field, kept or ([ast.Pass()] if field == "body" else []))
        return node
