"""Collecting: whose a notebook is, what platforms make of names, and files that nobody should trust."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
import zipfile
from datetime import datetime
from pathlib import PurePosixPath

import pytest
from nbgrader.coursedir import CourseDirectory

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs import handed_in as lab_handed_in
from nnopt_lib.course.labs.collect import collect
from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.course.labs.submissions import LARGEST, read_submission
from nnopt_lib.files import hash_of

NOTEBOOK = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
START = 1_700_000_000  # of seconds since 1970


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course whose gradebook is not asked: that a lab was released is another module's matter."""
    monkeypatch.setattr(Course, "most_points", lambda self, lab: {})
    (tmp_path / "course").mkdir()
    return Course(tmp_path / "course")


@pytest.fixture
def in_utc(monkeypatch):
    """A machine whose clock is on UTC, since .zip files have local times."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def handed_in(root, *names: str, **contents: str):
    folder = root / "handed-in"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(contents.get(name, NOTEBOOK))
    return folder


def zipped(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


WHOSE = {
    "ada.ipynb": "ada",
    "ada_depth.ipynb": "ada",
    "depth-ada.ipynb": "ada",
    "Depth ada (1).ipynb": "ada",
    "ada-Copy1.ipynb": "ada",
    "lovelaceada_123_456_depth.ipynb": "lovelaceada",
    "lovelaceada_LATE_123_456_depth-2.ipynb": "lovelaceada",
    "Ada Lovelace_123_assignsubmission_file_depth.ipynb": "Ada Lovelace",
    "Ada Lovelace_123_assignsubmission_file/my lab.ipynb": "Ada Lovelace",
    "ada/depth.ipynb": "ada",
    "ada/depth/depth.ipynb": "ada",
    "depth.ipynb": None,
}


@pytest.mark.parametrize("name", WHOSE)
def test_a_notebook_belongs_to_its_folder_or_to_its_name(course, tmp_path, name):
    collected = collect(course, "depth", handed_in(tmp_path, name, "bob.ipynb"))
    assert set(collected.students) == {"bob", WHOSE[name]} - {None}
    noted = f"{name} does not say whose it is and was left out; call it STUDENT.ipynb"
    assert collected.notes == ([] if WHOSE[name] else [noted])


def test_a_folder_around_everything_is_nobodys_name(course, tmp_path):
    zip_file = zipped(tmp_path / "a.zip", {f"course 7/depth/{one}.ipynb": NOTEBOOK for one in ("ada", "bob")})
    assert collect(course, "depth", zip_file).students == {"ada": "new", "bob": "new"}
    assert course.notebook("submitted", "depth", "ada").read_text() == NOTEBOOK


def test_what_was_handed_in_again_replaces_and_what_is_equal_stays(course, tmp_path):
    folder = handed_in(tmp_path, "ada.ipynb", "bob.ipynb")
    collect(course, "depth", folder)
    (folder / "bob.ipynb").write_text(NOTEBOOK + " ")
    assert collect(course, "depth", folder).students == {"ada": "unchanged", "bob": "replaced"}
    assert course.notebook("submitted", "depth", "bob").read_text() == NOTEBOOK + " "


def handed_in_at(root, **times: int):
    """Files of different contents by name and seconds since some time; "__" in a name is a folder's end."""
    folder = root / "handed-in"
    for name, seconds in times.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(NOTEBOOK + " " * (len(list(folder.rglob("*"))) + 1))
        os.utime(path, (START + seconds, START + seconds))
    return folder


