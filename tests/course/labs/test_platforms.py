"""What places of files say: Moodle's and Canvas's layouts, sections, and names that people gave."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from nnopt_lib.course.labs.platforms import (
    attachment_number,
    copy_number,
    is_called_as,
    is_lab_in,
    is_notebook,
    read_places,
    student_in,
)
from nnopt_lib.course.labs.roster import Person, Roster

ROSTER = Roster(
    (
        Person("al1", "Ada Lovelace", ("Countess",)),
        Person("jl2", "Jean-Luc Picard"),
        Person("lp3", "Luc Picard"),
    )
)
MOODLE = {  # path: called, number, section, place, the file's own name
    "Wei Zhang_201_assignsubmission_file_/tiny.ipynb": (
        *("Wei Zhang", "201", "", "Wei Zhang_201_assignsubmission_file_", "tiny.ipynb"),
    ),
    "Wei Zhang_201_assignsubmission_file/tiny.ipynb": (  # since version 4.1
        *("Wei Zhang", "201", "", "Wei Zhang_201_assignsubmission_file", "tiny.ipynb"),
    ),
    "Wei Zhang_201_assignsubmission_file/work/deep/tiny.ipynb": (
        *("Wei Zhang", "201", "", "Wei Zhang_201_assignsubmission_file", "tiny.ipynb"),
    ),
    "Wei Zhang_201_assignsubmission_file_tiny-1.ipynb": (  # without folders
        *("Wei Zhang", "201", "", "Wei Zhang_201_assignsubmission_file_tiny-1.ipynb", "tiny-1.ipynb"),
    ),
    "Wei Zhang_201_ASSIGNSUBMISSION_FILE_/x_12_34_tiny.ipynb": (  # a file that looks like one of Canvas's
        *("Wei Zhang", "201", "", "Wei Zhang_201_ASSIGNSUBMISSION_FILE_", "x_12_34_tiny.ipynb"),
    ),
    "Section A/Wei Zhang_201_assignsubmission_file_/tiny.ipynb": (
        *("Wei Zhang", "201", "Section A", "Wei Zhang_201_assignsubmission_file_", "tiny.ipynb"),
    ),
    "course/Group 7/Wei Zhang_201_assignsubmission_file_/tiny.ipynb": (
        *("Wei Zhang", "201", "Group 7", "Wei Zhang_201_assignsubmission_file_", "tiny.ipynb"),
    ),
    "downloads/Wei Zhang_201_assignsubmission_file_/tiny.ipynb": (
        *("Wei Zhang", "201", "", "Wei Zhang_201_assignsubmission_file_", "tiny.ipynb"),
    ),
    "Participant_201_assignsubmission_file_/tiny.ipynb": (  # graded without names
        *("Participant 201", "201", "", "Participant_201_assignsubmission_file_", "tiny.ipynb"),
    ),
    "Team 5_31_assignsubmission_file/tiny.ipynb": (
        *("Team 5", "31", "", "Team 5_31_assignsubmission_file", "tiny.ipynb"),
    ),
    "Default group_assignsubmission_file/tiny.ipynb": (
        *("Default group", "", "", "Default group_assignsubmission_file", "tiny.ipynb"),
    ),
    "Tuesday-Ada Lovelace_9_assignsubmission_file_/tiny.ipynb": (  # groups before version 4
        *("Ada Lovelace", "9", "Tuesday", "Tuesday-Ada Lovelace_9_assignsubmission_file_", "tiny.ipynb"),
    ),
    "A-1-Jean-Luc Picard_9_assignsubmission_file_/tiny.ipynb": (
        *("Jean-Luc Picard", "9", "A-1", "A-1-Jean-Luc Picard_9_assignsubmission_file_", "tiny.ipynb"),
    ),
    "Jean-Luc Picard_9_assignsubmission_file_/tiny.ipynb": (
        *("Jean-Luc Picard", "9", "", "Jean-Luc Picard_9_assignsubmission_file_", "tiny.ipynb"),
    ),
    "Anne-Marie Li_9_assignsubmission_file_/tiny.ipynb": (  # not in the roster: nothing is cut off
        *("Anne-Marie Li", "9", "", "Anne-Marie Li_9_assignsubmission_file_", "tiny.ipynb"),
    ),
}
CANVAS = {  # path: called, number, section, late, the file's number, its own name
    "lovelaceada_12_345_tiny.ipynb": ("lovelaceada", "12", "", False, 345, "tiny.ipynb"),
    "lovelaceada_LATE_12_345_tiny.ipynb": ("lovelaceada", "12", "", True, 345, "tiny.ipynb"),
    "leeanna_13_346_tiny-1.ipynb": ("leeanna", "13", "", False, 346, "tiny-1.ipynb"),
    "müllerzoé_13_346_tiny (1).ipynb": ("müllerzoé", "13", "", False, 346, "tiny (1).ipynb"),
    "leeanna_13_346_my_2_3_tiny.ipynb": ("leeanna", "13", "", False, 346, "my_2_3_tiny.ipynb"),
    "anon_X7kd2_346_tiny.ipynb": ("anon_X7kd2", "X7kd2", "", False, 346, "tiny.ipynb"),
    "LATE_anon_X7kd2_346_tiny.ipynb": ("anon_X7kd2", "X7kd2", "", True, 346, "tiny.ipynb"),
    "Section B/leeanna_13_346_tiny.ipynb": ("leeanna", "13", "Section B", False, 346, "tiny.ipynb"),
    "submissions/leeanna_13_346_tiny.ipynb": ("leeanna", "13", "", False, 346, "tiny.ipynb"),
    "Lee, Anna/leeanna_13_346_tiny.ipynb": ("leeanna", "13", "", False, 346, "tiny.ipynb"),
    "klate_13_346_tiny.ipynb": ("klate", "13", "", False, 346, "tiny.ipynb"),
}


def places(*paths: str, roster=None):
    return read_places("tiny", list(map(PurePosixPath, paths)), roster or Roster(), ["depth"])


@pytest.mark.parametrize("path", MOODLE)
def test_moodles_layouts(path):
    (place,) = places(path, roster=ROSTER)
    found = (place.called, place.platform_id, place.section, place.place, place.file)
    assert (found, place.platform, place.late) == (MOODLE[path], "moodle", False)


@pytest.mark.parametrize("path", CANVAS)
def test_canvass_layouts(path):
    (place,) = places(path)
    found = (place.called, place.platform_id, place.section, place.late, place.number, place.file)
    assert (found, place.platform) == (CANVAS[path], "canvas")
    assert place.place == PurePosixPath(path).name
    assert attachment_number(place.place) == place.number


def test_a_date_in_names_is_no_number_of_canvass():
    one, two = places("ada_2026_11_tiny.ipynb", "bo_2026_11_tiny.ipynb")
    assert [(place.called, place.platform, place.platform_id) for place in (one, two)] == [
        ("ada", "", ""),
        ("bo", "", ""),
    ]


def test_both_platforms_in_one_folder():
    found = places("a/Ada_7_assignsubmission_file_/tiny.ipynb", "b/leeanna_7_346_tiny.ipynb", "cy.ipynb")
    assert [(one.platform, one.called) for one in found] == [
        ("moodle", "Ada"),
        ("canvas", "leeanna"),
        ("", "cy"),
    ]


LAYOUTS = {  # paths: who, and the section
    ("ada.ipynb", "bo.ipynb"): [("ada", ""), ("bo", "")],
    ("x/ada.ipynb", "x/bo.ipynb"): [("ada", ""), ("bo", "")],
    ("Section A/ada.ipynb", "Section A/bo.ipynb"): [("ada", "Section A"), ("bo", "Section A")],
    ("Section A/ada/tiny.ipynb",): [("ada", "Section A")],
    ("Section A/tiny.ipynb", "ada/tiny.ipynb"): [("Section A", ""), ("ada", "")],
    ("Gruppe 3/ada.ipynb", "Gruppe 4/bo.ipynb"): [("ada", "Gruppe 3"), ("bo", "Gruppe 4")],
    ("一班/李雷.ipynb", "二班/韩梅.ipynb"): [("李雷", "一班"), ("韩梅", "二班")],
    ("Mon/ada/tiny.ipynb", "Mon/bo/tiny.ipynb", "Tue/cy/tiny.ipynb"): [
        ("ada", "Mon"),
        ("bo", "Mon"),
        ("cy", "Tue"),
    ],
    ("Mon/ada_tiny.ipynb", "Mon/bo_tiny.ipynb", "Tue/cy_tiny.ipynb"): [
        ("ada", "Mon"),
        ("bo", "Mon"),
        ("cy", "Tue"),
    ],
    ("ada/one.ipynb", "ada/two.ipynb", "bo/x.ipynb"): [("ada", ""), ("ada", ""), ("bo", "")],
    ("ada/1/tiny.ipynb", "ada/2/tiny.ipynb", "bo/1/tiny.ipynb"): [("ada", ""), ("ada", ""), ("bo", "")],
    ("ada/tiny/tiny.ipynb", "bo/tiny/tiny.ipynb"): [("ada", ""), ("bo", "")],
    ("ada/ada_tiny.ipynb", "bo/bo_tiny.ipynb"): [("ada", ""), ("bo", "")],
    ("Classen/tiny.ipynb", "Groupe/tiny.ipynb"): [("Classen", ""), ("Groupe", "")],
    ("ada/tiny.ipynb", "ada/ada_tiny.ipynb", "bo/bo_tiny.ipynb"): [("ada", ""), ("ada", ""), ("bo", "")],
    ("ada/a/tiny.ipynb", "ada/b/tiny.ipynb", "bo/bo_tiny.ipynb"): [("ada", ""), ("ada", ""), ("bo", "")],
    ("Lee, Anna/leeanna_13_1_tiny.ipynb", "Bo/bo_14_2_tiny.ipynb"): [("leeanna", ""), ("bo", "")],
    ("ada/notes/tiny.ipynb", "bo/tiny.ipynb"): [("ada", ""), ("bo", "")],
}


@pytest.mark.parametrize("paths", LAYOUTS, ids=" ".join)
def test_folders_of_sections_and_of_students(paths):
    assert [(one.called, one.section) for one in places(*paths)] == LAYOUTS[paths]


def test_the_roster_tells_folders_of_sections_from_those_of_students():
    found = places(
        "Blue/Countess/x.ipynb", "Blue/picardjeanluc.ipynb", "Ada Lovelace/a/tiny.ipynb", "Bo/tiny.ipynb",
        roster=ROSTER,
    )  # fmt: skip
    assert [(one.called, one.section) for one in found] == [
        ("Countess", "Blue"),
        ("picardjeanluc", "Blue"),
        ("Ada Lovelace", ""),
        ("Bo", ""),
    ]


STUDENTS = {
    "ada.ipynb": "ada",
    "ada_tiny.ipynb": "ada",
    "tiny-ada.ipynb": "ada",
    "TINY ada (1).ipynb": "ada",
    "ada - Copy.ipynb": "ada",
    "ada - Copy (2).ipynb": "ada",
    "ada copy.ipynb": "ada",
    "ada copy 3.ipynb": "ada",
    "ada-Copy1-Copy2.ipynb": "ada",
    "ada_tiny-1.ipynb": "ada",
    "ada_tiny(1).ipynb": "ada",
    "ada_tiny.ipynb.txt": "ada",
    "ada.IPYNB.json": "ada",
    "ada_depth.ipynb": "ada",  # another lab
    "ada-1.ipynb": "ada-1",
    "tina.ipynb": "tina",
    "destiny.ipynb": "destiny",
    "tiny.ipynb": "",
    "Tiny-1.ipynb": "",
    "tiny (1).ipynb": "",
    "depth.ipynb": "",
}


@pytest.mark.parametrize("file", STUDENTS)
def test_whose_a_file_is_by_its_name(file):
    assert is_notebook(PurePosixPath(file))
    assert student_in("tiny", file, ["depth"]) == STUDENTS[file]


COPIES = {  # which copy, and whether it is one at all
    "tiny.ipynb": (0, True),
    "tiny-1.ipynb": (1, True),
    "Tiny (12).ipynb": (12, True),
    "tiny(3).ipynb": (3, True),
    "tiny.ipynb.txt": (0, True),
    "tiny-Copy1.ipynb": (None, True),
    "tiny - Copy.ipynb": (None, True),
    "tiny-1-Copy2.ipynb": (None, True),
    "tiny2.ipynb": (None, False),
    "my tiny.ipynb": (None, False),
}


@pytest.mark.parametrize("file", COPIES)
def test_copies_of_the_lab(file):
    assert (copy_number("tiny", file), is_called_as("tiny", file)) == COPIES[file]


@pytest.mark.parametrize(
    ("file", "inside"), [("ada_Tiny.ipynb", True), ("tiny (1).ipynb", True), ("destiny.ipynb", False)]
)
def test_a_labs_name_is_a_word(file, inside):
    assert is_lab_in("tiny", file) == inside


@pytest.mark.parametrize("file", ["a.ipynb.zip", "ipynb", "a.py", "a.ipynb.bak", "a.json", "a.txt"])
def test_what_is_no_notebook(file):
    assert not is_notebook(PurePosixPath(file))
