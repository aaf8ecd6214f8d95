"""The code on the page for networks of one's own runs, and prints what the page says; its reasons are the library's."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "book" / "bring-your-own-network.md"
TEXT = PAGE.read_text(encoding="utf-8")
READERS = [
    *(ROOT / "nnopt_lib" / "backends").glob("*/rules/*.py"),
    *(ROOT / "nnopt_lib" / "backends").glob("*/reading.py"),
    ROOT / "nnopt_lib" / "backends" / "keras" / "walk.py",
    ROOT / "nnopt_lib" / "structure" / "reading.py",
    ROOT / "nnopt_lib" / "structure" / "labels.py",
    ROOT / "nnopt_lib" / "models" / "channels.py",
]


def blocks() -> list[tuple[int, str, str]]:
    """The line, the code, and what it prints (the block of text right behind it)."""
    pattern = r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?"
    return [
        (TEXT.count("\n", 0, match.start()) + 1, match[1], match[2] or "")
        for match in re.finditer(pattern, TEXT, flags=re.M | re.S)
    ]


@pytest.mark.torch
@pytest.mark.keras
def test_all_code_runs_in_order_and_prints_what_stands_below_it() -> None:
    from nnopt_lib.structure import reading

    assert len(blocks()) > 20
    names: dict[str, object] = {"__name__": "page"}
    taught = dict(reading.TAUGHT)
    try:
        for line, code, printed in blocks():
            # Lines of an error are those of the page.
            tree = compile("\n" * line + code, str(PAGE), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(tree, names)
            assert output.getvalue() == printed, f"line {line}"
    finally:
        reading.TAUGHT.clear()
        reading.TAUGHT.update(taught)


def reasons() -> Iterator[str]:
    """What the library says of layers that stay whole: the longest constant part of each such sentence."""
    for file in READERS:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            told: list[ast.expr] = []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr in ("fix", "refuse", "join", "setdefault", "without"):
                    told = [*node.args, *(keyword.value for keyword in node.keywords)]
            elif isinstance(node, ast.Assign) and re.search(
                "reason|unread|_OTHER_KIND", ast.unparse(node.targets[0])
            ):
                told = [node.value]
            for one in told:
                for sentence in ast.walk(one):
                    if isinstance(sentence, (ast.Constant, ast.JoinedStr)):
                        yield longest_part(sentence)


def longest_part(sentence: ast.Constant | ast.JoinedStr) -> str:
    parts = sentence.values if isinstance(sentence, ast.JoinedStr) else [sentence]
    told = [one.value for one in parts if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return max(told, key=len, default="").strip(" ,(:")


def test_the_page_explains_every_reason_that_the_library_gives() -> None:
    table = TEXT.partition("| the reason, in part |")[2].partition("\n\n")[0]
    explained = [part.strip() for row in table.splitlines()[2:] for part in row.split("|")[1].split(";")]
    given = {reason for reason in reasons() if reason.count(" ") > 1}
    assert len(given) > 20
    missing = [reason for reason in given if not any(one in reason or reason in one for one in explained)]
    assert missing == []
    library = " ".join(file.read_text(encoding="utf-8") for file in READERS)
    unknown = [one for one in explained if one not in library and not any(one in reason for reason in given)]
    assert unknown == []