LATEST = {
    "browser's copies": (
        {"ada/depth.ipynb": 0, "ada/depth (1).ipynb": 0, "ada/depth (2).ipynb": 0},
        "ada/depth (2).ipynb",
    ),
    "Canvas's copies": ({"ada/depth.ipynb": 0, "ada/depth-1.ipynb": 0}, "ada/depth-1.ipynb"),
    "ten copies": ({"ada/depth-2.ipynb": 0, "ada/depth-10.ipynb": 0}, "ada/depth-10.ipynb"),
    "copies and times that agree": ({"ada/depth.ipynb": 0, "ada/depth-1.ipynb": 60}, "ada/depth-1.ipynb"),
    "copies and times that do not": ({"ada/depth.ipynb": 60, "ada/depth-1.ipynb": 0}, "ada/depth.ipynb"),
    "files of one name": ({"ada.ipynb": 60, "ada_depth.ipynb": 0}, "ada.ipynb"),
    "other names": ({"ada/one.ipynb": 0, "ada/two.ipynb": 60}, "ada/two.ipynb"),
    "folders inside": ({"ada/new/depth.ipynb": 60, "ada/old/depth.ipynb": 0}, "ada/new/depth.ipynb"),
    "Canvas's numbers": ({"x_1_99_depth.ipynb": 60, "x_1_100_depth-1.ipynb": 0}, "x_1_100_depth-1.ipynb"),
    "Canvas's numbers and LATE": (
        {"x_1_99_depth.ipynb": 0, "x_LATE_1_98_depth.ipynb": 0},
        "x_1_99_depth.ipynb",
    ),
    "Moodle's copies": (
        {"Ada_7_assignsubmission_file_/depth.ipynb": 0, "Ada_7_assignsubmission_file_/depth (1).ipynb": 0},
        "Ada_7_assignsubmission_file_/depth (1).ipynb",
    ),
    "Moodle's files": (
        {"Ada_7_assignsubmission_file_depth.ipynb": 0, "Ada_7_assignsubmission_file_depth-1.ipynb": 0},
        "Ada_7_assignsubmission_file_depth-1.ipynb",
    ),
    "Jupyter's copies, by time": (
        {"ada/depth.ipynb": 0, "ada/depth-Copy1.ipynb": 60},
        "ada/depth-Copy1.ipynb",
    ),
}


@pytest.mark.parametrize("kind", LATEST)
def test_of_several_notebooks_of_one_student_the_latest_counts_where_that_is_clear(course, tmp_path, kind):
    times, latest = LATEST[kind]
    folder = handed_in_at(tmp_path, **times, **{"bob/depth.ipynb": 0})
    collected = collect(course, "depth", folder)
    (student,) = set(collected.students) - {"bob"}
    assert course.notebook("submitted", "depth", student).read_text() == (folder / latest).read_text()
    paths = ", ".join(sorted(times, key=PurePosixPath))
    assert collected.notes == [
        f"{student} handed in {len(times)} notebooks ({paths}); the latest counts, {latest}"
    ]


UNCLEAR = {
    "files of one name": ("ada.ipynb", "ada_depth.ipynb"),
    "other names": ("ada/one.ipynb", "ada/two.ipynb"),
    "folders inside": ("ada/a/depth.ipynb", "ada/b/depth.ipynb"),
    "case": ("Ada.ipynb", "ada.ipynb"),
}


@pytest.mark.parametrize("kind", UNCLEAR)
def test_where_it_is_not_clear_which_is_the_latest_that_student_alone_is_left_out(course, tmp_path, kind):
    names = UNCLEAR[kind]
    collected = collect(
        course, "depth", handed_in_at(tmp_path, **dict.fromkeys(names, 0), **{"bob/x.ipynb": 0})
    )
    assert collected.students == {"bob": "new"}
    student = "Ada" if kind == "case" else "ada"
    assert collected.notes == [
        f"{student} handed in 2 notebooks ({', '.join(names)}) and was left out, since it is not clear which is "
        "the latest; keep one of them and collect again"
    ]
    assert [path.name for path in (course.folder / "submitted").iterdir()] == ["bob"]


def test_two_names_that_become_one_folder_are_not_taken_for_one_student(course, tmp_path):
    collected = collect(
        course, "depth", handed_in_at(tmp_path, **{"a?.ipynb": 0, "a*.ipynb": 99, "b.ipynb": 0})
    )
    assert collected.students == {"b": "new"}
    assert "a handed in 2 notebooks (a*.ipynb, a?.ipynb) and was left out" in collected.notes[-1]


