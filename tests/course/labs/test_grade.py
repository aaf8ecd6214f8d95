"""A class of 30, hostile ones among them: everybody ends with a grade or a named failure, and nobody passes wrongly."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs import grade as lab_grading
from nnopt_lib.course.labs import submissions as lab_cells
from nnopt_lib.course.labs.grade import read_record
from nnopt_lib.course.labs.sandbox import sandbox
from nnopt_lib.course.labs.sandbox.sandbox import Limits
from tests import labs_class
from tests.conftest import small_files
from tests.labs_class import Notebook, at_home, guarded_processes, hand_in, solved

pytestmark = [pytest.mark.notebook, pytest.mark.usefixtures("private_temporary_folder")]

LIMITS = {"seconds": 30, "memory-gib": 0.5, "processes": 40, "file-mib": 5}
BROKEN = "def keep_large(values, threshold):\n    return None"


def command(course, *more: str) -> list[str]:
    limits = [word for name, value in LIMITS.items() for word in (f"--{name}", str(value))]
    folder = ["--course", str(course.folder)]
    return [sys.executable, "-m", "nnopt_lib.cli", "labs", "grade", "tiny", *folder, *limits, *more]


class Listener:
    """A server on this machine that notes who connects."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.visitors = 0
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.server.accept()[0].close()
                self.visitors += 1


def changed_metadata(course) -> Notebook:
    notebook = Notebook(course, {"student": "student = 'metadata'"})
    for name in ("mask-test", "numbers-test"):
        notebook.cell(name)["metadata"]["tags"] = ["skip-execution"]
        notebook.cell(name)["metadata"]["nbgrader"].update(points=100, locked=False, solution=True)
        notebook.cell(name)["source"] = "pass"
    return notebook


def duplicated(course) -> Notebook:
    notebook = Notebook(course)
    for name in ("student-test", "mask-test", "numbers-test"):
        copy = json.loads(json.dumps(notebook.cell(name)))
        notebook.cells.append({**copy, "source": "pass", "id": f"copy-{name}"})
    return notebook


def without_tests(notebook: Notebook, *also: str) -> Notebook:
    names = {"student-test", "mask-test", "numbers-test", *also}
    notebook.content["cells"] = [
        one for one in notebook.cells if one["metadata"].get("nbgrader", {}).get("grade_id") not in names
    ]
    return notebook


def first(code: str, student: str, **cells: str) -> dict[str, str]:
    """A submission whose first cell runs `code`; the rest is not solved unless `cells` says so."""
    return {"student": f"student = {student!r}\n{code}", **cells}


def the_class(course, port: int) -> dict[str, object]:
    """What the thirty hand in."""
    leftover = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)"
    files = "for n in range(10**9):\n    with open(f'file-{n % 50}', 'wb') as file:\n        file.write(bytes(1_000_000))"
    dies = labs_class.MASK.replace("return", "import os; len(values) == 7 and os._exit(0)\n    return")
    return {
        "ada": solved("ada"),
        "Zoé Müller": solved("Zoé Müller"),
        "李雷": solved("李雷"),
        "untouched": Notebook(course),
        "copied": solved("copied", numbers=labs_class.numbers_of("ada")),
        "othername": solved("ada"),
        "warns": solved(
            "warns", mask=labs_class.MASK.replace("return", "import warnings; warnings.warn('!')\n    return")
        ),
        "loop": solved("loop", numbers=labs_class.LOOP),
        "forkbomb": first(labs_class.FORK_BOMB, "forkbomb", mask=labs_class.MASK),
        "eater": first(labs_class.EATER, "eater", mask=labs_class.MASK),
        "kernel": solved("kernel", mask="import os\nos._exit(0)"),
        "dies": solved("dies", mask=dies),
        "deleted": without_tests(Notebook(course)),
        "deletedall": without_tests(Notebook(course, solved("deletedall")), "mask", "words"),
        "deletedsolved": without_tests(Notebook(course, solved("deletedsolved"))),
        "writer": first(
            labs_class.writer(course), "writer", mask="assert not written and not seen\n" + labs_class.MASK
        ),
        "connector": first(
            labs_class.reader(port), "connector", mask="assert not reached\n" + labs_class.MASK
        ),
        "junk": "this is no notebook at all",
        "empty": b"",
        "othernotebook": '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        "deep": "[" * 100_000,
        "huge": b" " * (lab_cells.LARGEST + 1),
        "flood": first("print('x' * 30_000_000)", "flood"),
        "garbage": first(labs_class.GARBAGE, "garbage"),
        "strips": first(labs_class.STRIP_ASSERTS, "strips", mask=BROKEN),
        "lastline": first(labs_class.LAST_LINE_ONLY, "lastline"),
        "patched": first(labs_class.PATCHED_SHELL, "patched"),
        "forged": first("", "forged", mask=labs_class.FORGED_REPLY),
        "points": first("", "points", mask=labs_class.FORGED_POINTS),
        "metadata": changed_metadata(course),
        "duplicated": duplicated(course),
        "leftover": solved("leftover", mask=labs_class.MASK + "\n" + leftover),
        "files": first(files, "files", mask=labs_class.MASK),
    }


