"""Every lab can be solved: graded as a class is, its solution gets all points and the untouched copy none."""

from __future__ import annotations

import shutil

import pytest

from nnopt_lib.course.labs import grade as lab_grading
from nnopt_lib.course.labs.sandbox.sandbox import Limits
from tests import labs_class

pytestmark = [pytest.mark.notebook, pytest.mark.usefixtures("private_temporary_folder")]
LABS = sorted(path.stem for path in (labs_class.SOURCE.parents[3] / "chapters" / "labs").glob("*.md"))


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", LABS or [pytest.param("", marks=pytest.mark.skip(reason="there are no labs yet"))]
)
def test_the_solution_of_a_lab_gets_all_points_and_the_untouched_copy_none(name, tmp_path, monkeypatch):
    from nnopt_lib.course.labs.gradebook import make_course
    from nnopt_lib.course.labs.sources import find_labs, release

    monkeypatch.setenv("NNOPT_HOME", str(labs_class.SOURCE.parents[3]))
    course = make_course(tmp_path / "course")
    release(find_labs([name])[0], course)
    for student, step in (("solved", "source"), ("untouched", "release")):
        path = course.notebook("submitted", name, student)
        path.parent.mkdir(parents=True)
        shutil.copy(course.notebook(step, name), path)
    assert lab_grading.grade(course, name, Limits(), jobs=2) == {"solved": "", "untouched": ""}
    points, most = course.points(name), course.most_points(name)
    assert points["solved"] == most
    assert sum(most.values()) == 20
    assert set(points["untouched"].values()) == {0}