def test_equal_notebooks_are_one(course, tmp_path):
    collected = collect(
        course, "depth", handed_in(tmp_path, "ada/depth.ipynb", "ada/b/depth.ipynb", "b.ipynb")
    )
    assert (collected.students, collected.notes) == ({"ada": "new", "b": "new"}, [])


def test_jupyters_copy_of_the_same_second_gives_way_to_the_lab(course, tmp_path):
    times = {"ada/depth.ipynb": 0, "ada/depth-Copy1.ipynb": 0, "bob.ipynb": 0}
    folder = handed_in_at(tmp_path, **times)
    notes = collect(course, "depth", folder).notes
    assert notes == [
        "ada handed in copies (ada/depth-Copy1.ipynb, ada/depth.ipynb); the one called as the lab counts"
    ]
    assert (
        course.notebook("submitted", "depth", "ada").read_text() == (folder / "ada/depth.ipynb").read_text()
    )


def test_a_notebook_without_the_labs_cells_gives_way_to_one_with_them(course, tmp_path):
    folder = handed_in(tmp_path, "ada/scratch.ipynb", "ada/mine.ipynb", "bob.ipynb")
    (folder / "ada" / "mine.ipynb").write_text('{"grade_id": 1}')
    os.utime(folder / "ada" / "mine.ipynb", (START, START))  # long before the scratch
    collected = collect(course, "depth", folder)
    assert collected.students == {"ada": "new", "bob": "new"}
    assert course.notebook("submitted", "depth", "ada").read_text() == '{"grade_id": 1}'


def test_the_notebook_as_it_was_handed_out_gives_way_to_any_other(course, tmp_path):
    course.notebook("release", "depth").parent.mkdir(parents=True)
    course.notebook("release", "depth").write_text('{"grade_id": 0}')
    folder = handed_in(tmp_path, "ada/depth.ipynb", "ada/solved.ipynb", "bob.ipynb")
    (folder / "ada" / "depth.ipynb").write_text('{"grade_id": 0}')
    (folder / "ada" / "solved.ipynb").write_text('{"grade_id": 1}')
    assert collect(course, "depth", folder).students == {"ada": "new", "bob": "new"}
    assert course.notebook("submitted", "depth", "ada").read_text() == '{"grade_id": 1}'


def test_of_two_solved_ones_the_one_called_as_the_lab_counts_and_that_is_said(course, tmp_path):
    folder = handed_in(tmp_path, "ada/depth.ipynb", "ada/solved.ipynb", "bob.ipynb")
    (folder / "ada" / "depth.ipynb").write_text('{"grade_id": 2}')
    (folder / "ada" / "solved.ipynb").write_text('{"grade_id": 1}')
    assert collect(course, "depth", folder).notes == [
        "ada: what is called as the lab counts, not ada/solved.ipynb"
    ]
    assert course.notebook("submitted", "depth", "ada").read_text() == '{"grade_id": 2}'


