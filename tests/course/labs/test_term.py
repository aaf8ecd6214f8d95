"""A teacher's term, as it goes: three labs, two platforms, late work, a second try, a test that was wrong, a student
who leaves. What is uploaded is compared line by line with what a teacher would work out by hand.
"""

from __future__ import annotations

import base64
import csv
import datetime
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nnopt_lib.cli import main
from nnopt_lib.course.labs import sources as lab_sources
from nnopt_lib.course.labs.gradebook import CONFIGURATION, Course, open_course
from tests import labs_class

pytestmark = [pytest.mark.notebook, pytest.mark.usefixtures("private_temporary_folder")]

ROOT = Path(__file__).parents[3]
PICTURE = base64.b64encode(b"\x89PNG not a real picture").decode()
POLICY = "grace 15 min, 10 % a day, at most 50 %"
ROSTER = """\
id,name,aliases,section,platform id,status
w1,Wei Zhang,,A,201;301;11,
w2,Wei Zhang,,B,202;302;12,
zoe,Zoé Müller,,A,203;303;13,
eve,=cmd|' /C calc'!A0,,B,204,
dan,Dan Brown,,B,205,
nora,Nora None,,B,206,
"""
DUE = datetime.datetime(2027, 3, 1, 12, 0, tzinfo=datetime.UTC)
HEAD = "student,name,section,student-test,mask-test,numbers-test,words,points,late_penalty,total,of,note"
STALE = "stale: the notebook or the lab changed since it was graded; grade again"
LOOSE = "def keep_large(values, threshold):\n    return np.abs(values) >= threshold"
WRONG = "def keep_large(values, threshold):\n    return values > threshold"


