"""What a teacher reads: a table and points as CSV, for whoever handed in and whoever did not."""

from __future__ import annotations

import csv
import datetime
import io

import pytest

from nnopt_lib.course.labs import report as reporting
from nnopt_lib.course.labs.gradebook import CONFIGURATION
from nnopt_lib.course.labs.report import report
from tests.course.labs import by_hand

DUE = datetime.datetime(2027, 3, 1, 12, 0, tzinfo=datetime.UTC)


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("NNOPT_PROGRESS", "0")


@pytest.fixture
def strict(course):
    """The class with a due date and a policy."""
    path = course.folder / CONFIGURATION
    path.write_text(
        path.read_text().replace('policy = ""', 'policy = "grace 15 min, 10 % a day, at most 50 %"')
    )
    course.set_due("tiny", DUE)
    return course


def rows(course) -> dict[str, dict[str, str]]:
    text = (course.folder / "reports" / "tiny.csv").read_text()
    return {row["student"]: row for row in csv.DictReader(io.StringIO(text))}


def test_the_table_keeps_its_columns_with_letters_of_every_width():
    lines = [["student", "mask", "points"], ["李雷", "1", "10"], ["007", "1.50", "5"], ["Zoé", "", ""]]
    assert reporting._table(lines).splitlines() == [
        "student  mask  points",
        "李雷        1      10",
        "007      1.50       5",
        "Zoé",
    ]


def test_late_work_costs_what_the_policy_says_of_points_given_by_hand_too(strict):
    for student in ("ada", "bob", "cem"):
        by_hand.put(strict, student)
    by_hand.set_time(strict, "bob", 15)
    by_hand.set_time(strict, "cem", 25 * 60)
    with strict.open_gradebook() as gradebook:
        gradebook.find_grade("mask-test", "tiny", "tiny", "cem").manual_score = 0.5
        gradebook.db.commit()
    text = report(strict, "tiny")
    assert text.splitlines() == [
        "tiny: 3 handed in, due 2027-03-01 12:00 UTC",
        "",
        "student  student  mask  numbers  points  late  total",
        "(most)         1     2        2       5            5",
        "ada            1     2        2       5     0      5",
        "bob            1     2        2       5     0      5",
        "cem            1   0.5        2     3.5   0.7    2.8",
    ]
    assert strict.marks("tiny")["cem"].penalty == 0.7  # in the gradebook, where nbgrader's export reads it
    strict.set_due("tiny", None)
    assert "late" not in report(strict, "tiny")
    assert strict.marks("tiny")["cem"].penalty == 0


def test_without_a_policy_nothing_is_taken_off(course):
    course.set_due("tiny", DUE)
    by_hand.put(course, "ada")
    by_hand.set_time(course, "ada", 9999)
    report(course, "tiny")
    assert (rows(course)["ada"]["late_penalty"], rows(course)["ada"]["total"]) == ("0.0", "5.0")


def test_the_roster_gives_names_and_sections_and_who_did_not_hand_in(course):
    by_hand.put(course, "w1")
    by_hand.put(course, "w2")
    by_hand.put(course, "gone")
    by_hand.roster(
        course, "w1,Wei Zhang,,A,,", "w2,Wei Zhang,,B,,", "gone,Dan Brown,,A,,dropped", "zoe,=cmd|A1,,B,,"
    )
    assert report(course, "tiny").splitlines()[:8] == [
        "tiny: 2 handed in, 1 not",
        "",
        "student  name       section  student  mask  numbers  points",
        "(most)                             1     2        2       5",
        "w1       Wei Zhang  A              1     2        2       5",
        "w2       Wei Zhang  B              1     2        2       5",
        "zoe      =cmd|A1    B",
        "",
    ]
    assert (course.folder / "reports" / "tiny.csv").read_text().splitlines() == [
        "student,name,section,student-test,mask-test,numbers-test,words,points,late_penalty,total,of,note",
        "w1,Wei Zhang,A,1.0,2.0,2.0,0.0,5.0,0.0,5.0,5.0,",
        "w2,Wei Zhang,B,1.0,2.0,2.0,0.0,5.0,0.0,5.0,5.0,",
        "zoe,'=cmd|A1,B,,,,,,,,5.0,not handed in",
    ]
    assert course.points("tiny")["gone"] == by_hand.FULL  # nothing of theirs is deleted
    assert course.notebook("submitted", "tiny", "gone").is_file()
    with course.open_gradebook() as gradebook:
        wei = gradebook.find_student("w1")
        assert (wei.first_name, wei.last_name) == ("Wei", "Zhang")


def test_names_that_a_spreadsheet_would_compute_come_harmless_into_nbgraders_export(course):
    by_hand.put(course, "eve")
    by_hand.roster(course, 'eve,"=A1, @SUM",,,,')
    report(course, "tiny")
    with course.open_gradebook() as gradebook:
        eve = gradebook.find_student("eve")
        assert (eve.first_name, eve.last_name) == ("A1", "SUM")


