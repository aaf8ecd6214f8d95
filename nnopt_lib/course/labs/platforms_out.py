"""Grades and feedback in the forms in which Moodle and Canvas take them back; only for what came from there.

Sources, read in November 2026:

- Moodle's mod/assign/feedback/offline/importgradeslib.php looks for the columns Identifier, Grade and Last
  modified (grade), called so in English; the number after "Participant " is the one in the name of the folder
  that was downloaded. Whatever stands in Feedback comments replaces comments, so that column is left out.
- Moodle's mod/assign/feedback/file/importziplib.php takes a file from a folder called
  NAME_NUMBER_assignsubmission_file or, by Moodle before 4.1, the same with _ at its end.
- Canvas's lib/gradebook_importer.rb asks for Student, ID and, before the assignments, Section; finds
  students by ID first; takes the row "Points Possible" for the assignments' points. The order is the
  one that its lib/gradebook_exporter.rb writes.
- Canvas's app/models/assignment.rb (infer_comment_context_from_filename) takes the first two parts between _
  that are numbers, the student's and the submitted file's: so the name is kept, and its ending is .html.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.course.labs.standing import Standing
from nnopt_lib.files import write_atomically

MOODLE = [
    *("Identifier", "Full name", "Email address", "Status", "Grade", "Maximum grade", "Grade can be changed"),
    *("Last modified (submission)", "Last modified (grade)"),
]
CANVAS = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet may take a text for that begins so
MOODLE_FOLDER = re.compile(r"[^_/\\]*_(\d+)_assignsubmission_[^_/\\]*(_[^/\\]*)?")


def harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula.

    Example:
        >>> harmless('=cmd|" /C calc"!A0'), harmless("Anna-Lena")
        ('\\'=cmd|" /C calc"!A0', 'Anna-Lena')
    """
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text


def as_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Lines of comma-separated values, none of them a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (head, *rows):
        writer.writerow([harmless(one) if isinstance(one, str) else one for one in row])
    return text.getvalue()


def write_platform_files(
    course: Course, lab: str, standings: Sequence[Standing], totals: Mapping[str, float], most: float
) -> dict[str, list[str]]:
    """The files of each platform that submissions came from; returns who is in none, by platform.

    Files: ``reports/LAB-PLATFORM.csv`` and ``reports/LAB-PLATFORM-feedback.zip``. Whoever has no grade that
    holds is in neither: what a platform holds of them stays as it is.
    """
    left_out = {}
    forms: dict[str, tuple[Callable[..., str], Callable[..., str]]] = {
        "moodle": (moodle_grades, moodle_place),
        "canvas": (canvas_grades, canvas_place),
    }
    for platform, (grades, place) in forms.items():
        came = [one for one in standings if one.collected.get("platform") == platform]
        if not came:
            continue
        named = [one for one in came if one.final and str(one.collected.get("platform_id", "")).isdigit()]
        left_out[platform] = [one.student for one in came if one not in named]
        reports = course.folder / "reports"
        write_atomically(reports / f"{lab}-{platform}.csv", grades(lab, named, totals, most))
        pages = {
            place(lab, one): course.notebook("feedback", lab, one.student).with_suffix(".html")
            for one in named
        }
        write_atomically(reports / f"{lab}-{platform}-feedback.zip", _zipped(pages))
    return left_out


def moodle_grades(lab: str, standings: Sequence[Standing], totals: Mapping[str, float], most: float) -> str:
    """Moodle's offline grading worksheet."""
    rows = [
        [
            *(f"Participant {one.collected['platform_id']}", one.name, "", "Submitted for grading"),
            *(f"{totals[one.student]:g}", f"{most:g}", "Yes", str(one.collected.get("at", "")), ""),
        ]
        for one in standings
    ]
    return as_csv(MOODLE, rows)


def canvas_grades(lab: str, standings: Sequence[Standing], totals: Mapping[str, float], most: float) -> str:
    """The part of Canvas's gradebook that this lab is, its assignment called as the lab."""
    rows = [
        [
            *(one.name, str(one.collected["platform_id"]), "", "", one.section),
            f"{totals[one.student]:g}",
        ]
        for one in standings
    ]
    return as_csv([*CANVAS, lab], [["    Points Possible", "", "", "", "", f"{most:g}"], *rows])


def moodle_place(lab: str, one: Standing) -> str:
    """Where Moodle looks for a student's page in a .zip file of feedback."""
    place, number = _last_part(one), str(one.collected["platform_id"])
    match = MOODLE_FOLDER.fullmatch(place)
    if not match or match[1] != number:
        called = re.sub(r"[_/\\]", " ", one.name).strip(" .~") or "student"
        place = f"{called}_{number}_assignsubmission_file_"
    # Files lie beside each other where submissions were not downloaded in folders.
    return f"{place[:-6]}.html" if place.endswith(".ipynb") else f"{place}/{lab}.html"


def canvas_place(lab: str, one: Standing) -> str:
    """What Canvas wants a student's page to be called in a .zip file of feedback."""
    return f"{_last_part(one).removesuffix('.ipynb')}.html"


def _last_part(one: Standing) -> str:
    return PurePosixPath(str(one.collected.get("place", ""))).name


def _zipped(pages: Mapping[str, Path]) -> bytes:
    """A .zip file of the pages that there are; the same bytes for the same pages."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, path in sorted(pages.items()):
            if path.is_file():
                entry = zipfile.ZipInfo(name)  # without a date
                entry.external_attr = 0o644 << 16
                file.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return content.getvalue()
