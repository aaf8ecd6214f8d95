"""Take what platforms and people hand over into a course: one notebook per student, earlier ones kept.

An oddity is a note about one student; nothing that one student does keeps the class from being collected.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from nnopt_lib.checks import refuse
from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.course.labs.handed_in import HandedIn
from nnopt_lib.course.labs.identities import Identities
from nnopt_lib.course.labs.platforms import (
    Place,
    attachment_number,
    copy_number,
    is_called_as,
    is_lab_in,
    is_notebook,
    read_places,
)
from nnopt_lib.course.labs.roster import collected_as, origin_path, read_roster
from nnopt_lib.files import hash_of, write_atomically

APART = timedelta(seconds=2)  # .zip files count time in steps of two seconds


@dataclasses.dataclass(frozen=True)
class Collected:
    """What came of collecting: students by word (new, replaced, unchanged, older), notes on what was odd.

    `sections` holds the section of each student who is in one.
    """

    students: Mapping[str, str]
    notes: list[str]
    sections: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Notebook:
    """One notebook that a student handed in."""

    place: Place
    content: bytes
    at: datetime | None
    listed: bool  # that the roster names the student


def collect(course: Course, lab: str, handed_in: Path) -> Collected:
    """Put the notebooks in a folder or .zip file into ``submitted/STUDENT/LAB/LAB.ipynb``.

    A student is who ``students.csv`` says, by platform id or name; else called as the folder that holds the
    notebook, or as the file, without the lab's name and what Moodle and Canvas add. A later notebook replaces
    a student's earlier one, which goes to ``history/LAB/STUDENT/``, as does one that is older than what is
    there. When it was handed in stands in ``timestamp.txt``, where it came from in ``collected/``.
    """
    course.most_points(lab)
    notes: list[str] = []
    roster = read_roster(course)
    with HandedIn(handed_in) as source:
        paths = source.names(notes)
        others = sorted(path.parent.name for path in course.folder.glob("release/*/*.ipynb"))
        others = [one for one in others if one != lab]
        notes += [f"{one} is no notebook (.ipynb) and was left out" for one in paths if not is_notebook(one)]
        places = read_places(lab, [path for path in paths if is_notebook(path)], roster, others)
        by_student = Identities(course, lab, roster, notes).students(places)
        if not by_student:
            rule = f"{handed_in} must hold notebooks (.ipynb), one for each student"
            refuse(rule, "; ".join(notes) or "none")
        words, sections = {}, {}
        if downloaded := _time_of_download(source, places):
            when = f"{downloaded:%Y-%m-%d %H:%M} UTC"
            notes.append(f"all files in {handed_in.name} are of {when}: of the download, not of handing in")
        for student, of_student in sorted(by_student.items()):
            listed = [one for one in roster.people if one.id == student]
            notebooks = _read(source, of_student, bool(listed), notes)
            latest = _latest(course, lab, student, notebooks, notes)
            if latest is None:
                continue
            origin = _origin(latest, listed[0].section if listed else "")
            origin["download"] = bool(downloaded) or latest.place.platform == "canvas"  # of whom `at` is
            words[student] = _put(course, lab, student, latest, origin, notes)
            for earlier in notebooks:
                if earlier.content != latest.content and is_called_as(lab, earlier.place.file):
                    _keep(course, lab, student, earlier.content, earlier.at)
            sections[student] = origin["section"]
            named = [one for one in others if is_lab_in(one, latest.place.file)]
            if named and not is_lab_in(lab, latest.place.file):
                notes.append(f"{student}: {latest.place.path} is called as the lab {named[0]}, not {lab}")
    return Collected(words, notes, {student: one for student, one in sections.items() if one})


def _read(source: HandedIn, places: list[Place], listed: bool, notes: list[str]) -> list[Notebook]:
    contents = [(place, source.read(place.path, notes)) for place in places]
    return [
        Notebook(one, content, source.time(one.path), listed)
        for one, content in contents
        if content is not None
    ]


def _latest(
    course: Course, lab: str, student: str, notebooks: list[Notebook], notes: list[str]
) -> Notebook | None:
    """The notebook of a student that counts; None where that is not clear, which is noted."""
    released = course.notebook("release", lab)
    untouched = released.read_bytes() if released.is_file() else b""
    likely = [one for one in notebooks if one.content != untouched] or notebooks
    likely = [one for one in likely if b"grade_id" in one.content] or likely
    by_name = [one for one in likely if is_called_as(lab, one.place.file)]
    in_folder = all(one.place.platform or one.place.place != one.place.path.name for one in likely)
    if in_folder and by_name and by_name != likely:  # a folder with other notebooks beside the lab's
        if b"grade_id" in by_name[0].content:
            rest = ", ".join(str(one.place.path) for one in likely if one not in by_name)
            notes.append(f"{student}: what is called as the lab counts, not {rest}")
        likely = by_name
    if len({one.content for one in likely}) < 2:
        return likely[0] if likely else None
    paths = ", ".join(str(one.place.path) for one in likely)
    latest = _by_number(lab, likely) or _by_time(likely)
    if latest is not None:
        notes.append(
            f"{student} handed in {len(likely)} notebooks ({paths}); the latest counts, {latest.place.path}"
        )
        return latest
    exact = [one for one in likely if copy_number(lab, one.place.file) == 0]
    copies = [one for one in likely if is_called_as(lab, one.place.file)]
    if len(exact) == 1 and copies == likely and not any(copy_number(lab, one.place.file) for one in likely):
        notes.append(f"{student} handed in copies ({paths}); the one called as the lab counts")
        return exact[0]
    notes.append(
        f"{student} handed in {len(likely)} notebooks ({paths}) and was left out, since it is not clear "
        "which is the latest; keep one of them and collect again"
    )
    return None


def _by_number(lab: str, notebooks: list[Notebook]) -> Notebook | None:
    """The last by the platform's number, or by the browser's, unless the times say otherwise."""
    if len({(one.place.platform, one.place.platform_id) for one in notebooks}) > 1:
        return None
    if all(one.place.number for one in notebooks):
        return max(notebooks, key=lambda one: one.place.number)
    numbers = [copy_number(lab, one.place.file) for one in notebooks]
    if None in numbers or len(set(numbers)) < len(numbers) or len({_called(one) for one in notebooks}) > 1:
        return None
    last = max(zip(numbers, notebooks, strict=True), key=lambda pair: pair[0] or 0)[1]
    later = [one for one in notebooks if one.at and last.at and one.at - last.at >= APART]
    return None if later else last


def _by_time(notebooks: list[Notebook]) -> Notebook | None:
    """The last by its time, where that is well after the others' and all are surely of one student."""
    if len({_called(one) for one in notebooks}) > 1 and not all(one.listed for one in notebooks):
        return None
    times = sorted(one.at for one in notebooks if one.at)
    if len(times) < len(notebooks) or times[-1] - times[-2] < APART:
        return None
    return max(notebooks, key=lambda one: one.at or times[0])


