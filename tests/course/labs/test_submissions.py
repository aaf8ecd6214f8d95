"""What was handed in is read with suspicion, and its cells become again what was released."""

from __future__ import annotations

import json
import os

import pytest

from nnopt_lib.course.labs.submissions import LARGEST, joined, name_of, notebook_of, read_submission

CELL = {"cell_type": "code", "metadata": {}, "source": "1", "outputs": [], "execution_count": None}


def text(*cells: dict, **more: object) -> str:
    return json.dumps({"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 4, **more})


PROBLEMS = {
    "": "is not a notebook: line 1 is no JSON",
    "hello": "is not a notebook: line 1 is no JSON",
    "[]": "is not a notebook: ",
    "{}": "is not a notebook: ",
    text(): "is not a notebook: it has no cells",
    text({"cell_type": "code"}): "is not a notebook: ",
    text(*[CELL] * 1001): "has more than 1000 cells",
    text({**CELL, "source": ["x" * 100_000, "y"]}): "has a cell of more than 100000 letters",
    text({**CELL, "source": "\ud800"}): "is not a notebook: ",
    "[" * 100_000: "is not a notebook: ",
    " " * (LARGEST + 1): "is larger than 20 MiB",
}


@pytest.mark.parametrize("number", range(len(PROBLEMS)))
def test_what_is_no_notebook_is_put_into_words(number, tmp_path):
    content, expected = list(PROBLEMS.items())[number]
    path = tmp_path / "a.ipynb"
    path.write_text(content)
    problem = read_submission(path)[1]
    if expected.endswith(": "):  # the rest is another library's
        assert problem.startswith(expected) and len(problem) > len(expected)
    else:
        assert problem == expected


def test_a_notebook_of_any_age_and_with_marks_of_others_has_no_problem(tmp_path):
    path = tmp_path / "a.ipynb"
    for content in (
        text(CELL),
        text({**CELL, "metadata": {"colab": {"a": 1}}}),
        text({**CELL, "id": "x"}, nbformat_minor=5),
    ):
        path.write_text(content)
        assert read_submission(path) == (content.encode(), "")


def test_links_and_pipes_are_not_opened(tmp_path):
    (tmp_path / "secret").write_text(text(CELL))
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        assert read_submission(tmp_path / name) == (b"", "is not a notebook: it is no ordinary file")
    assert read_submission(tmp_path / "nothing") == (b"", "could not be read: No such file or directory")


def pieces(*sources: str, kind: str = "code", between: str | None = None) -> list[str]:
    """What is left of cells of one name with these sources, put together."""
    marks = {"nbgrader": {"grade_id": "mask"}}
    cells = [{**CELL, "cell_type": kind, "metadata": marks, "source": one} for one in sources]
    if kind == "markdown":
        cells = [{key: cell[key] for key in ("cell_type", "metadata", "source")} for cell in cells]
    if between is not None:
        cells.insert(1, {"cell_type": "markdown", "metadata": {}, "source": between})
    left = joined(notebook_of(text(*cells).encode()).cells)
    named = [cell for cell in left if name_of(cell)]
    assert len(named) == 1 and named[0] is [cell for cell in left if cell.cell_type == kind][-1]
    return [cell.source for cell in left if cell.cell_type == kind]


HEAD, BODY = "def f(x):", "    return x"


@pytest.mark.parametrize(
    ("sources", "left"),
    [
        ((HEAD, BODY), [f"{HEAD}\n{BODY}"]),
        (("n = {", "'a': 1", "}"), ["n = {\n'a': 1\n}"]),
        (("a = 1", HEAD, BODY), ["a = 1", f"{HEAD}\n{BODY}"]),
        (("%matplotlib inline\na = 1", "!ls\nb = 2"), ["%matplotlib inline\na = 1", "!ls\nb = 2"]),
        (("def f(x:\n    pass", f"{HEAD}\n{BODY}"), ["def f(x:\n    pass", f"{HEAD}\n{BODY}"]),
        ((f"{HEAD}\n{BODY}", "def f(x:\n    pass"), [f"{HEAD}\n{BODY}", "def f(x:\n    pass"]),
    ],
)
def test_pieces_become_one_where_that_makes_python_and_tries_stay_apart(sources, left):
    assert pieces(*sources) == left


def test_text_between_pieces_and_pieces_of_text():
    assert pieces(HEAD, BODY, between="a remark") == [f"{HEAD}\n{BODY}"]
    assert pieces("a = 1", "b = 2", between="a remark") == ["a = 1", "b = 2"]
    assert pieces("large weights", "matter", kind="markdown") == ["large weights\nmatter"]
    assert pieces("the same", "the same ", kind="markdown") == ["the same"]


def test_what_programs_leave_out_or_write_null_for_is_put_in():
    bare = {"cell_type": "code", "metadata": None, "source": "1"}
    null = {**CELL, "outputs": None}
    cells = notebook_of(text(bare, null, metadata=None).encode()).cells
    assert [(cell.outputs, cell.execution_count, cell.metadata) for cell in cells] == [([], None, {})] * 2
