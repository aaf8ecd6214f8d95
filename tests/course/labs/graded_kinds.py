"""Grade every kind of submission, for the book's page on how labs are graded.

Run as ``python -m tests.course.labs.graded_kinds`` (some minutes); it writes book/labs-graded.json and names the
kinds whose points are others than a fair reader's.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from nnopt_lib.course.labs.grade import grade, read_record
from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.course.labs.sandbox.sandbox import Limits
from tests.course.labs.kinds import HONEST, Kind, hand_in_all
from tests.course.labs.odd_kinds import ODD
from tests.labs_class import at_home, new_course

FILE = Path(__file__).parents[3] / "book" / "labs-graded.json"
KINDS = [*HONEST, *ODD]
EXERCISES = ("student-test", "mask-test", "numbers-test")
LIMITS = Limits(seconds=30, memory_gib=0.5, processes=60, file_mib=5)


def grade_kinds(course: Course, kinds: list[Kind]) -> dict[str, dict[str, Any]]:
    """Hand in and grade `kinds` as one class; by kind its points and its record."""
    hand_in_all(course, kinds)
    grade(course, "tiny", LIMITS, jobs=2)
    points = course.points("tiny")
    return {
        kind.id: {
            "points": tuple(points.get(kind.id, {}).get(name, 0.0) for name in EXERCISES),
            "record": read_record(course, "tiny", kind.id),
        }
        for kind in kinds
    }


def row(kind: Kind, given: tuple[float, ...]) -> dict[str, Any]:
    """What the book's table says of a kind."""
    part = "honest" if kind in HONEST else "odd"
    line = {"part": part, "kind": kind.id, "says": kind.says, "expected": kind.expected, "given": given}
    return {**line, "judgement": kind.judgement}


def main() -> None:
    """Grade all kinds and write the file."""
    root = Path(tempfile.mkdtemp(prefix="kinds-"))
    try:
        with at_home(root):
            graded = grade_kinds(new_course(root), KINDS)
    finally:
        shutil.rmtree(root)
    rows = [row(kind, graded[kind.id]["points"]) for kind in KINDS]
    for one in rows:
        if one["given"] != one["expected"]:
            print(f"{one['kind']}: {one['given']} instead of {one['expected']}")
    lines = ",\n".join(f"  {json.dumps(one, ensure_ascii=False)}" for one in rows)
    FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