def test_free_text_waits_for_a_reader_until_it_has_points_by_hand(course):
    by_hand.put(course, "ada", {**by_hand.FULL, "words": None})
    assert "Waits for a reader:\n  words: ada\n" in report(course, "tiny")
    assert rows(course)["ada"]["note"] == "waits for a reader: words"
    with course.open_gradebook() as gradebook:  # as nbgrader's formgrader does
        grade = gradebook.find_grade("words", "tiny", "tiny", "ada")
        grade.manual_score, grade.needs_manual_grade = 0.0, False
        gradebook.db.commit()
    assert "reader" not in report(course, "tiny")
    with course.open_gradebook() as gradebook:  # as its autograde does where there are points by hand
        gradebook.find_grade("words", "tiny", "tiny", "ada").needs_manual_grade = True
        gradebook.db.commit()
    assert "cells that were graded again since:\n  ada: words\n" in report(course, "tiny")


def test_points_of_before_are_shown_as_stale_after_a_new_notebook_or_a_new_lab(course):
    for student in ("ada", "bob"):
        by_hand.put(course, student)
    course.notebook("submitted", "tiny", "bob").write_text("{}")
    text = report(course, "tiny")
    assert text.splitlines()[4:6] == [
        "ada            1     2        2          5",
        "bob            1     2        2  5 (stale)",
    ]
    sentence = "stale: the notebook or the lab changed since it was graded; grade again"
    assert f"Stale, shown with the points of before:\n  bob: {sentence}\n" in text
    assert (rows(course)["bob"]["points"], rows(course)["bob"]["note"]) == ("5.0", sentence)
    with open(course.notebook("source", "tiny"), "a") as file:
        file.write("\n")
    report(course, "tiny")
    assert [rows(course)[student]["note"] for student in ("ada", "bob")] == [sentence, sentence]
    by_hand.keep_record(course, "ada")
    report(course, "tiny")
    assert rows(course)["ada"]["note"] == ""


def test_whoever_is_not_graded_has_no_points_and_not_zero(course):
    by_hand.put(course, "ada")
    course.notebook("submitted", "tiny", "bob").parent.mkdir(parents=True)
    course.notebook("submitted", "tiny", "bob").write_text("{}")
    assert "Not graded to the end:\n  bob: not graded yet\n" in report(course, "tiny")
    assert (rows(course)["bob"]["points"], rows(course)["bob"]["note"]) == ("", "not graded yet")


def test_the_record_says_what_was_left_out_what_is_odd_and_whose_name_was_typed(course):
    by_hand.put(
        course,
        "ada",
        left_out=["cell 4 looped"],
        flags=["numbers were computed"],
        name="another's",
        typed={"student": "bob"},
    )
    by_hand.put(course, "bob", name="own", typed={"student": "Robert"})
    by_hand.put(course, "cem", name="nobody's", typed={"student": "?"}, failure="timed out")
    text = report(course, "tiny")
    assert "Cells that were left out:\n  ada: cell 4 looped\n" in text
    assert "To look at; no points were taken off:\n  ada: numbers were computed\n" in text
    assert "so another seed:\n  ada: 'bob'\n  cem: '?'\n" in text
    assert [rows(course)[one]["note"] for one in ("ada", "bob", "cem")] == [
        "cell 4 looped; numbers were computed; typed 'bob', another student's name",
        "",
        "timed out; typed '?', nobody's name",
    ]


def test_a_late_mark_of_the_platforms_is_passed_on_where_the_due_date_says_nothing(course):
    by_hand.put(course, "ada")
    by_hand.came_from(course, "ada", "canvas", "12", "ada_LATE_12_3_tiny.ipynb", late=True)
    note = "late, says canvas; not by the due date here"
    assert f"Late by the platform; points were not taken off:\n  ada: {note}\n" in report(course, "tiny")
    assert rows(course)["ada"]["note"] == note
    by_hand.came_from(course, "ada", "canvas", "12", "ada_LATE_12_3_tiny.ipynb", late=True, download=True)
    report(course, "tiny")
    assert rows(course)["ada"]["note"] == "late, says canvas; by how much is not known"


def test_a_time_of_the_download_makes_nobody_late_and_is_named(strict):
    after, before = ("2027-03-05T08:00:00+00:00", "2027-03-01T08:00:00+00:00")
    for student, platform, at in (
        ("ada", "moodle", after),
        ("bob", "moodle", before),
        ("cem", "canvas", after),
    ):
        by_hand.put(strict, student)
        by_hand.came_from(strict, student, platform, "1", "x", at=at, download=True)
    heading = "Came with the time of the download alone, so nobody of them counts as late:"
    assert f"{heading}\n  ada\n" in report(strict, "tiny")
    assert rows(strict)["ada"]["total"] == "5.0"


def test_a_penalty_of_ones_own_is_never_more_than_the_points(strict, monkeypatch):
    from nnopt_lib.course.labs.late import LateWork

    by_hand.put(strict, "ada")
    by_hand.set_time(strict, "ada", 60)
    for cost, penalty in ((99.0, 5.0), (-1.0, 0.0)):
        monkeypatch.setattr(LateWork, "late_submission_penalty", lambda *_, cost=cost: cost)
        report(strict, "tiny")
        assert strict.marks("tiny")["ada"].penalty == penalty


def test_a_class_of_which_all_have_dropped_is_an_empty_table(course):
    by_hand.put(course, "ada")
    by_hand.roster(course, "ada,Ada,,,,dropped")
    assert report(course, "tiny").splitlines()[0] == "tiny: 0 handed in"
