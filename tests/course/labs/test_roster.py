"""The roster: files as spreadsheets write them, and whose a name is in all the ways that people write it."""

from __future__ import annotations

import json
import unicodedata

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.course.labs.roster import (
    LONGEST_NAME,
    Person,
    Roster,
    clean_name,
    fits,
    name_key,
    read_roster,
    whose,
)

HEADER = "id,name,aliases,section,platform id,status\n"
ADA = Person("ada", "Ada Lovelace", ("Countess; no", "AL"), "A", ("12", "201"))


@pytest.fixture
def course(tmp_path):
    """An empty class."""
    return Course(tmp_path)


def hand_in(course, *students, lab="tiny", **origins):
    for student in students:
        path = course.notebook("submitted", lab, student)
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        if student in origins:
            origin = course.folder / "collected" / lab / f"{student}.json"
            origin.parent.mkdir(parents=True, exist_ok=True)
            origin.write_text(json.dumps(origins[student]))


ROWS = [
    ("ada", "Lovelace, Ada", "Ada King;Countess", "A", "12;201", ""),
    ("bo", "Bo Ngô", "", "B", "", "dropped"),
]
PEOPLE = (
    Person("ada", "Lovelace, Ada", ("Ada King", "Countess"), "A", ("12", "201")),
    Person("bo", "Bo Ngô", (), "B", (), True),
)


def text_of(delimiter):
    lines = [HEADER.strip().split(","), *ROWS]
    quoted = [[f'"{cell}"' if delimiter in cell or ";" in cell else cell for cell in line] for line in lines]
    return "".join(delimiter.join(line) + "\n" for line in quoted)


