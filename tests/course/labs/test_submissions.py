"""What was handed in is read with suspicion, and its cells become again what was released."""

from __future__ import annotations

import json
import os

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

from nnopt_lib.course.labs import submissions
from nnopt_lib.course.labs.submissions import (
    LARGEST,
    another_labs,
    joined,
    name_of,
    notebook_of,
    read_submission,
)

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


def code(source: str, name: str | None = None, **more: object):
    marks = {"nbgrader": {"grade_id": name, "solution": True}} if name else {}
    return new_code_cell(source, metadata=marks, **more)


def words(source: str, name: str | None = None, **more: object):
    marks = {"nbgrader": {"grade_id": name, "solution": True}} if name else {}
    return new_markdown_cell(source, metadata=marks, **more)


def shown(cells) -> list[tuple[str | None, str]]:
    return [(name_of(cell), cell.source) for cell in joined(cells)]


FUNCTION = "def f(x):\n    y = x\n    return y"


def test_a_function_that_was_split_is_one_again_wherever_it_was_cut():
    for cut in ("def f(x):", "def f(x):\n    y = x"):
        rest = FUNCTION[len(cut) + 1 :]
        assert shown([code(cut, "f"), code(rest, "f")]) == [("f", FUNCTION)]
    three = [code(line, "f") for line in FUNCTION.splitlines()]
    assert shown(three) == [("f", FUNCTION)]


def test_whole_pieces_stay_apart_and_the_last_one_has_the_name():
    assert shown([code("a = 1", "f"), code("b = 2", "f")]) == [(None, "a = 1"), ("f", "b = 2")]
    assert shown([code("%time a = 1", "f"), code("!ls", "f")]) == [(None, "%time a = 1"), ("f", "!ls")]
    apart = [code("a = 1", "f"), code("x"), code("a = 2", "f"), code("a = 3", "g")]
    assert shown(apart) == [(None, "a = 1"), (None, "x"), ("f", "a = 2"), ("g", "a = 3")]
    assert shown([code("a"), code("b")]) == [
        (None, "a"),
        (None, "b"),
    ]  # cells without a name are nobody's pieces


def test_pieces_that_do_not_stand_together_are_not_joined():
    cells = [code("def f(x):", "f"), code("1"), code("    return x", "f")]
    assert shown(cells) == [(None, "def f(x):"), (None, "1"), ("f", "    return x")]


def test_pieces_of_a_text_are_one_text_with_all_its_pictures_and_copies_count_once():
    first = words("![a](attachment:a.png)", "words", attachments={"a.png": {"image/png": "AA=="}})
    second = words("![b](attachment:b.png)", "words", attachments={"b.png": {"image/png": "BB=="}})
    (cell,) = joined([first, second])
    assert cell.source == "![a](attachment:a.png)\n![b](attachment:b.png)"
    assert set(cell["attachments"]) == {"a.png", "b.png"}
    assert shown([words("same", "words"), words("same ", "words")]) == [("words", "same")]
    assert shown([words("text", "words"), code("1", "words")]) == [(None, "text"), ("words", "1")]


@pytest.mark.parametrize("marks", [None, "text", [], {"grade_id": 5}, {"grade_id": None}, {}])
def test_marks_of_any_kind_are_no_reason_to_stop(marks):
    cells = [new_code_cell("a", metadata={"nbgrader": marks}) for _ in range(2)]
    assert shown(cells) == [(None, "a"), (None, "a")]


def test_a_picture_that_was_lost_is_named_and_others_stay():
    cell = words("![a](attachment:a.png) ![b](attachment:b.png 'title') ![c](http://c)")
    cell["attachments"] = {"a.png": {"image/png": "AA=="}}
    submissions._drop_lost_attachments(cell)
    assert cell.source == "![a](attachment:a.png) (picture b.png was lost) ![c](http://c)"
    bare = words("![a](attachment:a.png)")
    submissions._drop_lost_attachments(bare)
    assert bare.source == "(picture a.png was lost)"
    same = code("'![a](attachment:a.png)'")
    submissions._drop_lost_attachments(same)
    assert same.source == "'![a](attachment:a.png)'"


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_notebook_of_any_encoding_is_read(encoding, tmp_path):
    content = text({**CELL, "source": "'é 李'"}).encode(encoding)
    assert [cell.source for cell in notebook_of(content).cells] == ["'é 李'"]
    path = tmp_path / "a.ipynb"
    path.write_bytes(content)
    assert read_submission(path) == (content, "")


def old(**more: object) -> str:
    cell = {
        "cell_type": "code",
        "input": ["a = 1\n", "b"],
        "language": "python",
        "outputs": [],
        "metadata": {},
    }
    title = {"cell_type": "heading", "level": 2, "source": "Title", "metadata": {}}
    sheet = {"cells": [cell, title], "metadata": {}}
    return json.dumps(
        {"worksheets": [sheet], "metadata": {"name": ""}, "nbformat": 3, "nbformat_minor": 0, **more}
    )


@pytest.mark.parametrize("minor", range(6))
def test_notebooks_of_format_3_and_all_of_4_become_the_newest(minor):
    for content in (old(), text(CELL, nbformat_minor=minor)):
        notebook = notebook_of(content.encode())
        assert (notebook.nbformat, notebook.nbformat_minor >= minor) == (4, True)
        nbformat.validate(notebook)
    assert [cell.source for cell in notebook_of(old().encode()).cells] == ["a = 1\nb", "## Title"]


def test_a_cell_whose_metadata_is_null_has_none(tmp_path):
    content = text(
        {**CELL, "metadata": None},
        {"cell_type": "code", "source": "", "outputs": [], "execution_count": None},
    )
    assert [cell.metadata for cell in notebook_of(content.encode()).cells] == [{}, {}]
    (tmp_path / "a.ipynb").write_text(content)
    assert read_submission(tmp_path / "a.ipynb")[1] == ""


def named(*names: str) -> bytes:
    return text(*[{**CELL, "metadata": {"nbgrader": {"grade_id": name}}} for name in names]).encode()


TESTS = ["student-test", "mask-test", "numbers-test"]


def test_the_notebook_of_another_lab_is_named_and_nothing_less_is():
    other = named("student-test", "saw-test", "pieces-test", "numbers-test")
    assert another_labs(other, ["student-test", "mask-test", "gate-test"]) == (
        "is the notebook of another lab, with the tests numbers-test, pieces-test, saw-test"
    )
    for content in (
        named(*TESTS),
        named(),
        named("mask", "own-test"),
        named(*TESTS, "saw-test", "pieces-test"),
    ):
        assert another_labs(content, TESTS) == ""
    assert (
        another_labs(named("a-test", "b-test", *TESTS[:2]), TESTS) == ""
    )  # one test was deleted, others made
    marks = [None, [], {"grade_id": 5}, "x-test"]
    odd = text(*[{**CELL, "metadata": {"nbgrader": one}} for one in marks]).encode()
    assert another_labs(odd, TESTS) == ""
