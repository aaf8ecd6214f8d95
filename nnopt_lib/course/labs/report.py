"""What a teacher reads after grading: points as CSV, a table for the class, a page for each student."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from nnopt_lib.checks import check_choice
from nnopt_lib.course.labs.feedback import CHOICES, write_pages, write_plain_page
from nnopt_lib.course.labs.flags import groups
from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.course.labs.late import say_due
from nnopt_lib.course.labs.platforms_out import as_csv, write_platform_files
from nnopt_lib.course.labs.standing import NOT_HANDED_IN, STALE, Standing, standings
from nnopt_lib.course.labs.submissions import read_submission
from nnopt_lib.files import lock, write_atomically

NAMES = {"another's": "typed {name!r}, another student's name", "nobody's": "typed {name!r}, nobody's name"}


def report(course: Course, lab: str, tests: str = "hidden") -> str:
    """Write points, feedback and the class's table of a lab; returns the table.

    Files: ``reports/LAB.csv``, ``reports/LAB.txt``, those for learning platforms, and
    ``feedback/STUDENT/LAB/LAB.html`` by nbgrader, with its hidden tests ``"hidden"`` or ``"shown"``.
    Points are those of the gradebook, so what was changed by hand in nbgrader's formgrader counts; late
    penalties are computed anew from them, in the gradebook too.
    """
    check_choice("--tests", tests, CHOICES)
    most = course.most_points(lab)
    with lock(course.gradebook):
        course.assign_penalties(lab)
        everybody = standings(course, lab)
        course.name_students({one.student: one.name for one in everybody if one.name})
    no_page = _write_feedback(course, lab, everybody, most, tests)
    rows = [row_of(one, most) for one in everybody]
    reports = course.folder / "reports"
    write_atomically(
        reports / f"{lab}.csv", as_csv(list(rows[0]) if rows else [], [list(row.values()) for row in rows])
    )
    totals = {one.student: _total(one, most) for one in everybody if one.marks}
    left_out = write_platform_files(course, lab, everybody, totals, sum(most.values()))
    text = _as_text(course, lab, everybody, rows, most)
    remarks = {
        "Have a plain page, since none could be made of their notebook:": [
            f"{student}: {why}" for student, why in no_page.items()
        ],
        "In no file for their platform until they are graded:": [
            f"{platform}: {', '.join(students)}" for platform, students in left_out.items() if students
        ],
    }
    text = "\n\n".join([text, *_remarks(remarks)]) + "\n"
    write_atomically(reports / f"{lab}.txt", text)
    return text


def row_of(one: Standing, most: Mapping[str, float]) -> dict[str, Any]:
    """One student's line: points by exercise, their sum, what being late costs, and what there is to say."""
    # Empty is not 0: whoever is not graded yet has no points, in the table and in the CSV file.
    marks = one.marks
    return {
        **{"student": one.student, "name": one.name, "section": one.section},
        **{name: marks.points.get(name, 0.0) if marks else "" for name in most},
        "points": _points(one, most) if marks else "",
        "late_penalty": marks.penalty if marks else "",
        "total": _total(one, most) if marks else "",
        "of": sum(most.values()),
        "note": "; ".join(notes_on(one)),
    }


def notes_on(one: Standing) -> list[str]:
    """All there is to say of a student, in the order of its weight."""
    if not one.handed_in:
        return [NOT_HANDED_IN]
    record = one.record
    if record is None:
        return ["not graded yet"]
    notes = [STALE] if one.stale else []
    notes += [str(record.get("failure", ""))] if record.get("failure") else []
    if one.marks and one.marks.unread:
        notes.append(f"waits for a reader: {', '.join(one.marks.unread)}")
    if one.marks and one.marks.look_again:
        notes.append(f"has points by hand of an earlier grading: {', '.join(one.marks.look_again)}")
    notes += [*map(str, record.get("left_out", [])), *map(str, record.get("flags", []))]
    form = NAMES.get(str(record.get("name", "")))
    notes += [form.format(name=record.get("typed", {}).get("student"))] if form else []
    return notes + _platform_says_late(one)