def test_an_unreadable_one_of_two_is_named_and_the_other_counts(course, tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as open_archive:
        open_archive.writestr("ada/depth-1.ipynb", "DAMAGE-ME")
        open_archive.writestr("ada/depth.ipynb", NOTEBOOK)
        open_archive.writestr("bob/depth.ipynb", NOTEBOOK)
    archive.write_bytes(archive.read_bytes().replace(b"DAMAGE-ME", b"damage-me"))
    collected = collect(course, "depth", archive)
    assert collected.students == {"ada": "new", "bob": "new"}
    assert collected.notes == [
        "ada/depth-1.ipynb could not be read and was left out: Bad CRC-32 for file 'ada/depth-1.ipynb'"
    ]


def test_another_labs_notebook_is_taken_in_and_named(course, tmp_path):
    for lab in ("depth", "width"):
        course.notebook("release", lab).parent.mkdir(parents=True)
        course.notebook("release", lab).write_text("{}")
    folder = handed_in(tmp_path, "ada/width.ipynb", "bob_width.ipynb", "cy/depth.ipynb", "width-1.ipynb")
    collected = collect(course, "depth", folder)
    assert collected.students == {"ada": "new", "bob": "new", "cy": "new"}
    assert collected.notes == [
        "width-1.ipynb does not say whose it is and was left out; call it STUDENT.ipynb",
        "ada: ada/width.ipynb is called as the lab width, not depth",
        "bob: bob_width.ipynb is called as the lab width, not depth",
    ]


def history(course, student="ada"):
    folder = course.folder / "history" / "depth" / student
    return {path.name: path.read_text() for path in folder.glob("*")}


def at_noon(course, tmp_path, content, hour=12, name="Ada Lovelace_201_assignsubmission_file_/depth.ipynb"):
    """Collect one notebook that was handed in at an hour of 1 March 2027."""
    info = zipfile.ZipInfo(name, (2027, 3, 1, hour, 0, 0))
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr(info, content)
    return collect(course, "depth", tmp_path / "one.zip")


def test_where_a_notebook_came_from_and_when_is_kept(course, tmp_path, in_utc):
    assert at_noon(course, tmp_path, NOTEBOOK).students == {"Ada Lovelace": "new"}
    origin = json.loads((course.folder / "collected" / "depth" / "Ada Lovelace.json").read_text())
    assert origin == {
        "platform": "moodle",
        "platform_id": "201",
        "called": "Ada Lovelace",
        "place": "Ada Lovelace_201_assignsubmission_file_",
        "section": "",
        "late": False,
        "at": "2027-03-01T12:00:00+00:00",
        "sha256": hash_of(NOTEBOOK),
        "download": False,
    }
    stamp = course.folder / "submitted" / "Ada Lovelace" / "depth" / "timestamp.txt"
    assert stamp.read_text() == "2027-03-01 12:00:00.000000 UTC"
    assert CourseDirectory(root=str(course.folder)).get_existing_timestamp(str(stamp.parent)) == datetime(
        2027, 3, 1, 12
    )


def test_a_later_notebook_replaces_the_earlier_which_is_kept(course, tmp_path, in_utc):
    at_noon(course, tmp_path, "first", 9)
    assert at_noon(course, tmp_path, "second", 12).students == {"Ada Lovelace": "replaced"}
    assert course.notebook("submitted", "depth", "Ada Lovelace").read_text() == "second"
    assert history(course, "Ada Lovelace") == {"2027-03-01T090000Z.ipynb": "first"}


def test_an_older_notebook_goes_to_the_history_alone(course, tmp_path, in_utc):
    at_noon(course, tmp_path, "second", 12)
    for _ in range(2):  # and again
        collected = at_noon(course, tmp_path, "first", 9)
        assert collected.students == {"Ada Lovelace": "older"}
        assert collected.notes == [
            "Ada Lovelace: Ada Lovelace_201_assignsubmission_file_/depth.ipynb is older than what was collected "
            "before, which stays"
        ]
        assert course.notebook("submitted", "depth", "Ada Lovelace").read_text() == "second"
        assert history(course, "Ada Lovelace") == {"2027-03-01T090000Z.ipynb": "first"}
    stamp = course.folder / "submitted" / "Ada Lovelace" / "depth" / "timestamp.txt"
    assert stamp.read_text() == "2027-03-01 12:00:00.000000 UTC"


def test_what_was_downloaded_again_was_handed_in_when_it_first_came(course, tmp_path, in_utc):
    at_noon(course, tmp_path, "same", 9)
    assert at_noon(course, tmp_path, "same", 15).students == {"Ada Lovelace": "unchanged"}
    stamp = course.folder / "submitted" / "Ada Lovelace" / "depth" / "timestamp.txt"
    assert stamp.read_text() == "2027-03-01 09:00:00.000000 UTC"
    assert history(course, "Ada Lovelace") == {}


def test_two_submissions_of_one_second_are_both_kept(course, tmp_path, in_utc):
    for content in ("first", "second", "third"):
        at_noon(course, tmp_path, content)
    assert sorted(history(course, "Ada Lovelace").values()) == ["first", "second"]


def test_a_notebook_without_a_time_has_no_time_stamp(course, tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as open_archive:
        open_archive.writestr(zipfile.ZipInfo("ada.ipynb"), "first")  # 1980
    collect(course, "depth", archive)
    assert not (course.folder / "submitted" / "ada" / "depth" / "timestamp.txt").exists()
    assert json.loads((course.folder / "collected" / "depth" / "ada.json").read_text())["at"] == ""
    with zipfile.ZipFile(archive, "w") as open_archive:
        open_archive.writestr(zipfile.ZipInfo("ada.ipynb"), "second")
    assert collect(course, "depth", archive).students == {"ada": "replaced"}
    assert list(history(course).values()) == ["first"]


def test_a_time_stamp_goes_with_the_notebook_that_had_it(course, tmp_path):
    collect(course, "depth", handed_in_at(tmp_path, **{"ada.ipynb": 0}))
    stamp = course.folder / "submitted" / "ada" / "depth" / "timestamp.txt"
    assert stamp.exists()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("ada.ipynb"), "second")
    assert collect(course, "depth", tmp_path / "a.zip").students == {"ada": "replaced"}
    assert not stamp.exists()


def test_what_a_teacher_put_there_by_hand_is_replaced_and_kept(course, tmp_path, in_utc):
    at_noon(course, tmp_path, "second", 12)
    course.notebook("submitted", "depth", "Ada Lovelace").write_text("by hand")
    assert at_noon(course, tmp_path, "first", 9).students == {"Ada Lovelace": "replaced"}
    assert list(history(course, "Ada Lovelace").values()) == ["by hand"]


def test_canvas_counts_files_whatever_the_time_of_the_download(course, tmp_path, in_utc):
    at_noon(course, tmp_path, "second", 9, "x_7_101_depth-1.ipynb")
    assert at_noon(course, tmp_path, "first", 15, "x_7_99_depth.ipynb").students == {"x": "older"}
    assert at_noon(course, tmp_path, "third", 8, "x_LATE_7_102_depth-2.ipynb").students == {"x": "replaced"}
    origin = json.loads((course.folder / "collected" / "depth" / "x.json").read_text())
    assert (origin["late"], origin["download"], origin["place"]) == (True, True, "x_LATE_7_102_depth-2.ipynb")
    # Nor does that time make anybody late.
    assert not (course.folder / "submitted" / "x" / "depth" / "timestamp.txt").exists()


def test_times_that_are_all_the_same_are_those_of_the_download(course, tmp_path, in_utc):
    names = [f"{one}_{k}_assignsubmission_file/depth.ipynb" for k, one in enumerate(("Ada", "Bo", "Cy"))]
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as open_archive:
        for k, name in enumerate(names):
            open_archive.writestr(zipfile.ZipInfo(name, (2027, 3, 1, 12, 0, 2 * k)), name)
    assert collect(course, "depth", archive).notes == [
        "all files in a.zip are of 2027-03-01 12:00 UTC: of the download, not of handing in"
    ]


def test_sections_come_from_folders_and_the_roster_knows_better(course, tmp_path):
    (course.folder / "students.csv").write_text("id,section\nAda,Monday\nBo,\n")
    folder = handed_in(
        tmp_path, "Section A/Ada/depth.ipynb", "Section A/Bo/depth.ipynb", "Section B/Cy/depth.ipynb"
    )
    collected = collect(course, "depth", folder)
    assert collected.sections == {"Ada": "Monday", "Bo": "Section A", "Cy": "Section B"}
    assert json.loads((course.folder / "collected/depth/Ada.json").read_text())["section"] == "Monday"


def test_a_roster_that_cannot_be_read_stops_before_anything_is_written(course, tmp_path):
    (course.folder / "students.csv").write_text("id\n../x\n")
    with pytest.raises(NnoptError, match="line 2: an id must be a name that a folder can have"):
        collect(course, "depth", handed_in(tmp_path, "ada.ipynb"))
    assert not (course.folder / "submitted").exists()


def test_the_notebook_called_as_the_lab_wins_over_others_in_the_same_folder(course, tmp_path):
    folder = handed_in(tmp_path, "ada/depth.ipynb", "ada/scratch.ipynb", "bob/depth.ipynb")
    (folder / "ada" / "scratch.ipynb").write_text("other")
    assert set(collect(course, "depth", folder).students) == {"ada", "bob"}
    assert course.notebook("submitted", "depth", "ada").read_text() == NOTEBOOK


def test_an_odd_name_is_noted(course, tmp_path):
    notes = collect(course, "depth", handed_in(tmp_path, "a*b.ipynb", "bob.ipynb")).notes
    assert notes == ["a*b.ipynb: the student 'a*b' is called 'a_b' here"]


def test_a_zip_file_cannot_write_elsewhere(course, tmp_path):
    entries = dict.fromkeys(
        ("../evil.ipynb", "/abs.ipynb", "a/../../b.ipynb", "c\\d.ipynb", "good.ipynb"), NOTEBOOK
    )
    link = zipfile.ZipInfo("link.ipynb")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    before = sorted(tmp_path.iterdir())
    archive = zipped(tmp_path / "a.zip", entries)
    with zipfile.ZipFile(archive, "a") as open_archive:
        open_archive.writestr(link, "/etc/passwd")
    collected = collect(course, "depth", archive)
    assert collected.students == {"good": "new"}
    assert sorted(path for path in tmp_path.iterdir() if path != archive) == before
    assert [path.name for path in (course.folder / "submitted").iterdir()] == ["good"]
    for name in ("../evil.ipynb", "/abs.ipynb", "a/../../b.ipynb", "c\\d.ipynb"):
        assert f"{name!r} leads out of its folder and was left out" in collected.notes
    assert "link.ipynb is a link or no ordinary file and was left out" in collected.notes


def test_links_and_pipes_in_a_folder_are_left_out(course, tmp_path):
    folder = handed_in(tmp_path, "ada.ipynb")
    (tmp_path / "secret").write_text("secret")
    (folder / "eve.ipynb").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "mallory.ipynb")
    collected = collect(course, "depth", folder)
    assert collected.students == {"ada": "new"}
    assert sorted(collected.notes) == [
        f"{name}.ipynb is a link or no ordinary file and was left out" for name in ("eve", "mallory")
    ]