def _called(notebook: Notebook) -> str:
    return notebook.place.called.casefold()


def _origin(notebook: Notebook, section: str) -> dict[str, Any]:
    place = notebook.place
    return {
        **{"platform": place.platform, "platform_id": place.platform_id, "called": place.called},
        **{"place": place.place, "section": section or place.section, "late": place.late},
        **{"at": notebook.at.isoformat() if notebook.at else "", "sha256": hash_of(notebook.content)},
    }


def _put(
    course: Course, lab: str, student: str, notebook: Notebook, origin: dict[str, Any], notes: list[str]
) -> str:
    """Write a notebook where it is graded, unless what is there is newer; what was done, in a word."""
    target, before = course.notebook("submitted", lab, student), collected_as(course, lab, student)
    word = "new"
    if target.exists():
        there = target.read_bytes()
        if before.get("sha256") != hash_of(there):
            before = {}  # of another notebook: a teacher or nbgrader put this one there
        at = _time_of(before)
        if there == notebook.content:
            word = "unchanged"
            if at and (notebook.at is None or at < notebook.at):
                origin["at"] = at.isoformat()  # downloaded again: it was handed in when it first came
                origin["download"] = before.get("download", False)
        elif _is_older(origin, before):
            _keep(course, lab, student, notebook.content, notebook.at)
            notes.append(
                f"{student}: {notebook.place.path} is older than what was collected before, which stays"
            )
            return "older"
        else:
            word = "replaced"
            _keep(course, lab, student, there, at)
    if word != "unchanged":
        write_atomically(target, notebook.content)
    # The time of a download would make everybody late.
    handed_in = None if origin.get("download") else _time_of(origin)
    _write_time(target.with_name("timestamp.txt"), handed_in)
    write_atomically(
        origin_path(course, lab, student), json.dumps(origin, indent=1, ensure_ascii=False) + "\n"
    )
    return word


def _is_older(origin: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether a notebook was handed in before another: by Canvas's numbers, else by the times."""
    numbers = [attachment_number(str(one.get("place", ""))) for one in (origin, before)]
    if all(numbers) and origin["platform_id"] == before.get("platform_id"):
        return numbers[0] < numbers[1]
    at, at_before = _time_of(origin), _time_of(before)
    return bool(at and at_before and at < at_before)


def _time_of(origin: dict[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(origin.get("at", "")).astimezone(UTC)
    except (TypeError, ValueError):
        return None


def _write_time(path: Path, at: datetime | None) -> None:
    """nbgrader's note of when a submission was handed in; none where that is not known."""
    if at is None:
        path.unlink(missing_ok=True)
    else:
        write_atomically(path, at.strftime("%Y-%m-%d %H:%M:%S.%f UTC"))


def _keep(course: Course, lab: str, student: str, content: bytes, at: datetime | None) -> None:
    """Put a notebook that does not count, or no longer, into the student's history."""
    name = at.strftime("%Y-%m-%dT%H%M%SZ") if at else "unknown"
    path = course.folder / "history" / lab / student / f"{name}.ipynb"
    if at is None or (path.exists() and path.read_bytes() != content):
        path = path.with_name(f"{name}-{hash_of(content)[:8]}.ipynb")
    if not path.exists():
        write_atomically(path, content)


def _time_of_download(source: HandedIn, places: list[Place]) -> datetime | None:
    """When a platform made a .zip file, where it wrote that into it and not when each was handed in."""
    times = sorted(time for time in (source.time(one.path) for one in places if one.platform) if time)
    at_once = len(times) > 2 and times[-1] - times[0] <= APART * len(times)
    return times[-1] if source.is_zip and at_once else None
