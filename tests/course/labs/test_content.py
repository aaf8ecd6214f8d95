"""The five labs are well formed and worth 20 points each; `test_solutions` grades their solutions."""

from __future__ import annotations

import ast

import nbformat
import pytest
from nbgrader.nbgraderformat import MetadataValidator

from nnopt_lib.course.chapters.source import read_source
from nnopt_lib.course.labs.sources import find_labs
from nnopt_lib.course.labs.submissions import name_of

LABS = ("connectivity", "depth", "nodes", "weights", "width")
LADDER = ["Your name", "Predict", "Implement", "Apply", "Measure", "Explain"]
PAIRS = (("### BEGIN SOLUTION", "### END SOLUTION"), ("### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"))


def cells_of(name: str) -> list:
    (lab,) = find_labs([name])
    return read_source(lab).cells


def marks(cell) -> dict:
    return cell.metadata.get("nbgrader", {})


def test_each_technique_has_a_lab():
    assert tuple(lab.name for lab in find_labs()) == LABS


@pytest.mark.parametrize("name", LABS)
def test_metadata_is_nbgraders_and_gives_20_points(name):
    (lab,) = find_labs([name])
    MetadataValidator().validate_nb(read_source(lab))
    cells = [cell for cell in cells_of(name) if marks(cell)]
    assert sum(marks(cell).get("points", 0) for cell in cells) == 20
    names = [marks(cell)["grade_id"] for cell in cells]
    assert len(set(names)) == len(names) and names.count("numbers") == 1
    assert names[:2] == ["student", "student-test"] and names[-1] == "words"


@pytest.mark.parametrize("name", LABS)
def test_the_ladder_stands_in_order(name):
    text = "\n".join(cell.source for cell in cells_of(name) if cell.cell_type == "markdown")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == LADDER


@pytest.mark.parametrize("name", LABS)
def test_marks_are_balanced_and_pictures_described(name):
    expected = 0
    for cell in cells_of(name):
        for begin, end in PAIRS:
            assert cell.source.count(begin) == cell.source.count(end) <= 1
        solves = marks(cell).get("solution", False)
        assert (PAIRS[0][0] in cell.source) == bool(solves)
        if "expected" in cell.metadata.get("tags", []):
            expected += 1
            assert cell.metadata["alt"].strip() and "labs.compare" in cell.source
    assert expected >= 2


@pytest.mark.parametrize("name", LABS)
def test_unfinished_cells_raise_and_nothing_is_given_away(name):
    (lab,) = find_labs([name])
    released = nbformat.read(lab.notebook, as_version=4)
    for cell in released.cells:
        assert "### BEGIN" not in cell.source
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 30
            if marks(cell).get("solution"):
                raised = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Raise)]
                assert len(raised) == 1, name_of(cell)
                assert "NotImplementedError" in ast.unparse(raised[0])


@pytest.mark.parametrize("name", LABS)
def test_the_question_in_words_stays_in_the_student_copy_and_its_answer_does_not(name):
    (lab,) = find_labs([name])
    cells = nbformat.read(lab.notebook, as_version=4).cells
    position = next(number for number, cell in enumerate(cells) if marks(cell).get("grade_id") == "words")
    assert cells[position - 1].source.startswith("In your own words:")
    assert cells[position].source == "YOUR ANSWER HERE"