def test_a_zip_bomb_is_cut_off_and_noted(course, tmp_path):
    archive = zipped(tmp_path / "bomb.zip", {"eve.ipynb": b" " * (200 * 2**20), "ada.ipynb": NOTEBOOK})
    assert archive.stat().st_size < 2**20
    collected = collect(course, "depth", archive)
    assert collected.notes == ["eve.ipynb is larger than 20 MiB; grading will refuse it"]
    assert course.notebook("submitted", "depth", "eve").stat().st_size == LARGEST + 1
    assert read_submission(course.notebook("submitted", "depth", "eve"))[1] == "is larger than 20 MiB"


def test_a_zip_file_with_too_many_entries_is_refused(course, tmp_path, monkeypatch):
    monkeypatch.setattr(lab_handed_in, "MOST_ENTRIES", 3)
    archive = zipped(tmp_path / "a.zip", {f"{one}.ipynb": NOTEBOOK for one in "abcd"})
    with pytest.raises(NnoptError) as refused:
        collect(course, "depth", archive)
    assert str(refused.value) == f"{archive} must hold at most 3 files; received more."


def test_names_in_utf_8_are_read_as_such_although_the_zip_file_does_not_say_so(course, tmp_path):
    archive = zipped(tmp_path / "a.zip", {"xx.ipynb": NOTEBOOK})
    name = "é.ipynb".encode()[:2]
    archive.write_bytes(archive.read_bytes().replace(b"xx", name))
    assert set(collect(course, "depth", archive).students) == {"é"}


