"""How each student of a class stands in a lab: who it is, how grading ended, and whether that still holds."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from nnopt_lib.course.labs.grade import read_record, submitted
from nnopt_lib.course.labs.gradebook import Course, Marks
from nnopt_lib.course.labs.roster import Person, Roster, collected_as, read_roster
from nnopt_lib.course.labs.submissions import read_submission
from nnopt_lib.experiments.records import is_sealed

STALE = "stale: the notebook or the lab changed since it was graded; grade again"
NOT_HANDED_IN = "not handed in"


@dataclasses.dataclass(frozen=True)
class Standing:
    """One student in one lab. `marks` are None where there is no grade; a stale one has those of before."""

    student: str
    person: Person | None
    handed_in: bool
    record: Mapping[str, Any] | None
    stale: bool
    marks: Marks | None
    collected: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What the student is called, by the roster or else by the platform; empty where neither says."""
        return self.person.name if self.person else str(self.collected.get("called", ""))

    @property
    def section(self) -> str:
        """The student's section, by the roster or else by the folder it came in."""
        return (self.person.section if self.person else "") or str(self.collected.get("section", ""))

    @property
    def final(self) -> bool:
        """Whether there is a grade that holds."""
        return self.marks is not None and not self.stale


def standings(course: Course, lab: str) -> list[Standing]:
    """Everybody who handed in, then who is on the roster and did not; nobody who has dropped the course."""
    roster, marks = read_roster(course), course.marks(lab)
    found = [_standing(course, lab, student, roster, marks) for student in submitted(course, lab)]
    there = {one.person.id for one in found if one.person}
    absent = [person for person in roster.people if person.id not in there]
    found += [Standing(person.id, person, False, None, False, None, {}) for person in absent]
    return [one for one in found if not (one.person and one.person.dropped)]


def _standing(course: Course, lab: str, student: str, roster: Roster, marks: Mapping[str, Marks]) -> Standing:
    collected = collected_as(course, lab, student)
    platform_id = str(collected.get("platform_id", ""))
    person = roster.find(student, platform_id) or roster.find(str(collected.get("called", "")), platform_id)
    record = _ending(course, lab, student)
    earlier = _earlier(course, lab, student) if record is None and student in marks else None
    known = record or earlier
    return Standing(
        student, person, True, known, earlier is not None, marks.get(student) if known else None, collected
    )


def _ending(course: Course, lab: str, student: str) -> Mapping[str, Any] | None:
    """How grading ended by our record or, where nbgrader's own command graded, by what that left."""
    record = read_record(course, lab, student)
    graded = course.notebook("autograded", lab, student)
    if record is None and graded.is_file():
        sources = (course.notebook("submitted", lab, student), course.notebook("source", lab))
        if all(graded.stat().st_mtime >= one.stat().st_mtime for one in sources if one.exists()):
            return _mark_left(course, lab, student)
    return record


def _mark_left(course: Course, lab: str, student: str) -> Mapping[str, Any] | None:
    """What our part of nbgrader's autograde wrote into the notebook that it made."""
    problem = read_submission(course.notebook("submitted", lab, student))[1]
    graded = course.notebook("autograded", lab, student)
    mark = json.loads(graded.read_text(encoding="utf-8"))["metadata"].get("nnopt")
    return dict(mark) if mark and not problem else None


def _earlier(course: Course, lab: str, student: str) -> Mapping[str, Any] | None:
    """How an earlier grading ended, of another notebook or another lab; its points are in the gradebook."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(course.record(lab, student).read_text(encoding="utf-8"))
        if is_sealed(record):
            return dict(record)
    with contextlib.suppress(OSError, ValueError):
        return _mark_left(course, lab, student)
    return None