class Class:
    """A class's folder, and what its teacher does."""

    def __init__(self, root: Path) -> None:
        labs = root / "chapters" / "labs"
        labs.mkdir(parents=True)
        for lab in ("first", "second", "third"):
            (labs / f"{lab}.md").write_text(labs_class.SOURCE.read_text())
        self.labs, self.downloads = labs, root / "downloads"
        self.downloads.mkdir()
        self.folder = root / "term"
        self.do("release", "--due", "none")
        self.course: Course = open_course(self.folder)

    def do(self, *words: str) -> None:
        assert main(["labs", *words, "--course", str(self.folder)]) == 0, words

    def file(self, name: str) -> list[str]:
        return (self.folder / "reports" / name).read_text(encoding="utf-8").splitlines()

    def notebook(self, lab: str, student: str, **cells: str) -> bytes:
        """What a student hands in: all solved, but for `cells`."""
        content = json.loads(self.course.notebook("release", lab).read_text())
        solved = labs_class.solved(student, **cells)
        for cell in content["cells"]:
            name = cell["metadata"].get("nbgrader", {}).get("grade_id")
            cell["source"] = solved.get(name, cell["source"])
        return json.dumps(content).encode()

    def collect(self, lab: str, handed_in: dict[str, tuple[bytes, datetime.datetime]]) -> None:
        """Take in a .zip file as a platform makes it, with the times at which students handed in."""
        path = self.downloads / f"{lab}.zip"
        with zipfile.ZipFile(path, "w") as file:
            for name, (content, when) in handed_in.items():
                local = when.astimezone().timetuple()[:6]
                file.writestr(zipfile.ZipInfo(name, local), content)
        self.do("collect", lab, str(path))

    def nbgrader(self, *words: str) -> None:
        """One of nbgrader's own commands, in the class's folder."""
        command = [sys.executable, "-m", "nbgrader", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # the library that is tested
        options = {"cwd": self.folder, "env": environment, "capture_output": True, "text": True}
        done = subprocess.run(command, **options)
        assert done.returncode == 0 and "Exception" not in done.stderr, done.stderr


@pytest.fixture
def term(tmp_path, monkeypatch):
    """A class with three labs; their pictures are not drawn, which takes a kernel."""
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    monkeypatch.setenv("NNOPT_PROGRESS", "0")
    monkeypatch.setattr(lab_sources, "draw_pictures", lambda lab, source: [PICTURE])
    made = Class(tmp_path)
    (made.folder / "students.csv").write_text(ROSTER, encoding="utf-8")
    configuration = made.folder / CONFIGURATION
    configuration.write_text(configuration.read_text().replace('policy = ""', f"policy = {POLICY!r}"))
    return made


def moodle(lab: str, name: str, number: int) -> str:
    return f"{name}_{number}_assignsubmission_file_/{lab}.ipynb"


def after_due(hours: int = 0, minutes: int = 0) -> datetime.datetime:
    return DUE + datetime.timedelta(hours=hours, minutes=minutes)


def pages(term: Class, name: str) -> list[str]:
    with zipfile.ZipFile(term.folder / "reports" / name) as file:
        assert all(b"<html" in file.read(page) for page in file.namelist())
        return file.namelist()


def test_a_term(term):
    late_work_and_a_second_try(term)
    a_test_changes_and_a_cell_comes(term)
    canvas_and_nbgraders_own_commands(term)
    nbgraders_export_agrees(term)


def late_work_and_a_second_try(term: Class) -> None:
    term.do("release", "first", "--due", "2027-03-01 12:00 UTC")
    eve = "=cmd|' ,C calc'!A0"  # as Moodle would call the folder
    handed_in = {
        moodle("first", "Wei Zhang", 201): (term.notebook("first", "w1"), after_due(-1)),
        moodle("first", "Wei Zhang", 202): (term.notebook("first", "w2"), after_due(minutes=16)),
        moodle("first", "Zoé Müller", 203): (term.notebook("first", "zoe", mask=WRONG), after_due(-2)),
        moodle("first", eve, 204): (term.notebook("first", "eve", mask=WRONG), after_due(minutes=14)),
        moodle("first", "Dan Brown", 205): (term.notebook("first", "dan"), after_due(-1)),
    }
    term.collect("first", handed_in)
    term.do("grade", "first")
    term.do("report", "first")
    # 5 points: name 1, mask 2, numbers 2. w2 is 16 minutes late, so a day has begun: 10 % of 5. eve is within
    # the grace. zoe and eve have wrong masks: 3.
    before = [
        HEAD,
        "dan,Dan Brown,B,1.0,2.0,2.0,0.0,5.0,0.0,5.0,5.0,",
        "eve,'=cmd|' /C calc'!A0,B,1.0,0.0,2.0,0.0,3.0,0.0,3.0,5.0,",
        "w1,Wei Zhang,A,1.0,2.0,2.0,0.0,5.0,0.0,5.0,5.0,",
        "w2,Wei Zhang,B,1.0,2.0,2.0,0.0,5.0,0.5,4.5,5.0,",
        "zoe,Zoé Müller,A,1.0,0.0,2.0,0.0,3.0,0.0,3.0,5.0,",
        "nora,Nora None,B,,,,,,,,5.0,not handed in",
    ]
    assert term.file("first.csv") == before
    # zoe hands in again, 26 hours late, and answers in words; dan leaves the course.
    again = term.notebook("first", "zoe", words="Since they move the output most.")
    term.collect("first", {**handed_in, moodle("first", "Zoé Müller", 203): (again, after_due(26))})
    assert len(list((term.folder / "history" / "first" / "zoe").glob("*.ipynb"))) == 1
    dropped = ROSTER.replace("dan,Dan Brown,,B,205,", "dan,Dan Brown,,B,205,dropped")
    (term.folder / "students.csv").write_text(dropped, encoding="utf-8")
    term.do("report", "first")
    stale = f"zoe,Zoé Müller,A,1.0,0.0,2.0,0.0,3.0,0.0,3.0,5.0,{STALE}"
    assert term.file("first.csv") == [HEAD, *before[2:5], stale, before[6]]
    assert not any(line.startswith("Participant 203") for line in term.file("first-moodle.csv"))
    term.do("grade", "first")
    term.do("report", "first")
    # Two days have begun: 20 % of 5.
    now = "zoe,Zoé Müller,A,1.0,2.0,2.0,0.0,5.0,1.0,4.0,5.0,waits for a reader: words"
    assert term.file("first.csv") == [HEAD, *before[2:5], now, before[6]]
    assert term.file("first-moodle.csv") == [
        "Identifier,Full name,Email address,Status,Grade,Maximum grade,Grade can be changed,"
        "Last modified (submission),Last modified (grade)",
        "Participant 204,'=cmd|' /C calc'!A0,,Submitted for grading,3,5,Yes,2027-03-01T12:14:00+00:00,",
        "Participant 201,Wei Zhang,,Submitted for grading,5,5,Yes,2027-03-01T11:00:00+00:00,",
        "Participant 202,Wei Zhang,,Submitted for grading,4.5,5,Yes,2027-03-01T12:16:00+00:00,",
        "Participant 203,Zoé Müller,,Submitted for grading,4,5,Yes,2027-03-02T14:00:00+00:00,",
    ]
    assert pages(term, "first-moodle-feedback.zip") == [
        f"{eve}_204_assignsubmission_file_/first.html",
        "Wei Zhang_201_assignsubmission_file_/first.html",
        "Wei Zhang_202_assignsubmission_file_/first.html",
        "Zoé Müller_203_assignsubmission_file_/first.html",
    ]


NEW_CELL = """
```{code-cell} ipython3
---
nbgrader: {grade: true, grade_id: more-test, locked: true, points: 1, schema_version: 3, solution: false, task: false}
---
assert keep_large(np.array([3.0]), 1.0).tolist() == [True]
```

## Measure
"""


def a_test_changes_and_a_cell_comes(term: Class) -> None:
    at = after_due(24 * 30)
    term.collect(
        "second",
        {
            moodle("second", "Wei Zhang", 301): (term.notebook("second", "w1"), at),
            moodle("second", "Wei Zhang", 302): (term.notebook("second", "w2", mask=LOOSE), at),
        },
    )
    term.do("grade", "second")
    with term.course.open_gradebook() as gradebook:  # as nbgrader's formgrader does
        grade = gradebook.find_grade("numbers-test", "second", "second", "w1")
        grade.manual_score, grade.needs_manual_grade = 1.5, False
        gradebook.db.commit()
    term.do("report", "second")
    absent = [
        "eve,'=cmd|' /C calc'!A0,B,{}5.0,not handed in".format("," * 7),
        "nora,Nora None,B,{}5.0,not handed in".format("," * 7),
        "zoe,Zoé Müller,A,{}5.0,not handed in".format("," * 7),
    ]
    w1, w2 = (
        "w1,Wei Zhang,A,1.0,2.0,1.5,0.0,4.5,0.0,4.5,5.0,",
        "w2,Wei Zhang,B,1.0,2.0,2.0,0.0,5.0,0.0,5.0,5.0,",
    )
    assert sorted(term.file("second.csv")) == sorted([HEAD, *absent, w1, w2])
    # The hidden test did not look at the threshold itself; w2's mask keeps it. A cell comes too, for 1 point.
    source = (term.labs / "second.md").read_text()
    changed = source.replace("keep_large(values, 0.5)", "keep_large(values, 1.0)").replace("> 0.5", "> 1.0")
    (term.labs / "second.md").write_text(changed.replace("\n## Measure\n", NEW_CELL))
    term.do("release", "second")
    term.do("report", "second")
    head = HEAD.replace("mask-test", "mask-test,more-test")
    lines = term.file("second.csv")
    assert lines[0] == head
    assert [line for line in lines if line.startswith("w")] == [
        f"w1,Wei Zhang,A,1.0,2.0,0.0,1.5,0.0,4.5,0.0,4.5,6.0,{STALE}",
        f"w2,Wei Zhang,B,1.0,2.0,0.0,2.0,0.0,5.0,0.0,5.0,6.0,{STALE}",
    ]
    term.do("grade", "second")
    term.do("report", "second")
    assert [line for line in term.file("second.csv") if line.startswith("w")] == [
        "w1,Wei Zhang,A,1.0,2.0,1.0,1.5,0.0,5.5,0.0,5.5,6.0,"
        "has points by hand of an earlier grading: numbers-test",
        "w2,Wei Zhang,B,1.0,0.0,1.0,2.0,0.0,4.0,0.0,4.0,6.0,",
    ]


def canvas_and_nbgraders_own_commands(term: Class) -> None:
    at = after_due(24 * 60)
    handed_in = {
        "zhangwei_12_501_third.ipynb": (term.notebook("third", "w2"), at),
        "mullerzoe_LATE_13_502_third-1.ipynb": (term.notebook("third", "zoe", mask=WRONG), at),
    }
    term.collect("third", handed_in)
    term.nbgrader("autograde", "third")
    term.do("report", "third")
    lines = [line for line in term.file("third.csv") if not line.endswith("not handed in")]
    assert lines == [
        HEAD,
        "w2,Wei Zhang,B,1.0,2.0,2.0,0.0,5.0,0.0,5.0,5.0,",
        'zoe,Zoé Müller,A,1.0,0.0,2.0,0.0,3.0,0.0,3.0,5.0,"late, says canvas; by how much is not known"',
    ]
    assert term.file("third-canvas.csv") == [
        "Student,ID,SIS User ID,SIS Login ID,Section,third",
        "    Points Possible,,,,,5",
        "Wei Zhang,12,,,B,5",
        "Zoé Müller,13,,,A,3",
    ]
    assert pages(term, "third-canvas-feedback.zip") == [
        "mullerzoe_LATE_13_502_third-1.html",
        "zhangwei_12_501_third.html",
    ]
    page = term.course.notebook("feedback", "third", "zoe").with_suffix(".html")
    page.unlink()
    term.nbgrader("generate_feedback", "third", "--force")
    assert "hidden tests ran here" in page.read_text() and "linspace" not in page.read_text()


def nbgraders_export_agrees(term: Class) -> None:
    term.nbgrader("export")
    exported = {
        (row["assignment"], row["student_id"]): row
        for row in csv.DictReader(io.StringIO((term.folder / "grades.csv").read_text(encoding="utf-8")))
    }
    compared = 0
    for lab in ("first", "second", "third"):
        for row in csv.DictReader(term.file(f"{lab}.csv")):
            if row["total"]:
                theirs = exported[lab, row["student"]]
                names = ("points", "late_penalty", "total", "of")
                ours = [float(row[name]) for name in names]
                names = ("raw_score", "late_submission_penalty", "score", "max_score")
                assert ours == pytest.approx([float(theirs[name]) for name in names]), (lab, row["student"])
                compared += 1
    assert compared == 4 + 2 + 2
    assert exported["first", "dan"]["score"] == "5.0"  # who has left keeps what they had
    assert exported["first", "zoe"]["timestamp"] == "2027-03-02 14:00:00"
    assert exported["first", "zoe"]["duedate"] == "2027-03-01 12:00:00"
    assert (exported["first", "zoe"]["first_name"], exported["first", "zoe"]["last_name"]) == (
        "Zoé",
        "Müller",
    )
