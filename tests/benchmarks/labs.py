"""Seconds of grading: the largest lab's submission, a class of 100 on the smallest; equal points are checked first.

    python -m tests.benchmarks.labs [LAB]

First the solution of each lab is graded and has to get all points, and the untouched copy none. The lab that took
longest, or the one that is named, is graded again alone, on one core and one thread; then a hundred students on
the tiny lab, two at a time, all of whom solved it, each with numbers of their own. Release and report are timed as
well. A line says MET or MISSED for each bar.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import nbformat

from nnopt_lib.course.labs.grade import grade, read_record
from nnopt_lib.course.labs.gradebook import Course, make_course
from nnopt_lib.course.labs.report import report
from nnopt_lib.course.labs.sandbox.sandbox import Limits
from nnopt_lib.course.labs.sources import find_labs, release
from tests.labs_class import at_home, hand_in, new_course, solved

BAR_OF_ONE, BAR_OF_CLASS, STUDENTS = 12, 120, 100
LIMITS = Limits(seconds=900)  # on a busy machine a time is MISSED, not a failure


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, and its result."""
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def hand_in_solution(course: Course, lab: str, student: str) -> None:
    """The lab's source with its solution, and what the solution measured as this student typed in."""
    notebook = nbformat.read(course.notebook("source", lab), as_version=4)
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "student":
            cell.source = f"student = {student!r}"
    path = course.notebook("submitted", lab, student)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def check_points(course: Course, lab: str, student: str, full: bool) -> None:
    """End the benchmark where the points are not those that the work is worth."""
    most, earned = course.most_points(lab), course.points(lab)[student]
    wanted = sum(most.values()) if full else 0
    if abs(sum(earned.values()) - wanted) > 1e-9:
        raise SystemExit(f"{lab}: {student} has {earned}, not {wanted}; timing that would mean nothing")


def on_one_core(run: Callable[[], Any]) -> Any:
    """The result of a call during which this process and all that it starts have one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        return run()
    finally:
        os.sched_setaffinity(0, cores)


def time_largest(folder: Path, wanted: str = "") -> None:
    """Release, grade and report each lab once, then the slowest again on one core."""
    course = make_course(folder / "labs")
    labs = [lab for lab in find_labs() if wanted in ("", lab.name)]
    print(
        f"{'':>14} {'release':>8} {'grade':>8} {'report':>8}   seconds, two submissions, one after the other"
    )
    slowest: tuple[float, str] = (0.0, "")
    for lab in labs:
        released, _ = seconds_of(lambda lab=lab: release(lab, course))
        hand_in_solution(course, lab.name, "ada")
        untouched = course.notebook("submitted", lab.name, "bob")
        untouched.parent.mkdir(parents=True)
        shutil.copy(course.notebook("release", lab.name), untouched)
        graded, _ = seconds_of(lambda lab=lab: grade(course, lab.name, LIMITS, jobs=1))
        reported, _ = seconds_of(lambda lab=lab: report(course, lab.name))
        check_points(course, lab.name, "ada", full=True)
        check_points(course, lab.name, "bob", full=False)
        print(f"{lab.name:>14} {released:8.1f} {graded:8.1f} {reported:8.1f}", flush=True)
        record = read_record(course, lab.name, "ada")
        slowest = max(slowest, (record["seconds"] if record else 0.0, lab.name))
    name = slowest[1]
    # The first start of the grader's own processes is no part of a submission; a class has one of them.
    seconds, _ = seconds_of(
        lambda: on_one_core(lambda: grade(course, name, LIMITS, jobs=1, students=["ada"]))
    )
    check_points(course, name, "ada", full=True)
    print(f"largest lab, {name}, one submission on one core: {seconds:.1f} s", end=" ")
    print(f"(bar {BAR_OF_ONE} s): {'MET' if seconds <= BAR_OF_ONE else 'MISSED'}", flush=True)


def time_class(folder: Path) -> None:
    """A hundred students on the tiny lab, two at a time."""
    root = folder / "tiny"
    root.mkdir()
    with at_home(root):
        released, course = seconds_of(lambda: new_course(root))
        for number in range(STUDENTS):
            hand_in(course, f"student-{number:03}", solved(f"student-{number:03}"))
        seconds, failures = seconds_of(lambda: grade(course, "tiny", LIMITS, jobs=2))
        reported, _ = seconds_of(lambda: report(course, "tiny"))
        for student in failures:
            check_points(course, "tiny", student, full=True)
    print(f"{f'tiny, of {STUDENTS}':>14} {released:8.1f} {seconds:8.1f} {reported:8.1f}")
    print(f"a class of {STUDENTS} on the tiny lab, 2 jobs: {seconds:.1f} s", end=" ")
    print(f"(bar {BAR_OF_CLASS} s): {'MET' if seconds <= BAR_OF_CLASS else 'MISSED'}")


def main(wanted: str = "") -> None:
    """All tables."""
    os.environ.setdefault("NNOPT_PROGRESS", "0")
    folder = Path(tempfile.mkdtemp(prefix="labs-"))
    try:
        print(f"{'seconds':>14} {'release':>8} {'grade':>8} {'report':>8}")
        time_class(folder)
        time_largest(folder, wanted)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(*sys.argv[1:2])
