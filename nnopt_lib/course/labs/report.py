"""What a teacher reads after grading: points as CSV, a table for the class, a page for each student."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from nnopt_lib.course.labs.flags import groups_of_equal_numbers
from nnopt_lib.course.labs.grade import read_record, submitted
from nnopt_lib.course.labs.gradebook import Course, run
from nnopt_lib.course.labs.submissions import read_submission
from nnopt_lib.files import write_atomically

PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{lab}</title>
<style>body {{ font-family: sans-serif; max-width: 40em; margin: 2em auto; line-height: 1.5 }}</style></head>
<body><h1>{lab}: not graded</h1><p>What {student} handed in {failure}.</p>
<p>It has 0 points. Open it in JupyterLab, run all cells, save, and hand it in again.</p></body></html>
"""


def report(course: Course, lab: str) -> str:
    """Write points, feedback and the class's table of a lab; returns the table.

    Files: ``reports/LAB.csv``, ``reports/LAB.txt``, and ``feedback/STUDENT/LAB/LAB.html`` by nbgrader.
    Points are those of the gradebook, so what was changed by hand in nbgrader's formgrader counts.
    """
    most = course.most_points(lab)
    points = course.points(lab)
    records = {student: _ending(course, lab, student) for student in submitted(course, lab)}
    _write_feedback(course, lab, records)
    rows = [_row(student, record, points.get(student, {}), most) for student, record in records.items()]
    write_atomically(course.folder / "reports" / f"{lab}.csv", _as_csv(rows))
    text = _as_text(lab, rows, records, most)
    write_atomically(course.folder / "reports" / f"{lab}.txt", text)
    return text


def _ending(course: Course, lab: str, student: str) -> dict[str, Any] | None:
    """How grading ended by our record or, where nbgrader's own command graded, by what that left."""
    record = read_record(course, lab, student)
    graded, handed_in = (course.notebook(step, lab, student) for step in ("autograded", "submitted"))
    if record is None and graded.is_file() and graded.stat().st_mtime >= handed_in.stat().st_mtime:
        problem = read_submission(handed_in)[1]
        mark = json.loads(graded.read_text(encoding="utf-8"))["metadata"].get("nnopt")
        if mark and not problem:
            return dict(mark)
    return record


def _row(
    student: str, record: Mapping[str, Any] | None, points: Mapping[str, float], most: Mapping[str, float]
) -> dict[str, Any]:
    """One student's line: points by exercise, their sum, and what there is to say."""
    # Empty is not 0: whoever is not graded yet has no points, in the table and in the CSV file.
    graded = {name: points.get(name, 0.0) if record else "" for name in most}
    total = sum(points.get(name, 0.0) for name in most) if record else ""
    note = "not graded yet" if record is None else record["failure"]
    return {"student": student, **graded, "points": total, "of": sum(most.values()), "note": note}


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _as_text(
    lab: str, rows: Sequence[Mapping[str, Any]], records: Mapping[str, Any], most: Mapping[str, float]
) -> str:
    exercises = [name for name in most if most[name]]
    head = ["student", *(name.removesuffix("-test") for name in exercises), "points"]
    full = ["(most)", *(f"{most[name]:g}" for name in exercises), f"{sum(most.values()):g}"]
    lines = [[str(row["student"]), *(_number(row[name]) for name in (*exercises, "points"))] for row in rows]
    parts = [f"{lab}: {len(rows)} handed in", _table([head, full, *lines])]
    remarks = {
        "Not graded to the end:": [f"{row['student']}: {row['note']}" for row in rows if row["note"]],
        "Typed equal numbers, though each has a seed of their own:": [
            ", ".join(group) for group in groups_of_equal_numbers(records)
        ],
        "Typed another name than they handed in under, so another seed:": _other_names(records),
        "What this system could not keep submissions from:": sorted(
            {one for record in records.values() if record for one in record["not_cut"]}
        ),
    }
    for heading, remark in remarks.items():
        if remark:
            parts.append("\n".join([heading, *(f"  {line}" for line in remark)]))
    return "\n\n".join(parts) + "\n"


def _other_names(records: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    typed = {student: (record or {}).get("typed", {}).get("student") for student, record in records.items()}
    return [f"{student}: {name!r}" for student, name in typed.items() if name not in (None, student)]


def _number(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    """Names on the left, numbers under each other; letters of East Asian names count as two columns."""
    sides = ("left", *("right" for _ in lines[0][1:]))
    # Cells are text: a student whose account is called 007 would become 7.
    return tabulate(lines, tablefmt="plain", colalign=sides, disable_numparse=True)


def _write_feedback(course: Course, lab: str, records: Mapping[str, Mapping[str, Any] | None]) -> None:
    """A page for each student; without what a browser would ask the network for."""
    if any(course.notebook("autograded", lab, student).exists() for student in records):
        run(f"feedback on {lab} could not be written", course.api().generate_feedback(lab))
    for student, record in records.items():
        page = course.notebook("feedback", lab, student).with_suffix(".html")
        if course.notebook("autograded", lab, student).is_file():
            write_atomically(page, without_requests(page.read_text(encoding="utf-8")))
        elif record is not None:
            words = {"lab": lab, "student": student, "failure": record["failure"]}
            write_atomically(page, PAGE.format(**{key: html.escape(word) for key, word in words.items()}))


def without_requests(page: str) -> str:
    """A page of nbgrader's without the scripts and styles that it would fetch from elsewhere.

    They draw formulas and widgets; formulas then stand as they were typed.
    """
    scripts = re.sub(r'<script[^>]*\bsrc="(?:https?:)?//[^>]*>\s*</script>', "", page)
    return re.sub(r'<link[^>]*\bhref="(?:https?:)?//[^>]*>', "", scripts)
