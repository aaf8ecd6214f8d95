"""Collecting: whose a notebook is, what platforms make of names, and files that nobody should trust."""

from __future__ import annotations

import os
import shutil
import stat
import unicodedata
import zipfile

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs import collect as lab_collecting
from nnopt_lib.course.labs.collect import clean_name, collect
from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.course.labs.submissions import LARGEST, read_submission

NOTEBOOK = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course whose gradebook is not asked: that a lab was released is another module's matter."""
    monkeypatch.setattr(Course, "most_points", lambda self, lab: {})
    (tmp_path / "course").mkdir()
    return Course(tmp_path / "course")


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


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["ada.ipynb", "ada_depth.ipynb"], "ada handed in 2: ada.ipynb, ada_depth.ipynb"),
        (["ada/one.ipynb", "ada/two.ipynb", "bob/x.ipynb"], "ada handed in 2: ada/one.ipynb, ada/two.ipynb"),
        (["Ada.ipynb", "ada.ipynb"], "Ada handed in 2: Ada.ipynb, ada.ipynb"),
        (["a?.ipynb", "a*.ipynb"], "a handed in 2: a*.ipynb, a?.ipynb"),
    ],
)
def test_two_notebooks_of_one_student_are_refused_before_anything_is_written(
    course, tmp_path, names, sentence
):
    with pytest.raises(NnoptError) as refused:
        collect(course, "depth", handed_in(tmp_path, *names))
    assert str(refused.value) == (
        f"each student must hand in one notebook; {sentence}. Keep one of them and collect again."
    )
    assert not (course.folder / "submitted").exists()


def test_the_notebook_called_as_the_lab_wins_over_others_in_the_same_folder(course, tmp_path):
    folder = handed_in(tmp_path, "ada/depth.ipynb", "ada/scratch.ipynb", "bob/depth.ipynb")
    (folder / "ada" / "scratch.ipynb").write_text("other")
    assert set(collect(course, "depth", folder).students) == {"ada", "bob"}
    assert course.notebook("submitted", "depth", "ada").read_text() == NOTEBOOK


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
    assert max(len(one.encode()), len(two.encode())) <= lab_collecting.LONGEST_NAME
    assert clean_name("x" * 120) == "x" * 120


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
    monkeypatch.setattr(lab_collecting, "MOST_ENTRIES", 3)
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
