"""How a student stands: graded, stale, not graded, not handed in; by our record or by what nbgrader left."""

from __future__ import annotations

import json
import os

from nnopt_lib.course.labs.standing import Standing, standings
from tests.course.labs import by_hand


def of(course, student: str) -> Standing:
    (one,) = [one for one in standings(course, "tiny") if one.student == student]
    return one


def leave_mark(course, student: str, **fields) -> None:
    """What nbgrader's own autograde leaves: no record, but words in the notebook that it made."""
    course.record("tiny", student).unlink()
    path = course.notebook("autograded", "tiny", student)
    notebook = json.loads(path.read_text())
    notebook["metadata"]["nnopt"] = {"failure": "", "not_cut": [], **fields}
    path.write_text(json.dumps(notebook))


def test_a_graded_submission_has_its_record_and_its_marks(course):
    by_hand.put(course, "ada", flags=["odd"])
    ada = of(course, "ada")
    assert (ada.handed_in, ada.stale, ada.final) == (True, False, True)
    assert ada.record["flags"] == ["odd"] and dict(ada.marks.points) == by_hand.FULL


def test_what_nbgrader_graded_stands_until_the_notebook_or_the_lab_is_newer(course):
    by_hand.put(course, "ada")
    leave_mark(course, "ada", flags=["odd"])
    graded = course.notebook("autograded", "tiny", "ada")
    ada = of(course, "ada")
    assert (ada.record["flags"], ada.stale) == (["odd"], False)
    for step, student in (("submitted", "ada"), ("source", "")):
        later = graded.stat().st_mtime + 5
        newer = course.notebook(step, "tiny", student)
        before = newer.stat().st_mtime
        os.utime(newer, (later, later))
        assert of(course, "ada").stale and of(course, "ada").marks is not None, step
        assert not of(course, "ada").final
        os.utime(newer, (before, before))
    assert not of(course, "ada").stale


def test_a_damaged_record_is_no_grade(course):
    by_hand.put(course, "ada", failure="timed out")
    course.record("tiny", "ada").write_text("damaged")
    ada = of(course, "ada")
    assert (ada.record, ada.marks, ada.stale, ada.final) == (None, None, False, False)


def test_a_name_and_a_section_come_from_the_roster_else_from_the_platform(course):
    for student in ("w1", "mail", "bare"):
        by_hand.put(course, student)
    by_hand.roster(course, "w1,Wei Zhang,,A,201,")
    by_hand.came_from(course, "w1", "moodle", "201", "x", called="zhangwei", section="Z")
    by_hand.came_from(course, "mail", "moodle", "202", "y", called="Bo Li", section="B")
    assert (of(course, "w1").name, of(course, "w1").section) == ("Wei Zhang", "A")
    assert (of(course, "mail").name, of(course, "mail").section) == ("Bo Li", "B")
    assert (of(course, "bare").name, of(course, "bare").section, dict(of(course, "bare").collected)) == (
        "",
        "",
        {},
    )


def test_one_who_was_taken_in_under_another_name_is_found_by_the_platforms_number(course):
    by_hand.put(course, "zhangwei")
    by_hand.roster(course, "w1,Wei Zhang,,A,201,", "w2,Wei Zhang,,B,202,")
    by_hand.came_from(course, "zhangwei", "moodle", "202", "x", called="Wei Zhang")
    found = standings(course, "tiny")
    assert [(one.student, one.handed_in, one.section) for one in found] == [
        ("zhangwei", True, "B"),
        ("w1", False, "A"),
    ]


def test_a_damaged_note_of_where_a_notebook_came_from_is_none(course):
    by_hand.put(course, "ada")
    path = course.folder / "collected" / "tiny" / "ada.json"
    path.parent.mkdir(parents=True)
    for text in ("damaged", "[1]"):
        path.write_text(text)
        assert dict(of(course, "ada").collected) == {}
