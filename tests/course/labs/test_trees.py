"""Students' cells as syntax trees: what counts as the same code, and cells that are no Python."""

from __future__ import annotations

import json

import pytest

from nnopt_lib.course.labs.trees import cells_of, functions, parse, size

KEEP = """
def keep_nodes(values, count):
    keep = np.zeros(len(values), bool)
    keep[np.argsort(-np.asarray(values), kind="stable")[:count]] = True
    return keep
"""
DISGUISED = '''
import numpy as n
from typing import Any
def keep_nodes(v: "n.ndarray", how_many: int) -> Any:
    """I wrote this."""
    # the largest first
    answer: Any = n.zeros(len(v), bool)
    print("so far", answer)
    answer[
        n.argsort(-n.asarray(v), kind='stable')[:how_many]
    ] = (True)
    pass
    return answer
'''
NUMPY = {"imports": "import numpy as np"}


def text(source: str, name: str = "keep_nodes") -> str:
    return functions({**NUMPY, "cell": source})[name][1]


def test_names_annotations_docstrings_comments_layout_and_prints_do_not_matter():
    assert text(KEEP) == text(DISGUISED)
    assert text(KEEP) == text(KEEP.replace("np.", "numpy.").replace("\ndef", "import numpy\ndef"))
    assert "zeros" in text(KEEP)


@pytest.mark.parametrize(
    "changed",
    [
        KEEP.replace("-np.asarray", "np.asarray"),
        KEEP.replace('"stable"', '"quicksort"'),
        KEEP.replace("[:count]", "[count:]"),
        KEEP.replace("return keep", "return values"),
        KEEP.replace("values, count", "count, values"),
        KEEP.replace("return keep", "keep = keep.copy()\n    return keep"),
        KEEP.replace("np.zeros", "torch.zeros"),
    ],
    ids=["sign", "keyword", "side", "variable", "order", "statement", "module"],
)
def test_everything_else_does(changed):
    assert text(KEEP) != text(changed)


def test_inner_functions_comprehensions_and_handlers_are_renamed_and_globals_stay():
    one = "def f(a):\n    def g(b):\n        return [c for c in b]\n    try:\n        return g(a)\n    except ValueError as e:\n        raise e"
    other = "def f(x):\n    def h(y):\n        return [z for z in y]\n    try:\n        return h(x)\n    except ValueError as w:\n        raise w"
    assert text(one, "f") == text(other, "f")
    assert text("def f(a):\n    return g(a)", "f") != text("def f(a):\n    return h(a)", "f")
    assert text("def f(a):\n    return f(a)", "f").startswith("def f(v0)")
    counted = "def f():\n    global {0}\n    {0} = 1"
    assert text(counted.format("calls"), "f").endswith("global calls\n    calls = 1")


def test_size_counts_what_a_function_says_and_not_how_it_is_laid_out():
    assert size(text(KEEP)) == size(text(DISGUISED))
    assert size("def f(v0, v1):\n    return v0") == size("def f(v0):\n    return v0") == 3
    assert size("def f(v0):\n    return v0 + 1") == 6


def test_lines_of_ipython_are_taken_apart_and_what_is_no_python_is_none():
    tree, magics = parse("%matplotlib inline\nfor i in x:\n    !rm {i}\nz = 1")
    assert magics == ["%matplotlib inline", "!rm {i}"] and len(tree.body) == 3
    assert parse("%%bash\nls | wc")[1] == ["%%bash"]
    assert parse("x = (5\n% 3)")[1] == []  # a sign of Python's
    for hopeless in ("def f(:", "a" + "+a" * 40_000, "(" * 5000, "x = '\0'"):
        assert parse(hopeless) == (None, [])
    assert functions({"broken": "def f(:", "deep": "def g():\n    return " + "-" * 5000 + "1"}) == {}


def test_cells_come_by_name_parts_of_one_joined_and_own_ones_numbered():
    def cell(source, name="", kind="code"):
        marks = {"nbgrader": {"grade_id": name}} if name else {}
        return {"cell_type": kind, "metadata": marks, "source": source}

    cells = [
        cell("text", "words", "markdown"),
        cell(["def f(x):\n", "    return x"], "keep"),
        cell("1 + 1"),
        cell("def g(x):\n    return x", "keep"),
        cell("assert f(1)", "keep-test"),
    ]
    content = json.dumps({"cells": cells}).encode()
    assert cells_of(content, ["keep-test"]) == {
        "keep": "def f(x):\n    return x\ndef g(x):\n    return x",
        "own cell 2": "1 + 1",
    }
    assert set(functions(cells_of(content))) == {"f", "g"}


def test_cells_of_the_third_format_with_a_mark_of_byte_order_are_read_and_what_is_none_has_no_cells():
    cell = {"cell_type": "code", "input": ["x = 1"], "outputs": [], "language": "python", "collapsed": False}
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}}
    named = {**cell, "metadata": {"nbgrader": {"grade_id": "mask"}}}
    old["worksheets"] = [{"cells": [named, {**cell, "metadata": {}}], "metadata": {}}]
    content = b"\xef\xbb\xbf" + json.dumps(old).encode()
    assert cells_of(content) == {"mask": "x = 1", "own cell 2": "x = 1"}
    for content in (b"", b"\xff", b"[]", b"{}", b'{"cells": 5}', b'{"cells": [5]}'):
        assert cells_of(content) == {}
