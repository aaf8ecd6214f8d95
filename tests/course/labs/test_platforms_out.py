"""Grades and feedback for platforms, in the columns and places that their importers look for."""

from __future__ import annotations

import csv
import io
import zipfile

import pytest

from nnopt_lib.course.labs.gradebook import Marks
from nnopt_lib.course.labs.platforms_out import (
    as_csv,
    canvas_grades,
    canvas_place,
    harmless,
    moodle_grades,
    moodle_place,
    write_platform_files,
)
from nnopt_lib.course.labs.roster import Person
from nnopt_lib.course.labs.standing import Standing
from nnopt_lib.files import write_atomically

MARKS = Marks({"mask-test": 4.25}, 0.0, 0.0, (), ())


def standing(
    student: str, number: str, place: str, name: str = "", platform: str = "moodle", **more
) -> Standing:
    collected = {
        "platform": platform,
        "platform_id": number,
        "place": place,
        "at": "2027-03-01T11:00:00+00:00",
    }
    person = Person(student, name, (), "A", (), False) if name else None
    details = {"handed_in": True, "record": {}, "stale": False, "marks": MARKS, **more}
    return Standing(student=student, person=person, collected=collected, **details)


WEI = standing("wei1", "201", "Wei Zhang_201_assignsubmission_file_", "Wei Zhang")
OTHER = standing("wei2", "202", "Wei Zhang_202_assignsubmission_file_", "Wei Zhang")


def test_moodles_worksheet_has_the_columns_and_identifiers_of_its_importer():
    assert moodle_grades("tiny", [WEI, OTHER], {"wei1": 4.25, "wei2": 5.0}, 5.0).splitlines() == [
        "Identifier,Full name,Email address,Status,Grade,Maximum grade,Grade can be changed,"
        "Last modified (submission),Last modified (grade)",
        "Participant 201,Wei Zhang,,Submitted for grading,4.25,5,Yes,2027-03-01T11:00:00+00:00,",
        "Participant 202,Wei Zhang,,Submitted for grading,5,5,Yes,2027-03-01T11:00:00+00:00,",
    ]


def test_canvass_gradebook_has_its_columns_and_the_points_possible():
    ada = standing("ada", "12", "lovelaceada_LATE_12_345_tiny.ipynb", "Lovelace, Ada", "canvas")
    assert canvas_grades("tiny", [ada], {"ada": 4.25}, 5.0).splitlines() == [
        "Student,ID,SIS User ID,SIS Login ID,Section,tiny",
        "    Points Possible,,,,,5",
        '"Lovelace, Ada",12,,,A,4.25',
    ]


@pytest.mark.parametrize(
    "place, expected",
    [
        ("Wei Zhang_201_assignsubmission_file_", "Wei Zhang_201_assignsubmission_file_/tiny.html"),
        ("Wei Zhang_201_assignsubmission_file", "Wei Zhang_201_assignsubmission_file/tiny.html"),
        ("A/Wei Zhang_201_assignsubmission_file_", "Wei Zhang_201_assignsubmission_file_/tiny.html"),
        ("Wei Zhang_201_assignsubmission_file_a.ipynb", "Wei Zhang_201_assignsubmission_file_a.html"),
        ("../../x", "Wei Zhang_201_assignsubmission_file_/tiny.html"),
        ("Wei Zhang_7_assignsubmission_file_", "Wei Zhang_201_assignsubmission_file_/tiny.html"),
        ("", "Wei Zhang_201_assignsubmission_file_/tiny.html"),
    ],
)
def test_a_page_lies_where_moodle_finds_the_number(place, expected):
    where = moodle_place("tiny", standing("wei1", "201", place, "Wei Zhang"))
    assert where == expected
    # As importziplib.php reads it: at most five parts between _, the second one the number.
    assert where.split("/")[0].split("_", 4)[1:3] == ["201", "assignsubmission"]


def test_a_page_keeps_the_name_that_canvas_gave():
    late = standing("ada", "12", "lovelaceada_LATE_12_345_tiny-1.ipynb", platform="canvas")
    assert canvas_place("tiny", late) == "lovelaceada_LATE_12_345_tiny-1.html"
    numbers = [part for part in canvas_place("tiny", late).split("_") if part.isdigit()]
    assert numbers[:2] == ["12", "345"]  # the student, the file, as Canvas takes them


def test_files_are_written_only_for_whom_the_platform_knows_and_whose_grade_holds(tmp_path):
    from nnopt_lib.course.labs.gradebook import Course

    course = Course(tmp_path)
    stale = standing("old", "203", "Old_203_assignsubmission_file_", stale=True)
    waiting = standing("new", "204", "New_204_assignsubmission_file_", marks=None)
    by_mail = standing("mail", "", "mail.ipynb", platform="")
    strange = standing("odd", "12; drop", "x", platform="moodle")
    everybody = [WEI, OTHER, stale, waiting, by_mail, strange]
    for one in everybody:
        write_atomically(course.notebook("feedback", "tiny", one.student).with_suffix(".html"), one.student)
    totals = {one.student: 4.25 for one in everybody}
    assert write_platform_files(course, "tiny", everybody, totals, 5.0) == {"moodle": ["old", "new", "odd"]}
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == [
        *("tiny-moodle-feedback.zip", "tiny-moodle.csv")
    ]
    rows = list(csv.reader(io.StringIO((tmp_path / "reports" / "tiny-moodle.csv").read_text())))
    assert [row[0] for row in rows[1:]] == ["Participant 201", "Participant 202"]
    with zipfile.ZipFile(tmp_path / "reports" / "tiny-moodle-feedback.zip") as pages:
        assert {name: pages.read(name).decode() for name in pages.namelist()} == {
            "Wei Zhang_201_assignsubmission_file_/tiny.html": "wei1",
            "Wei Zhang_202_assignsubmission_file_/tiny.html": "wei2",
        }


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1"])
def test_what_a_spreadsheet_would_compute_is_text(text):
    assert harmless(text) == f"'{text}"
    assert list(csv.reader(io.StringIO(as_csv(["name"], [[text]]))))[1] == [f"'{text}"]


def test_numbers_and_ordinary_names_stay_as_they_are():
    assert as_csv(["a", "b"], [[-1.5, "Anna-Lena O'Neil"], [0, 'a, "b"']]) == (
        'a,b\n-1.5,Anna-Lena O\'Neil\n0,"a, ""b"""\n'
    )
