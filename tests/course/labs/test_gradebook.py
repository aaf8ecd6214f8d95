"""A class's folder: made where nothing is, refused where something else is, and what nbgrader says passed on."""

from __future__ import annotations

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.gradebook import CONFIGURATION, Course, last_error, make_course, open_course, run


def test_a_class_is_made_once_and_what_a_teacher_changed_stays(tmp_path):
    course = make_course(tmp_path / "class")
    (course.folder / CONFIGURATION).write_text("# changed\n")
    assert make_course(tmp_path / "class") == open_course(tmp_path / "class") == course
    assert (course.folder / CONFIGURATION).read_text() == "# changed\n"


def test_a_folder_with_other_things_and_a_file_are_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    for folder, received in ((tmp_path, "holds other things"), (tmp_path / "thesis.tex", "is a file")):
        with pytest.raises(NnoptError, match=received):
            make_course(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_without_a_class_is_not_opened(tmp_path):
    for folder, received in ((tmp_path, "which has none"), (tmp_path / "absent", "which is no folder")):
        with pytest.raises(NnoptError, match=f"{received}. nnopt labs release --course {folder} makes one."):
            open_course(folder)


def test_students_are_those_who_handed_in_this_lab(tmp_path):
    course = Course(tmp_path)
    for student, lab in (("bob", "depth"), ("ada", "depth"), ("eve", "width")):
        course.notebook("submitted", lab, student).parent.mkdir(parents=True)
        course.notebook("submitted", lab, student).touch()
    assert course.students("depth") == ["ada", "bob"]


def test_the_last_line_that_names_an_error_is_passed_on():
    log = "[INFO] begun\nFile x.py\nraise ValueError\nValueError: no kernel.\n[INFO] ended"
    assert last_error({"log": log}) == "ValueError: no kernel"
    assert last_error({"log": "one line"}) == "one line"
    assert last_error({"error": None}) == "nbgrader said nothing"
    run("nothing", {"success": True})
    with pytest.raises(NnoptError, match="lab depth could not be released: ValueError: no kernel."):
        run("lab depth could not be released", {"success": False, "log": log})


def test_the_version_of_the_gradebook_is_what_alembic_itself_says(tmp_path):
    import nbgrader.api
    from alembic.script import ScriptDirectory
    from nbgrader.dbutil import ALEMBIC_DIR

    make_course(tmp_path / "class").api()
    (head,) = ScriptDirectory(ALEMBIC_DIR).get_heads()
    assert nbgrader.api.get_alembic_version() == head
