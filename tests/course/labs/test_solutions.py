"""Every lab can be solved, whoever takes it: all points for its solution, none for the untouched copy.

Three students are judged by the lab's own run alone, without a kernel, and one of them is graded as a class is.
Thirty are judged with NNOPT_EXAMPLES=all, as in the weekly run.
"""

from __future__ import annotations

import collections
import copy
import os
import shutil

import nbformat
import pytest

from nnopt_lib.course.chapters.source import read_source
from nnopt_lib.course.labs import grade as lab_grading
from nnopt_lib.course.labs.course_key import with_key
from nnopt_lib.course.labs.examine import Examiner, is_test
from nnopt_lib.course.labs.sandbox.sandbox import Limits
from nnopt_lib.course.labs.sources import find_labs
from nnopt_lib.course.labs.submissions import name_of
from tests import labs_class

pytestmark = [pytest.mark.notebook, pytest.mark.torch, pytest.mark.usefixtures("private_temporary_folder")]
LABS = sorted(path.stem for path in (labs_class.SOURCE.parents[3] / "chapters" / "labs").glob("*.md"))
STUDENTS = ("ada", "Zoë", "Wei Zhang")
EVERYBODY = (*STUDENTS, *(f"student {number}" for number in range(27)))
TYPED = {  # by the cell that asks for it
    **{"student": "student", "predict": "guess", "numbers": "numbers"},
    **{"decision": "choice", "explain": "answer"},
}
QUESTIONS = ("choice", "answer")
THIRTY = pytest.mark.skipif(
    os.environ.get("NNOPT_EXAMPLES") != "all",
    reason="thirty students: NNOPT_EXAMPLES=all, as in the weekly run",
)


def source_of(lab: str, key: str = ""):
    (found,) = find_labs([lab])
    return with_key(lab, read_source(found), key)


def points_by_test(source, examiner: Examiner, **changed) -> dict[str, float]:
    """What each test gives for the solution's own answers and functions, some of them changed."""
    exported, points = {**examiner.solution, **changed}, {}
    for cell in source.cells:
        if is_test(cell):
            name = str(name_of(cell))
            needed = {one: exported[one] for one in examiner.needs[name]}
            judged = examiner.judge(cell.source, needed, examiner.student)
            full = float(cell.metadata.nbgrader["points"])
            points[name] = (full if judged.points is None else judged.points) if judged.passed else 0.0
    return points


def most_points(source) -> dict[str, float]:
    return {
        str(name_of(cell)): float(cell.metadata.nbgrader["points"]) for cell in source.cells if is_test(cell)
    }


def check_typos(source, examiner: Examiner) -> None:
    """One wrong number, any of the five, costs at most what it is worth; what follows from it is no second loss."""
    numbers = examiner.solution["numbers"]
    assert len(numbers) == 5
    for name, value in numbers.items():
        wrong = value + 10**9  # far from a hundred times the right one, too, which would be half right
        points = points_by_test(source, examiner, numbers={**numbers, name: wrong})
        assert points["numbers-test"] == 4, f"{name} of {examiner.student!r}: a wrong one must not count"
        assert sum(points.values()) == 19, f"{name} of {examiner.student!r}"


def answers_of(examiner: Examiner) -> dict[str, object]:
    """The answers to what is asked and graded beside the numbers."""
    found = {
        f"{name}: {part}": value for name in QUESTIONS for part, value in examiner.solution[name].items()
    }
    return {question: value for question, value in found.items() if not question.endswith(": because")}


def handed_in(source, examiner: Examiner):
    """The solution as a student hands it in: functions written, and all answers typed as literals."""
    notebook = copy.deepcopy(source)
    for cell in notebook.cells:
        answer = TYPED.get(name_of(cell))
        if answer:
            cell.source = f"{answer} = {plain(examiner.solution[answer])!r}"
    return notebook


def plain(value):
    """A number of numpy's as Python's, so that its repr is what somebody types."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value.item() if hasattr(value, "item") else value


@pytest.mark.parametrize("lab", LABS)
def test_solutions_get_all_points_untouched_copies_none_and_a_typo_costs_one(lab, tmp_path, monkeypatch):
    from nnopt_lib.course.labs.gradebook import make_course
    from nnopt_lib.course.labs.sources import release

    monkeypatch.setenv("NNOPT_HOME", str(labs_class.SOURCE.parents[3]))
    course = make_course(tmp_path / "course")
    release(find_labs([lab])[0], course)
    source = nbformat.read(course.notebook("source", lab), as_version=4)
    graded = STUDENTS[LABS.index(lab) % len(STUDENTS)]
    for student in (graded, "untouched"):
        course.notebook("submitted", lab, student).parent.mkdir(parents=True)
    shutil.copy(course.notebook("release", lab), course.notebook("submitted", lab, "untouched"))
    for student in STUDENTS:
        with Examiner(source, student) as examiner:
            assert points_by_test(source, examiner) == most_points(source), student
            if student == graded:
                check_typos(source, examiner)
                nbformat.write(handed_in(source, examiner), course.notebook("submitted", lab, student))
    assert set(lab_grading.grade(course, lab, Limits(), jobs=2).values()) == {""}
    points, most = course.points(lab), course.most_points(lab)
    assert sum(most.values()) == 20
    assert points[graded] == most
    assert set(points["untouched"].values()) == {0}
    record = lab_grading.read_record(course, lab, graded)
    assert (record["name"], record["notes"], record["left_out"]) == ("own", {}, [])


@THIRTY
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lab", LABS)
def test_thirty_students_have_right_answers_that_differ(lab):
    source, answers = source_of(lab), collections.defaultdict(collections.Counter)
    for student in EVERYBODY:
        with Examiner(source, student) as examiner:
            assert points_by_test(source, examiner) == most_points(source), student
            check_typos(source, examiner)
            for question, answer in answers_of(examiner).items():
                answers[question][plain(answer)] += 1
    assert len(answers) >= 3
    for question, given in answers.items():
        assert len(given) >= 2, f"{question} has one answer for everybody: {dict(given)}"
        assert max(given.values()) <= 0.8 * len(EVERYBODY), f"{question}: {dict(given)}"


@THIRTY
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("key", ["spring", "autumn", "2027"])
@pytest.mark.parametrize("lab", LABS)
def test_a_class_with_a_key_has_right_answers_to_other_questions(lab, key):
    source = source_of(lab, key)
    for student in STUDENTS:
        with Examiner(source, student) as examiner:
            keyed = examiner.solution["numbers"]
            assert points_by_test(source, examiner) == most_points(source), student
        if student == STUDENTS[0]:
            with Examiner(source_of(lab), student) as examiner:
                assert plain(examiner.solution["numbers"]) != plain(keyed)