def _platform_says_late(one: Standing) -> list[str]:
    """A late mark of the platform's where the times that are known make nobody late."""
    if not one.collected.get("late") or one.marks is None or one.marks.seconds_late:
        return []
    by = one.collected.get("platform") or "the platform"
    unknown = "by how much is not known" if one.collected.get("download") else "not by the due date here"
    return [f"late, says {by}; {unknown}"]


def _of_unknown_time(one: Standing, due: datetime.datetime | None) -> bool:
    """Whether a notebook may be late for all that is known: by Moodle, downloaded after the due date."""
    if due is None or not one.collected.get("download") or one.collected.get("platform") == "canvas":
        return False
    with contextlib.suppress(TypeError, ValueError):
        return datetime.datetime.fromisoformat(str(one.collected.get("at"))) > due
    return False


def _points(one: Standing, most: Mapping[str, float]) -> float:
    return sum(one.marks.points.get(name, 0.0) for name in most) if one.marks else 0.0


def _total(one: Standing, most: Mapping[str, float]) -> float:
    return max(0.0, _points(one, most) - one.marks.penalty) if one.marks else 0.0  # as nbgrader's export


def _as_text(
    course: Course,
    lab: str,
    everybody: Sequence[Standing],
    rows: Sequence[Mapping[str, Any]],
    most: Mapping[str, float],
) -> str:
    there = [one for one in everybody if one.handed_in]
    title = f"{lab}: {len(there)} handed in"
    title += f", {len(everybody) - len(there)} not" if len(there) < len(everybody) else ""
    due = course.due(lab)
    title += f", due {say_due(due)}" if due else ""
    late = due is not None or any(row["late_penalty"] for row in rows)
    return "\n\n".join(
        [
            title,
            _table(*_lines(rows, everybody, most, late)),
            *_remarks(_about(course, lab, everybody, list(most))),
        ]
    )


def _lines(
    rows: Sequence[Mapping[str, Any]], everybody: Sequence[Standing], most: Mapping[str, float], late: bool
) -> tuple[list[list[str]], int]:
    """The table, with a name and a section where there are any, and how many of its columns are text."""
    exercises = [name for name in most if most[name]]
    who = ["student", *(key for key in ("name", "section") if any(row[key] for row in rows))]
    who = [key for key in who if key != "name" or any(row["name"] != row["student"] for row in rows)]
    sums = ["points", "late_penalty", "total"] if late else ["points"]
    head = [
        *who,
        *(name.removesuffix("-test") for name in exercises),
        *(one.partition("_")[0] for one in sums),
    ]
    top = f"{sum(most.values()):g}"
    full = ["(most)", *("" for _ in who[1:]), *(f"{most[name]:g}" for name in exercises), top]
    full += ["", top] if late else []
    lines = [head, full]
    for row, one in zip(rows, everybody, strict=True):
        numbers = [_number(row[name]) for name in (*exercises, *sums)]
        numbers[-1] += " (stale)" if one.stale else ""
        lines.append([*(str(row[key]) for key in who), *numbers])
    return lines, len(who)