def test_a_damaged_entry_is_left_out_and_the_others_are_collected(course, tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as open_archive:
        open_archive.writestr("ada.ipynb", "DAMAGE-ME")
        open_archive.writestr("bob.ipynb", NOTEBOOK)
    archive.write_bytes(archive.read_bytes().replace(b"DAMAGE-ME", b"damage-me"))
    collected = collect(course, "depth", archive)
    assert collected.students == {"bob": "new"}
    assert collected.notes == [
        "ada.ipynb could not be read and was left out: Bad CRC-32 for file 'ada.ipynb'"
    ]


def test_what_is_no_notebook_is_noted(course, tmp_path):
    folder = handed_in(tmp_path, "ada.ipynb", "bob/report.pdf", "__MACOSX/._ada.ipynb", ".DS_Store")
    assert collect(course, "depth", folder).notes == [
        "bob/report.pdf is no notebook (.ipynb) and was left out"
    ]


def test_what_cannot_be_collected_is_one_sentence(course, tmp_path):
    empty, text = tmp_path / "empty", tmp_path / "notes.txt"
    empty.mkdir()
    text.write_text("hello")
    sentences = {
        tmp_path
        / "nowhere": "what was handed in must be a folder or a .zip file; received {}, which does not exist.",
        empty: "{} must hold notebooks (.ipynb), one for each student; received none.",
        text: "what was handed in must be a folder or a .zip file; received {}: File is not a zip file.",
    }
    for path, sentence in sentences.items():
        with pytest.raises(NnoptError) as refused:
            collect(course, "depth", path)
        assert str(refused.value) == sentence.format(path)


def test_a_full_disk_is_one_sentence_and_earlier_notebooks_stay(course, tmp_path):
    from tests.conftest import small_files

    folder = handed_in(tmp_path, "ada.ipynb")
    collect(course, "depth", folder)
    (folder / "ada.ipynb").write_text(NOTEBOOK + " " * 200)
    with small_files(), pytest.raises(NnoptError) as refused:
        collect(course, "depth", folder)
    target = course.notebook("submitted", "depth", "ada")
    assert str(refused.value) == (
        f"{target} could not be written: File too large. Free some space and run again; "
        "what was there before is untouched."
    )
    assert target.read_text() == NOTEBOOK
    shutil.rmtree(course.folder)


def test_the_command_prints_notes_and_what_became_of_each_student(course, tmp_path, capsys):
    from nnopt_lib.cli import main

    (course.folder / "nbgrader_config.py").touch()
    folder = handed_in(tmp_path, "ada.ipynb", "李雷.ipynb", "notes.txt")
    assert main(["labs", "collect", "depth", str(folder), "--course", str(course.folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "notes.txt is no notebook (.ipynb) and was left out",
        "ada                              new",
        "李雷                               new",
    ]


def test_the_command_prints_students_by_section(course, tmp_path, capsys):
    from nnopt_lib.cli import main

    (course.folder / "nbgrader_config.py").touch()
    (course.folder / "students.csv").write_text("id;section\nada;B\nbo;A\ncy;B\n")
    folder = handed_in(tmp_path, "ada.ipynb", "bo.ipynb", "cy.ipynb", "guest.ipynb")
    assert main(["labs", "collect", "depth", str(folder), "--course", str(course.folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "guest is not in students.csv and was taken in all the same; add a line, or an alias to one, and "
        "collect again",
        "guest                            new",
        "bo                               new        A",
        "ada                              new        B",
        "cy                               new        B",
    ]