FILES = {
    "commas": text_of(",").encode(),
    "byte-order mark": b"\xef\xbb\xbf" + text_of(",").encode(),
    "semicolons": text_of(";").encode(),
    "semicolons of Excel for Windows": text_of(";").replace("\n", "\r\n").encode("cp1252"),
    "sep= of Excel": b"\xef\xbb\xbfsep=;\r\n" + text_of(";").replace("\n", "\r\n").encode(),
    "tabs in UTF-16": text_of("\t").encode("utf-16"),
    "old Macintosh lines": text_of(",").replace("\n", "\r").encode(),
    "empty lines": ("\n" + text_of(",").replace("\n", "\n\n") + ",,,,,\n").encode(),
    "letters in two parts": unicodedata.normalize("NFD", text_of(",")).encode(),
    "titles in capitals": text_of(",").replace("platform id", "Platform_IDs").replace("id,", "ID,").encode(),
    "spaces around": text_of(";")
    .replace(";", " ; ")
    .replace('" ; "', '";"')
    .replace("King ; C", "King;C")
    .replace("12 ; 201", "12;201")
    .replace(' "', '"')
    .replace('" ', '"')
    .encode(),
    "a column of the teacher's": text_of(",")
    .replace("\n", ",x@uni.edu\n")
    .replace("x@uni.edu", "e-mail", 1)
    .encode(),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_roster_is_read_as_spreadsheets_write_it(course, kind):
    (course.folder / "students.csv").write_bytes(FILES[kind])
    assert read_roster(course).people == PEOPLE


def test_without_a_file_the_roster_is_empty(course):
    assert read_roster(course) == Roster()
    assert read_roster(course).find("ada") is None


WRONG = {
    "ada,Ada\nAda,Ada Byron": "line 3: each student must have an id and platform ids of their own; received id ada, which line 2 has.",
    "ada,,,,12\nbo,,,,9;12": "line 3: each student must have an id and platform ids of their own; received platform id 12, which line 2 has.",
    ",Ada": "line 2: an id must be a name that a folder can have; received ''. Write a number or a short name.",
    "../ada,Ada": "line 2: an id must be a name that a folder can have; received '../ada'. Write 'ada'.",
    "a/b,Ada": "line 2: an id must be a name that a folder can have; received 'a/b'. Write 'a_b'.",
    "ada,Ada,,,,gone": "line 2: status must be empty or dropped; received 'gone'.",
    "ada,Ada,,,,,Lovelace": 'line 2 must have at most 6 cells, as the first has; received 7. Put a name with a comma between quotes: "Lovelace, Ada".',
    '"a\nb",Ada\n?,Bo': "line 4: an id must be a name that a folder can have; received '?'. Write a number or a short name.",
}


@pytest.mark.parametrize("lines", WRONG)
def test_a_wrong_line_is_one_sentence_with_its_number(course, lines):
    path = course.folder / "students.csv"
    path.write_text(HEADER + lines + "\n")
    with pytest.raises(NnoptError) as refused:
        read_roster(course)
    assert str(refused.value) == f"{path}, {WRONG[lines]}"


KINDS_OF_FILES = {
    "a workbook": (
        b"PK\x03\x04 rest",
        "{} must be a CSV file; received a file of another kind. In a spreadsheet program, save as CSV (UTF-8).",
    ),
    "no id": (
        b"name,section\nAda,A\n",
        "{}, line 1 must name the columns, id among them (id, name, aliases, section, platform id, status); received 'name', 'section'.",
    ),
    "nothing": (
        b"",
        "{}, line 1 must name the columns, id among them (id, name, aliases, section, platform id, status); received nothing.",
    ),
    "a misspelt title": (
        b"id,name,alaises\n",
        "{}, line 1: columns are id, name, aliases, section, platform id, status; received 'alaises'. Did you mean 'aliases'?",
    ),
    "a title twice": (b"id,name,Name\n", "{}, line 1: a column must stand once; received 'name' 2 times."),
}


@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_what_is_no_roster_is_one_sentence(course, kind):
    content, sentence = KINDS_OF_FILES[kind]
    path = course.folder / "students.csv"
    path.write_bytes(content)
    with pytest.raises(NnoptError) as refused:
        read_roster(course)
    assert str(refused.value) == sentence.format(path)


SAME = [
    ("Ada Lovelace", "Lovelace, Ada"),
    ("Ada Lovelace", "  ada   LOVELACE "),
    ("Ada Lovelace", "lovelaceada"),
    ("Ada Lovelace", "adalovelace"),
    ("Ada Lovelace", "ada_lovelace"),
    ("Ada Lovelace", "Lovelace Ada."),
    ("Seán O'Brien", "Sean O’Brien"),
    ("Seán O'Brien", "obriensean"),
    ("Seán O'Brien", "O`Brien, Seán"),
    ("Jean-Luc Picard", "Jean Luc Picard"),
    ("Jean-Luc Picard", "picardjeanluc"),
    ("Jean-Luc Picard", "Jeanluc Picard"),
    ("Juan de la Cruz", "delacruzjuan"),
    ("Zoé Müller", unicodedata.normalize("NFD", "Zoé Müller")),
    ("Zoé Müller", "ZOE MULLER"),
    ("Zoé Müller", "Mueller, Zoe"),
    ("Søren Ødegård", "Soren Odegard"),
    ("Łukasz Żółć", "lukasz zolc"),
    ("Strauß", "STRAUSS"),
    ("李雷", " 李雷 "),
    ("Nguyễn Văn A", "Nguyen Van A"),
    ("ＡＤＡ", "ada"),
]
OTHERS = [
    ("Ada Lovelace", "Ada"),
    ("Ada Lovelace", "Ada Lovelac"),
    ("Wei Zhang 201", "Wei Zhang 202"),
    ("李雷", "李磊"),
    ("...", ""),
    ("?", "!"),
    ("", ""),
    ("ada1", "ada2"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_name_in_all_the_ways_that_people_write_it(one, other):
    assert fits(one, other)
    assert fits(other, one)
    people = (Person("1", one), Person("2", "Bo Li"))
    assert Roster(people).find(other) is people[0]


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_another_name_is_another(one, other):
    assert not fits(one, other)
    assert not fits(other, one)


def test_a_key_has_words_in_order_letters_and_digits_only():
    assert name_key(" Lovelace,\tADA é-2_x ") == "2 ada e lovelace x"


def test_who_is_found_by_platform_id_before_the_name():
    wei, other = (
        Person("w1", "Wei Zhang", platform_ids=("201",)),
        Person("w2", "Wei Zhang", ("Bo",), "", ("202", "7")),
    )
    roster = Roster((wei, other))
    assert roster.find("Wei Zhang", "201") is wei
    assert roster.find("whatever", "7") is other
    assert roster.find("Bo", "201") is wei
    assert roster.find("Bo", "9") is other  # a number that nobody has says nothing
    assert roster.find("W1") is wei
    assert roster.find("Wei Zhang") is None
    assert roster.find("Wei Zhang", "9") is None
    assert roster.find("") is None
    assert roster.namesakes("zhangwei") == [wei, other]


def test_an_id_is_nearer_than_a_name_and_a_whole_name_than_words_run_together():
    people = Person("ada", "Bo Li"), Person("2", "Ada"), Person("3", "Anna Bel"), Person("4", "Annabel")
    assert Roster(people).find("ADA") is people[0]
    assert Roster(people).find("Annabel") is people[3]


ROSTER = HEADER + (
    'al1,"Lovelace, Ada",Countess,A,12,\n'
    "sb2,Seán O'Brien,,A,,\n"
    "wz1,Wei Zhang,,A,201,\n"
    "wz2,Wei Zhang,,B,202,\n"
    "ab3,Ada Byron King,,B,,\n"
)
TYPED = [
    ("al1", "al1", "own"),
    ("al1", "Ada Lovelace", "own"),
    ("al1", "lovelace, ada ", "own"),
    ("al1", "COUNTESS", "own"),
    ("al1", "lovelaceada", "own"),
    ("al1", "Lovelace", "own"),  # a part that fits nobody else
    ("al1", "Ada", "nobody's"),  # fits another's part as well
    ("al1", "ab3", "another's"),
    ("al1", "Seán OBrien", "another's"),
    ("al1", "Grace Hopper", "nobody's"),
    ("al1", "", "nobody's"),
    ("al1", "...", "nobody's"),
    ("sb2", "Sean O’Brien", "own"),
    ("sb2", "sean", "own"),
    ("ab3", "King, Ada", "own"),
    ("wz1", "Wei Zhang", "own"),
    ("wz2", "zhangwei", "own"),
    ("wz1", "wz2", "another's"),
    ("Guest", "guest", "own"),
    ("Guest", "Wei Zhang", "another's"),
    ("sb2", "Guest", "another's"),
]


@pytest.mark.parametrize(("student", "typed", "expected"), TYPED)
def test_whose_name_a_student_typed(course, student, typed, expected):
    (course.folder / "students.csv").write_text(ROSTER)
    hand_in(course, "al1", "wz1", "wz2", "Guest")  # sb2 and ab3 have handed in nothing yet
    assert whose(course, "tiny", student, typed) == expected


WITHOUT_ROSTER = [
    ("Wei Zhang 201", "Wei Zhang", "own"),
    ("Wei Zhang 202", "Wei Zhang", "own"),
    ("Wei Zhang 201", "Wei Zhang 202", "another's"),
    ("lovelaceada", "Ada Lovelace", "own"),
    ("lovelaceada", "ada", "own"),
    ("lovelaceada", "Lovelace", "own"),
    ("lovelaceada", "da", "nobody's"),
    ("lovelaceada", "l", "nobody's"),
    ("lovelaceada", "velacea", "nobody's"),
    ("Zoé", "Bo", "another's"),
    ("Zoé", "zoe", "own"),
    ("Zoé", "Zo", "nobody's"),
    ("Bo", 7, "nobody's"),
]


@pytest.mark.parametrize(("student", "typed", "expected"), WITHOUT_ROSTER)
def test_whose_name_it_is_without_a_roster(course, student, typed, expected):
    zhangs = {f"Wei Zhang {one}": {"platform_id": one, "called": "Wei Zhang"} for one in ("201", "202")}
    hand_in(course, *zhangs, "lovelaceada", "Zoé", "Bo", **zhangs)
    assert whose(course, "tiny", student, typed) == expected


def test_a_platform_id_tells_who_an_old_folder_is(course):
    """A folder that is called as the platform did, before the student was put into the roster."""
    (course.folder / "students.csv").write_text(ROSTER)
    hand_in(course, "Lady L", **{"Lady L": {"platform_id": "12", "called": "Lady L"}})
    assert whose(course, "tiny", "Lady L", "Ada Lovelace") == "own"
    assert whose(course, "tiny", "Lady L", "al1") == "own"
    assert whose(course, "tiny", "Lady L", "Lovelace") == "own"
    assert whose(course, "tiny", "wz1", "lady l") == "another's"


@pytest.mark.parametrize("damage", ["{", "[]", "\xff"])
def test_a_damaged_note_of_where_a_notebook_came_from_is_as_none(course, damage):
    hand_in(course, "ada", ada={"called": "Ada"})
    (course.folder / "collected" / "tiny" / "ada.json").write_bytes(damage.encode("latin-1"))
    assert whose(course, "tiny", "ada", "ada") == "own"
    assert whose(course, "tiny", "bo", "Ada") == "another's"


NAMES = {
    "Zoé Müller": "Zoé Müller",
    unicodedata.normalize("NFD", "Zoé"): "Zoé",
    "李雷": "李雷",
    "../../etc": "etc",
    "/abs": "abs",
    ".hidden": "hidden",
    "-rf": "rf",
    "=cmd|'/c calc'!A1": "cmd___c calc__A1",
    "a[1]*{x},y": "a_1___x__y",
    "a\nb\x00c": "a_b_c",
    "  two   words ": "two words",
    "...": "",
    "ada@uni.edu": "ada@uni.edu",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_become_folders_that_every_system_and_nbgrader_can_have(name):
    assert clean_name(name) == NAMES[name]


def test_long_names_are_cut_and_stay_apart():
    one, two = clean_name("李" * 300 + "a"), clean_name("李" * 300 + "b")
    assert one != two
    assert max(len(one.encode()), len(two.encode())) <= LONGEST_NAME
    assert clean_name("x" * 120) == "x" * 120
