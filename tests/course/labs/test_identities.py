"""Which student a notebook belongs to, collection after collection: homonyms, renamings, the roster."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import pytest

from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.course.labs.identities import Identities
from nnopt_lib.course.labs.platforms import read_places
from nnopt_lib.course.labs.roster import origin_path, read_roster

MOODLE = "{}_{}_assignsubmission_file_/tiny.ipynb"


@pytest.fixture
def course(tmp_path):
    """An empty class."""
    return Course(tmp_path)


def roster(course, *lines):
    (course.folder / "students.csv").write_text("\n".join(["id;name;aliases;platform id;status", *lines]))


def take_in(course, *paths, lab="tiny"):
    """Who handed in each of these files, and the notes; what collecting would write is written."""
    notes: list[str] = []
    people = read_roster(course)
    places = read_places(lab, list(map(PurePosixPath, paths)), people)
    found = Identities(course, lab, people, notes).students(places)
    for student, of_student in found.items():
        course.notebook("submitted", lab, student).parent.mkdir(parents=True, exist_ok=True)
        origin_path(course, lab, student).parent.mkdir(parents=True, exist_ok=True)
        one = of_student[0]
        origin = {"platform": one.platform, "platform_id": one.platform_id, "called": one.called}
        origin_path(course, lab, student).write_text(json.dumps(origin))
    by_path = {place.path: student for student, of_student in found.items() for place in of_student}
    return [by_path.get(PurePosixPath(path)) for path in paths], notes


def moodle(*students):
    return [MOODLE.format(name, number) for name, number in students]


TWO = moodle(("Wei Zhang", 201), ("Wei Zhang", 202))
HOMONYMS = (
    "2 students are called 'Wei Zhang' and were taken in as 'Wei Zhang 201' and 'Wei Zhang 202'; to name them, "
    "write a line for each into students.csv, with 201 or 202 as platform id"
)


def test_homonyms_stay_apart_and_a_note_says_how_to_name_them(course):
    assert take_in(course, *TWO, *moodle(("Bo", 203))) == (
        ["Wei Zhang 201", "Wei Zhang 202", "Bo"],
        [HOMONYMS],
    )
    assert take_in(course, *TWO[::-1])[0] == ["Wei Zhang 202", "Wei Zhang 201"]
    assert take_in(course, TWO[1]) == (["Wei Zhang 202"], [])


def test_a_homonym_who_comes_later_is_another(course):
    assert take_in(course, TWO[0]) == (["Wei Zhang"], [])
    students, notes = take_in(course, *TWO)
    assert students == ["Wei Zhang", "Wei Zhang 202"]
    assert notes == [
        "another student is called 'Wei Zhang' and was taken in as 'Wei Zhang 202'; to name them, write a line "
        "for each into students.csv, with 202 as platform id"
    ]
    assert take_in(course, TWO[1])[0] == ["Wei Zhang 202"]


def test_homonyms_of_the_roster_are_told_by_their_numbers(course):
    roster(course, "wz1;Wei Zhang;;201;", "wz2;Wei Zhang;;202,7;", "wz3;Wei Zhang;;;")
    (course.folder / "students.csv").write_text(
        (course.folder / "students.csv").read_text().replace("202,7", '"202;7"')
    )
    assert take_in(course, *TWO, "wz3.ipynb") == (["wz1", "wz2", "wz3"], [])
    assert take_in(course, "zhangwei_7_1_tiny.ipynb", lab="depth") == (["wz2"], [])


def test_homonyms_of_the_roster_without_numbers_stay_apart_too(course):
    roster(course, "wz1;Wei Zhang;;;", "wz2;Wei Zhang;;;")
    assert take_in(course, TWO[0])[0] == ["Wei Zhang 201"]
    assert take_in(course, TWO[1])[0] == ["Wei Zhang 202"]
    students, notes = take_in(course, "Wei Zhang.ipynb")
    assert students == ["Wei Zhang"]
    assert notes == ["Wei Zhang.ipynb may be of any of wz1, wz2; call it by one of these and collect again"]
    roster(course, "wz1;Wei Zhang;;201;", "wz2;Wei Zhang;;202;")
    assert take_in(course, *TWO) == (
        ["wz1", "wz2"],
        [
            f"wz{k} was taken in as 'Wei Zhang 20{k}' before; remove the folder submitted/Wei Zhang 20{k}/tiny"
            for k in (1, 2)
        ],
    )


def test_two_numbers_are_two_people_although_the_roster_has_one(course):
    roster(course, "wz;Wei Zhang;;;")
    assert take_in(course, *TWO) == (["Wei Zhang 201", "Wei Zhang 202"], [HOMONYMS])
    roster(course, "wz;Wei Zhang;;201;")
    students, notes = take_in(course, *moodle(("Wei Zhang", 201), ("Wei Zhang", 204)))
    assert students == ["wz", "Wei Zhang 204"]
    assert "with 204 as platform id" in notes[-1]


def test_one_person_with_a_new_number_is_the_same_and_that_is_said(course):
    roster(course, "ada;Ada Lovelace;;;")
    assert take_in(course, *moodle(("Ada Lovelace", 7)))[0] == ["ada"]
    students, notes = take_in(course, *moodle(("Ada Lovelace", 8)))
    assert students == ["ada"]
    assert notes == [
        "ada came with the number 8, and with 7 before; if these are two people, write a line for each into "
        "students.csv, with the number as platform id"
    ]


def test_moodles_numbers_are_others_in_the_next_assignment(course):
    assert take_in(course, *moodle(("Ada", 7), ("Bo", 8)))[0] == ["Ada", "Bo"]
    assert take_in(course, *moodle(("Ada", 17), ("Bo", 18)), lab="depth") == (["Ada", "Bo"], [])


def test_a_name_that_was_two_peoples_once_stays_in_doubt(course):
    take_in(course, *TWO)
    students, notes = take_in(course, *moodle(("Wei Zhang", 301)), lab="depth")
    assert students == ["Wei Zhang 301"]
    assert len(notes) == 1


def test_canvass_number_is_a_student_for_ever(course):
    assert take_in(course, "lovelaceada_12_1_tiny.ipynb")[0] == ["lovelaceada"]
    assert take_in(course, "kingada_12_2_tiny.ipynb")[0] == ["lovelaceada"]  # renamed
    assert take_in(course, "lovelaceada_14_9_width.ipynb", lab="width")[0] == ["lovelaceada 14"]
    assert take_in(course, "kingada_LATE_12_3_depth.ipynb", lab="depth")[0] == ["lovelaceada"]
    assert take_in(course, "lovelaceada_13_4_depth.ipynb", lab="depth")[0] == ["lovelaceada 13"]


def test_anonymous_ones_are_told_by_their_numbers(course):
    paths = [*moodle(("Participant", 5), ("Participant", 6)), "anon_Ab3_7_tiny.ipynb"]
    assert take_in(course, *paths) == (["Participant 5", "Participant 6", "anon_Ab3"], [])


WRITTEN = [
    "Lovelace, Ada.ipynb",
    "ADA LOVELACE /x.ipynb",
    "countess_tiny.ipynb",
    "AL1.ipynb",
    "lovelaceada_55_1_tiny.ipynb",
    "Ada Lovelace_77_assignsubmission_file_/tiny.ipynb",
    "Whoever_12_assignsubmission_file_/tiny.ipynb",
    "Monday-Ada Lovelace_78_assignsubmission_file_/tiny.ipynb",
]


@pytest.mark.parametrize("path", WRITTEN)
def test_one_student_however_the_name_is_written(course, path):
    roster(course, "al1;Ada Lovelace;Countess;12;", "bo;Bo;;;")
    assert take_in(course, path, "bo.ipynb") == (["al1", "bo"], [])


APOSTROPHES = ["Seán O'Brien", "Sean O’Brien", "Seán O`Brien", "Sean OBrien", "O'Brien, Seán", "obriensean"]


@pytest.mark.parametrize("name", APOSTROPHES)
def test_one_student_with_an_apostrophe_and_an_accent(course, name):
    roster(course, "so;Seán O'Brien;;;")
    assert take_in(course, *moodle((name, 4))) == (["so"], [])


def test_who_is_not_in_the_roster_is_taken_in_and_named(course):
    roster(course, "al1;Ada Lovelace;;;")
    assert take_in(course, "guest.ipynb") == (
        ["guest"],
        [
            "guest is not in students.csv and was taken in all the same; add a line, or an alias to one, and "
            "collect again"
        ],
    )


def test_who_has_dropped_is_taken_in_and_named(course):
    roster(course, "al1;Ada Lovelace;;;dropped")
    assert take_in(course, "al1.ipynb") == (
        ["al1"],
        ["al1 is dropped in students.csv, and was taken in all the same"],
    )


def test_a_folder_that_differs_in_case_is_the_same_student(course):
    assert take_in(course, "Ada.ipynb")[0] == ["Ada"]
    assert take_in(course, "ADA.ipynb", lab="depth")[0] == ["Ada"]


def test_a_damaged_origin_is_as_none(course):
    take_in(course, *TWO)
    for path in (course.folder / "collected" / "tiny").iterdir():
        path.write_text("[")
    assert take_in(course, *TWO)[0] == ["Wei Zhang 201", "Wei Zhang 202"]