def hashes(*folders: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def graded(released, tmp_path_factory, private_temporary_folder):
    """The class graded with a kill -9 in the middle; what was seen on the way."""
    root = tmp_path_factory.mktemp("class")
    shutil.copytree(released.folder, root / "course")
    course = type(released)(root / "course")
    (root / "canary.txt").write_text("alive")
    listener = Listener()
    with at_home(released.folder.parent):
        for student, content in the_class(course, listener.port).items():
            hand_in(course, student, content)
        folders = set(private_temporary_folder.glob("nnopt-*"))
        before = hashes(*(course.folder / name for name in ("source", "release", "submitted")))
        started = time.monotonic()
        running = subprocess.Popen(command(course), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while (
            len(list((course.folder / "graded").glob("tiny/*.json"))) < 6 and time.monotonic() - started < 120
        ):
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        running.wait()
        early = {
            path: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in course.folder.glob("graded/tiny/*.json")
        }
        deadline = time.monotonic() + 20
        while (left := guarded_processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        again = subprocess.run(command(course), capture_output=True, text=True)
    listener.server.close()
    return {
        **{"course": course, "early": early, "left": left, "again": again, "before": before},
        "folders": set(private_temporary_folder.glob("nnopt-*")) - folders,
        "visitors": listener.visitors,
        "points": course.points("tiny"),
        "records": {student: read_record(course, "tiny", student) for student in course.students("tiny")},
    }


def points(graded, student: str) -> tuple[float, float, float]:
    earned = graded["points"][student]
    return earned["student-test"], earned["mask-test"], earned["numbers-test"]


def failure(graded, student: str) -> str:
    return graded["records"][student]["failure"]


def test_everybody_has_a_grade_or_a_known_failure(graded):
    assert graded["again"].returncode == 0, graded["again"].stderr
    assert len(graded["records"]) >= 30
    assert all(record is not None for record in graded["records"].values())
    assert set(graded["points"]) == set(graded["records"])


def test_honest_students_get_what_they_earned(graded):
    for student in ("ada", "Zoé Müller", "李雷", "warns", "deletedsolved", "leftover"):
        assert (points(graded, student), failure(graded, student)) == ((1, 2, 2), ""), student
    assert (points(graded, "untouched"), failure(graded, "untouched")) == ((0, 0, 0), "")
    assert points(graded, "copied") == (1, 2, 0)
    assert points(graded, "othername") == (0, 2, 0)


FAILURES = {
    "forkbomb": ((0, 0, 0), "started more than 40 processes and threads, in cell student"),
    "junk": (
        (0, 0, 0),
        "is not a notebook: line 1 is no JSON",
    ),
    "empty": ((0, 0, 0), "is not a notebook: line 1 is no JSON"),
    "othernotebook": ((0, 0, 0), "is not a notebook: it has no cells"),
    "huge": ((0, 0, 0), "is larger than 20 MiB"),
    "files": ((0, 0, 0), "wrote more than 10 MiB or 10000 files, in cell student"),
}
# A cell that breaks costs what it was worth: what was solved elsewhere is earned, before it and after it.
LEFT_OUT = {
    "loop": ((1, 2, 0), "cell numbers ran for more than 10 s"),
    "eater": ((1, 2, 0), "cell student used more than 0.5 GiB of memory"),
    "kernel": ((1, 0, 2), "cell mask killed its kernel"),
    "dies": ((1, 0, 2), "cell mask-test killed its kernel"),
    "forged": ((1, 0, 0), "cell mask-test killed its kernel"),
    "flood": ((1, 0, 0), "cell student printed more than 10 MiB"),
}


@pytest.mark.parametrize("student", FAILURES)
def test_a_submission_that_misbehaves_fails_by_name_and_keeps_what_it_earned_before(graded, student):
    assert (points(graded, student), failure(graded, student)) == FAILURES[student]


@pytest.mark.parametrize("student", LEFT_OUT)
def test_a_cell_that_breaks_its_kernel_costs_itself_and_nothing_else(graded, student):
    expected, sentence = LEFT_OUT[student]
    assert (points(graded, student), failure(graded, student)) == (expected, "")
    assert graded["records"][student]["left_out"] == [sentence]


def test_nobody_passes_by_tampering(graded):
    assert points(graded, "deleted") == (0, 0, 0)
    assert points(graded, "deletedall") == (1, 0, 2)
    # The name was typed and is right; whatever they did to Python, no test runs in it.
    for student in ("patched", "strips", "lastline"):
        assert points(graded, student) == (1, 0, 0), student
    assert points(graded, "points") == (1, 0, 0)
    assert points(graded, "metadata") == (1, 0, 0)
    assert points(graded, "duplicated") == (0, 0, 0)
    assert points(graded, "deep") == (0, 0, 0)
    assert failure(graded, "deep").startswith("is not a notebook: ")
    assert points(graded, "garbage") == (0, 0, 0)
    assert failure(graded, "garbage").startswith("could not be executed: ")
    assert failure(graded, "garbage").endswith(", in cell student")


@pytest.mark.skipif(
    not sandbox.uses_bwrap(), reason="bubblewrap does not work here, so these are not cut off"
)
def test_neither_network_nor_other_files_are_reached(graded):
    assert graded["visitors"] == 0
    assert points(graded, "connector") == (1, 2, 0)
    assert points(graded, "writer") == (1, 2, 0)


def test_nothing_outside_the_graders_files_has_changed(graded):
    course = graded["course"]
    assert hashes(*(course.folder / name for name in ("source", "release", "submitted"))) == graded["before"]
    assert (course.folder.parent / "canary.txt").read_text() == "alive"
    assert sorted(path.name for path in course.folder.parent.iterdir()) == ["canary.txt", "course"]
    assert not any(
        Path(path).exists() for path in ("/pwned", "/etc/pwned", "/usr/pwned", Path.home() / "pwned")
    )


def test_nothing_survives_its_grading(graded):
    assert graded["left"] == []
    assert graded["folders"] == set()
    assert guarded_processes() == []


def test_grading_goes_on_after_a_kill_without_grading_anyone_twice(graded):
    early, everybody = graded["early"], len(graded["records"])
    assert 6 <= len(early) < everybody
    for path, (content, when) in early.items():
        assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, when), path.name
    assert (
        graded["again"].stdout.splitlines()[-1] == f"{everybody - len(early)} graded now, {len(early)} before"
    )


def test_a_record_says_what_was_typed_and_what_was_not_cut(graded):
    record = graded["records"]["ada"]
    assert record["typed"]["student"] == "ada"
    assert record["typed"]["numbers"] == ast.literal_eval(labs_class.numbers_of("ada").partition("= ")[2])
    assert record["not_cut"] == sandbox.not_cut()
    assert record["limits"] == {"seconds": 30.0, "memory_gib": 0.5, "processes": 40, "file_mib": 5}


def test_the_report_names_failures_copies_and_other_names(graded, tmp_path):
    from nnopt_lib.course.labs.report import report

    course = type(graded["course"])(tmp_path / "course")  # other tests read the class as it was graded
    shutil.copytree(graded["course"].folder, course.folder)
    for student in list(graded["records"]):
        if student == "Zoé Müller":
            shutil.rmtree(course.folder / "autograded" / student)  # as before it is graded
        elif student not in ("ada", "copied", "othername", "loop", "junk"):
            shutil.rmtree(course.folder / "submitted" / student)
            shutil.rmtree(course.folder / "autograded" / student, ignore_errors=True)
    course.record("tiny", "copied").unlink()  # as after nbgrader's own autograde
    course.record("tiny", "Zoé Müller").write_text("damaged")
    text = report(course, "tiny")
    assert text == (course.folder / "reports" / "tiny.txt").read_text()
    assert text.splitlines()[:10] == [
        "tiny: 6 handed in",
        "",
        "student     student  mask  numbers  points",
        "(most)            1     2        2       5",
        "Zoé Müller",
        "ada               1     2        2       5",
        "copied            1     2        0       3",
        "junk              0     0        0       0",
        "loop              1     2        0       3",
        "othername         0     2        0       2",
    ]
    assert "  Zoé Müller: not graded yet\n" in text
    assert "each has a seed of their own:\n  ada, copied, othername\n" in text
    assert "so another seed:\n  othername: 'ada'\n" in text
    rows = (course.folder / "reports" / "tiny.csv").read_text().splitlines()
    assert rows[:3:2] == [
        "student,name,section,student-test,mask-test,numbers-test,words,points,late_penalty,total,of,note",
        "ada,,,1.0,2.0,2.0,0.0,5.0,0.0,5.0,5.0,",
    ]
    pages = {
        name: (course.notebook("feedback", "tiny", name).with_suffix(".html")).read_text()
        for name in ("loop", "junk")
    }
    assert "Left out: cell numbers ran for more than 10 s." in pages["loop"]
    assert "What junk handed in is not a notebook" in pages["junk"]
    assert not any("//cdn" in page or 'src="http' in page for page in pages.values())


# One at a time


def grade(course, **options):
    limits = Limits(**{"seconds": 30, "memory_gib": 0.5, "processes": 40, "file_mib": 5, **options})
    return lab_grading.grade(course, "tiny", limits)


def test_a_failure_is_graded_again_with_other_limits_and_a_new_notebook_always(course):
    hand_in(course, "ada", "junk")
    assert grade(course) == {"ada": "is not a notebook: line 1 is no JSON"}
    assert grade(course) == {}
    assert list(grade(course, seconds=31)) == ["ada"]
    hand_in(course, "ada", "more junk")
    assert list(grade(course, seconds=31)) == ["ada"]
    assert list(lab_grading.grade(course, "tiny", Limits(), students=["ada"])) == ["ada"]


def test_a_lab_that_was_changed_is_graded_anew_and_once(course):
    for student in ("ada", "bob"):
        hand_in(course, student, "junk")
    assert set(grade(course)) == {"ada", "bob"}
    assert grade(course) == {}
    source = course.notebook("source", "tiny")
    before = source.read_text()
    source.write_text(before.replace("threshold", "border"))
    assert source.read_text() != before
    assert read_record(course, "tiny", "ada") is read_record(course, "tiny", "bob") is None
    assert set(grade(course)) == {"ada", "bob"}
    assert grade(course) == {}


def test_a_grade_is_of_one_notebook_against_one_lab(course):
    """Another of either is another identity; the same bytes are the same, whenever they were written."""
    hand_in(course, "ada", "junk")
    hand_in(course, "bob", "junk")
    source, identity = course.notebook("source", "tiny"), lab_grading._identity
    first, before = identity(course, "tiny", "ada"), source.read_bytes()
    assert first == identity(course, "tiny", "bob")
    hand_in(course, "ada", "junk!")
    others = {first, identity(course, "tiny", "ada")}
    hand_in(course, "ada", "junk")
    source.write_bytes(before + b" ")
    others.add(identity(course, "tiny", "ada"))
    source.unlink()
    others.add(identity(course, "tiny", "ada"))
    assert len(others) == 4
    source.write_bytes(before)
    assert identity(course, "tiny", "ada") == first


def test_a_full_disk_stops_grading_and_no_grade_is_lost(course, tmp_path):
    """Really full: the course lies on a disk of one mebibyte, with something else that fills it."""
    if not sandbox.uses_bwrap():
        pytest.skip("only bubblewrap can make a small disk here")
    hand_in(course, "ada", "junk")
    lab_grading.grade(course, "tiny", Limits(*LIMITS.values()))
    hand_in(course, "bob", "junk")
    small = tmp_path / "small"
    small.mkdir()
    grading = " ".join(command(type(course)(small / "course")))
    script = f"""
    cp -r {course.folder} {small}/ && cd {small} && dd if=/dev/zero of=fill bs=1k count=10000 2>/dev/null
    {grading}; echo $?; rm fill; {grading}; cat course/graded/tiny/ada.json
    """
    # Bubblewrap's rights are for the grading inside, which has sandboxes of its own.
    rights = ["--cap-add", "ALL"] if os.geteuid() == 0 else []
    words = [
        "bwrap",
        "--dev-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        *rights,
        "--size",
        "1000000",
        "--tmpfs",
        str(small),
    ]
    done = subprocess.run([*words, "sh", "-c", script], capture_output=True, text=True)
    stopped = (
        "Grading stopped at bob, through no fault of the submission: (No space left on device|.* is full)"
    )
    assert re.search(stopped, done.stderr)
    status, graded, count, *record = done.stdout.splitlines()
    assert (status, graded.split()[0], count) == ("1", "bob", "1 graded now, 1 before")
    assert "\n".join(record) + "\n" == course.record("tiny", "ada").read_text()


def test_a_disk_that_takes_no_more_in_the_middle_costs_no_grade(course, monkeypatch):
    """The grading process of the submission can still write, the one that keeps records cannot."""
    hand_in(course, "ada", "junk")
    grade(course)
    kept = course.record("tiny", "ada").read_text()
    hand_in(course, "bob", "junk")
    monkeypatch.setattr(lab_grading, "check_python", lambda: None)  # it would notice before the middle
    with small_files(), pytest.raises(NnoptError) as refused:
        grade(course)
    assert str(refused.value).startswith("Grading stopped at bob, through no fault of the submission: ")
    assert str(refused.value).endswith(
        "Mend that, as by freeing space, and run again; what was graded is kept."
    )
    assert course.record("tiny", "ada").read_text() == kept
    assert list(grade(course)) == ["bob"]
    assert course.record("tiny", "ada").read_text() == kept


@pytest.mark.skipif(not sandbox.uses_bwrap(), reason="only bubblewrap can make a folder read-only for root")
def test_a_read_only_course_is_one_sentence(course):
    hand_in(course, "ada", "junk")
    folder = str(course.folder)
    words = ["bwrap", "--dev-bind", "/", "/", "--proc", "/proc", "--ro-bind", folder, folder]
    done = subprocess.run([*words, *command(course)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        f"nnopt: {course.folder}/grading could not be written: Read-only file system. Make that folder writable "
        "and run again; what was there before is untouched.\n",
    )


def test_a_damaged_or_unwritable_gradebook_is_one_sentence(course):
    hand_in(course, "ada", "junk")
    course.gradebook.write_bytes(b"no database" * 100)
    with pytest.raises(NnoptError) as refused:
        grade(course)
    assert str(refused.value) == (
        f"{course.gradebook} could not be read or written: file is not a database. Free some space, make its "
        "folder writable, or put back a copy of it, and run again."
    )


def test_an_unknown_student_and_no_jobs_are_refused(course):
    hand_in(course, "ada", "junk")
    with pytest.raises(NnoptError) as refused:
        lab_grading.grade(course, "tiny", Limits(), students=["adda"])
    assert str(refused.value) == "there is no submission of 'adda'. Did you mean 'ada'?"
    with pytest.raises(NnoptError) as refused:
        lab_grading.grade(course, "tiny", Limits(), jobs=0)
    assert str(refused.value) == "--jobs must be a whole number, at least 1; received 0."


def test_an_answer_with_half_a_letter_can_be_written_down(course):
    # As a student may type it, raise it or return it; a record that cannot be written stops the whole class.
    hand_in(course, "ada", solved("ada"))
    answer = {**lab_grading._ended(""), "of": "x", "notes": {"mask-test": "f raised E: \ud800"}}
    answer = json.loads(lab_grading._sent({**answer, "typed": {"student": "a\udc80"}}))
    assert lab_grading._write_down(course, "tiny", "ada", Limits(), answer) == ""
    record = json.loads(course.record("tiny", "ada").read_text(encoding="utf-8"))
    assert (record["notes"], record["typed"]) == ({"mask-test": "f raised E: ?"}, {"student": "a?"})
