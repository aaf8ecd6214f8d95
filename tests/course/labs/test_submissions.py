"""What was handed in is read with suspicion, and its cells become again what was released."""

from __future__ import annotations

import json
import os

import pytest

from nnopt_lib.course.labs.submissions import LARGEST, read_submission

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
