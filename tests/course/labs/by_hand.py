"""A class that was graded by hand: files, records and points as grading leaves them, without a kernel."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from nnopt_lib.course.labs.grade import _identity
from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.experiments.records import sealed
from nnopt_lib.files import write_atomically

FULL = {"student-test": 1.0, "mask-test": 2.0, "numbers-test": 2.0, "words": 0.0}


def put(course: Course, student: str, points: Mapping[str, float | None] = FULL, **fields: Any) -> None:
    """A submission of the tiny lab with these points, None where a person must give them, and its record."""
    release = json.loads(course.notebook("release", "tiny").read_text())
    release["metadata"]["handed_in_by"] = student
    write_atomically(course.notebook("submitted", "tiny", student), json.dumps(release))
    with course.open_gradebook() as gradebook:
        gradebook.update_or_create_student(student)
        gradebook.update_or_create_submission("tiny", student)
        for name, score in points.items():
            grade = gradebook.find_grade(name, "tiny", "tiny", student)
            grade.auto_score, grade.needs_manual_grade = score, score is None
        gradebook.db.commit()
    if not fields.get("failure"):
        autograded = copy.deepcopy(json.loads(course.notebook("source", "tiny").read_text()))
        write_atomically(course.notebook("autograded", "tiny", student), json.dumps(autograded))
    keep_record(course, student, **fields)


def keep_record(course: Course, student: str, **fields: Any) -> None:
    """The record of a submission as it lies there, graded against the lab as it is."""
    known = {
        "of": _identity(course, "tiny", student),
        "failure": "",
        "not_cut": [],
        "typed": {},
        "limits": {},
    }
    write_atomically(course.record("tiny", student), json.dumps(sealed({**known, **fields})))


def came_from(
    course: Course, student: str, platform: str, platform_id: str, place: str, **fields: Any
) -> None:
    """What collecting writes down of a submission."""
    known = {"platform": platform, "platform_id": platform_id, "place": place, "called": "", "section": ""}
    path = course.folder / "collected" / "tiny" / f"{student}.json"
    write_atomically(path, json.dumps({**known, "late": False, "at": "", **fields}))


def roster(course: Course, *lines: str) -> None:
    """The class's students.csv."""
    head = "id,name,aliases,section,platform id,status"
    (course.folder / "students.csv").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


def set_time(course: Course, student: str, minutes_late: float) -> None:
    """Hand in so long after the due date."""
    import datetime

    due = course.due("tiny").replace(tzinfo=None)
    with course.open_gradebook() as gradebook:
        submission = gradebook.find_submission("tiny", student)
        submission.timestamp = due + datetime.timedelta(minutes=minutes_late)
        gradebook.db.commit()
