"""Print how the code reads, folder by folder: vague words among its names, comments, lengths of functions.

Nothing is enforced: a number says where to look. ``python tests/names.py nnopt_lib/nas`` takes other folders;
with ``--list`` every binding that holds a vague word is named with its file and line.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

# Words that do not say what a thing is; field's code bases have them in at most 0.8 % of what they bind.
VAGUE = {"own", "there", "told", "place", "places", "found", "theirs", "named"}
PRAGMAS = ("noqa", "type:", "pragma", "ruff:", "mypy:", "!")  # for tools, not for readers


class Measured(NamedTuple):
    """One file: lines of code, comments that a reader reads, lines of each function, names bound."""

    code_lines: int
    comments: int
    functions: list[int]
    bindings: list[tuple[int, str]]


def bindings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of everything that the code gives a name to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def measure(text: str) -> Measured:
    """Read one module. Lines of code are those with a token that is neither comment nor docstring."""
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings: set[int] = set()
    functions = []
    for node in ast.walk(tree):
        body = node.body if isinstance(node, documented) else []
        words = body[0] if body and isinstance(body[0], ast.Expr) else None
        if words and isinstance(words.value, ast.Constant) and isinstance(words.value.value, str):
            docstrings |= set(range(words.lineno, (words.end_lineno or 0) + 1))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.append((node.end_lineno or 0) - node.lineno + 1)
    code, comments = set(), 0
    skipped = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments += not token.string.lstrip("# ").startswith(PRAGMAS)
        elif token.type not in skipped:
            code |= set(range(token.start[0], token.end[0] + 1))
    return Measured(len(code - docstrings), comments, functions, list(bindings(tree)))


def read_code(path: Path) -> str:
    """The Python in a module, or in the cells of a chapter's source."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    cells = re.findall(
        r"^```\{code-cell\}[^\n]*\n(?:---\n.*?\n---\n)?(.*?)^```", text, re.MULTILINE | re.DOTALL
    )
    return "\n".join(re.sub(r"^[:%!].*$", "", cell, flags=re.MULTILINE) for cell in cells)


def files_of(root: Path) -> list[Path]:
    """A file itself, or all modules and chapters in a folder."""
    return [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.suffix in (".py", ".md"))


def vague(name: str) -> bool:
    """Whether one of the words of a name is vague."""
    return not VAGUE.isdisjoint(name.lower().split("_"))


def summary(folder: str, files: list[Measured]) -> list[str | int | float]:
    """One row of the table."""
    lengths = sorted(length for file in files for length in file.functions) or [0]
    names = [name for file in files for _, name in file.bindings]
    lines, comments = sum(file.code_lines for file in files), sum(file.comments for file in files)
    return [
        folder,
        lines,
        100 * comments / max(1, lines),
        statistics.median(lengths),
        lengths[int(0.9 * (len(lengths) - 1))],
        lengths[-1],
        len(names),
        100 * sum(map(vague, names)) / max(1, len(names)),
    ]


def main(arguments: list[str]) -> None:
    """Print the table for the given folders and files."""
    listed = "--list" in arguments
    roots = [argument for argument in arguments if argument != "--list"]
    for root in roots or ["nnopt_lib", "tests", "chapters"]:
        folders: dict[str, list[Measured]] = {}
        for path in files_of(Path(root)):
            file = measure(read_code(path))
            folders.setdefault(str(path.parent), []).append(file)
            for line, name in file.bindings if listed else []:
                if vague(name):
                    print(f"{path}:{line}: {name}")
        rows = [summary(folder, files) for folder, files in folders.items()]
        rows.append(summary(f"{root}, all", [file for files in folders.values() for file in files]))
        titles = ["folder", "code lines", "comments %", "median", "90 %", "longest", "names", "vague %"]
        print(tabulate(rows, titles, floatfmt=".1f"), end="\n\n")


if __name__ == "__main__":
    main(sys.argv[1:])