def _about(
    course: Course, lab: str, everybody: Sequence[Standing], tests: Sequence[str]
) -> dict[str, list[str]]:
    records = {one.student: one.record for one in everybody if one.handed_in}
    read = {student: read_submission(course.notebook("submitted", lab, student)) for student in records}
    due = course.due(lab)
    alike = groups(
        records, {student: text for student, (text, problem) in read.items() if not problem}, tests
    )
    unread: dict[str, list[str]] = {}
    for one in everybody:
        for cell in one.marks.unread if one.marks else ():
            unread.setdefault(cell, []).append(one.student)
    endings = {one.student: _ending(one) for one in everybody if one.handed_in}
    again = {one.student: one.marks.look_again for one in everybody if one.marks}
    return {
        "Not handed in:": [", ".join(one.student for one in everybody if not one.handed_in)],
        "Not graded to the end:": _said({one: [end] for one, end in endings.items() if end}),
        "Stale, shown with the points of before:": _said(
            {one.student: [STALE] for one in everybody if one.stale}
        ),
        "Waits for a reader:": [f"{cell}: {', '.join(students)}" for cell, students in unread.items()],
        "Points given by hand, kept, of cells that were graded again since:": _said(
            {student: [", ".join(cells)] for student, cells in again.items() if cells}
        ),
        "Cells that were left out:": _said(_all(records, "left_out")),
        "To look at; no points were taken off:": _said(_all(records, "flags")),
        **{heading: [", ".join(group) for group in found] for heading, found in alike.items()},
        "Typed another name than they handed in under, so another seed:": _other_names(records),
        "Late by the platform; points were not taken off:": _said(
            {one.student: _platform_says_late(one) for one in everybody}
        ),
        "Came with the time of the download alone, so nobody of them counts as late:": [
            ", ".join(one.student for one in everybody if _of_unknown_time(one, due))
        ],
        "What this system could not keep submissions from:": sorted(
            {one for record in records.values() if record for one in record.get("not_cut", [])}
        ),
    }


def _ending(one: Standing) -> str:
    return "not graded yet" if one.record is None else str(one.record.get("failure", ""))


def _all(records: Mapping[str, Mapping[str, Any] | None], field: str) -> dict[str, list[str]]:
    return {student: list(map(str, (record or {}).get(field, []))) for student, record in records.items()}


def _said(sentences: Mapping[str, Iterable[str]]) -> list[str]:
    return [f"{student}: {sentence}" for student, all_of in sentences.items() for sentence in all_of]


def _remarks(remarks: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        "\n".join([heading, *(f"  {line}" for line in lines)])
        for heading, lines in remarks.items()
        if any(lines)
    ]


def _other_names(records: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Who typed a name that is not theirs; by the folder's name where grading did not look at the roster."""
    others = []
    for student, record in records.items():
        typed = (record or {}).get("typed", {}).get("student")
        if (record or {}).get("name", "" if typed in (None, student) else "nobody's") in NAMES:
            others.append(f"{student}: {typed!r}")
    return others


def _number(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _table(lines: Sequence[Sequence[str]], texts: int = 1) -> str:
    """`texts` columns on the left, then numbers; letters of East Asian names count as two columns."""
    sides = [*("left" for _ in range(texts)), *("right" for _ in lines[0][texts:])]
    # Cells are text: a student whose account is called 007 would become 7.
    return tabulate(lines, tablefmt="plain", colalign=sides, disable_numparse=True)


def _write_feedback(
    course: Course, lab: str, everybody: Sequence[Standing], most: Mapping[str, float], tests: str
) -> dict[str, str]:
    """A page for each student; returns why nbgrader could make none, by student."""
    problems = write_pages(course, lab, tests)
    for one in everybody:
        if one.student in problems:
            heading = f"{lab}: {_total(one, most):g} of {sum(most.values()):g} points"
            text = [f"No page could be made of the notebook of {one.student}: {problems[one.student]}."]
            reasons = (one.record or {}).get("notes", {})
            table = [
                [
                    name.removesuffix("-test"),
                    f"{row:g}" if row != "" else "",
                    f"of {most[name]:g}",
                    str(reasons.get(name, "")),
                ]
                for name, row in ((name, row_of(one, most)[name]) for name in most)
                if most[name]
            ]
            write_plain_page(course, lab, one.student, heading, text, table)
        elif one.handed_in and one.record and not course.notebook("autograded", lab, one.student).is_file():
            text = [
                f"What {one.student} handed in {one.record.get('failure', '')}.",
                "It has 0 points. Open it in JupyterLab, run all cells, save, and hand it in again.",
            ]
            write_plain_page(course, lab, one.student, f"{lab}: not graded", text)
    return {one.student: problems[one.student] for one in everybody if one.student in problems}
