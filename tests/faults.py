"""Faults at random moments, while commands run: nothing published is ever half, wrong or gone.

    python tests/faults.py --count 50 --seed 1

A command (`run --save`, `book`, `labs grade`, a search) is started as a process on something small. At a random
moment it is killed, told to end, finds the disk full, loses a process that works for it, or sees the clock set back
or ahead. Then what was published must be wholly as before or wholly as after, every file whole; and the same
command, run again, must end right. What is not so is printed, and the status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nnopt_lib.experiments.records import read_published  # noqa: E402 - of the checkout of this file
from nnopt_lib.results.seals import seal_problems  # noqa: E402
from tests import labs_class, tiny_course  # noqa: E402

NNOPT = [sys.executable, "-m", "nnopt_lib.cli"]
# Python's own clock, shifted by what a file says; the machine's is not ours to set, and what counts how long
# something takes (time.monotonic) runs on when somebody sets it.
CLOCK = """
import os, time
real = time.time
def shifted():
    try:
        with open(os.environ["SHIFTED_CLOCK"]) as file:
            return real() + float(file.read() or 0)
    except (KeyError, OSError, ValueError):
        return real()
time.time = shifted
time.time_ns = lambda: int(shifted() * 1e9)
"""
SEARCH = """
import json, sys
import nnopt_lib as nnopt
from tests.nas.spaces import OPTIONS, widths
result = nnopt.search(widths(), **OPTIONS)
print(json.dumps([row["run_id"] for row in result.rows]))
"""


class Task:
    """A command on a project in `folder`: what it publishes before and after, and whether that is right."""

    command: list[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "NNOPT_HOME": str(folder), "NNOPT_PROGRESS": "0"}
        self.environment |= {"PYTHONPATH": str(ROOT), "NNOPT_BUILD": str(folder / "build")}
        for name in ("NNOPT_STORE", "NNOPT_ROWS", "NNOPT_USED"):
            self.environment.pop(name, None)

    def start(self) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            self.command, env=self.environment, cwd=self.folder, start_new_session=True, **pipes
        )

    def run(self) -> None:
        """Run it without a fault; one that fails is a fault of this program or of the library."""
        process = self.start()
        out, err = process.communicate(timeout=600)
        if process.returncode:
            raise SystemExit(f"{self.command} failed without a fault: {out}{err}")

    def published(self) -> Any:
        """What stands where others read it, comparable by ==; raises if anything of it is half or wrong."""
        raise NotImplementedError


class Saving(Task):
    """`run --save -p recompute true` of a chapter whose rows, claim, figure and notebook change together."""

    command = [*NNOPT, "run", "1", "--save", "-p", "recompute", "true"]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "chapters").mkdir()
        (folder / "pyproject.toml").touch()
        text = tiny_course.CHAPTER.replace("NN-rows", "01-rows")
        text = text.replace(
            "import dataclasses, sys", "import dataclasses\nfrom nnopt_lib import claim, figures"
        )
        figure = (
            'figures.save_figure("01-y", rows, "curves", x="seed", y="y", x_label="s", y_label="y", alt="A.")'
        )
        text = text.replace('[row["y"] for row in rows]', figure)
        sentence = 'claim("01-first", "sum", f"It is {sum(r[\'y\'] for r in rows)}.", holds=True, rows=rows)'
        text = text.replace('def claim(*words): print(*words)\nclaim("holds")', sentence)
        self.source = folder / "chapters" / "01-first.md"
        self.source.write_text(text)
        self.run()
        self.source.write_text(text.replace("s.seed * 2}", "s.seed * 3}"))

    def published(self) -> Any:
        if problems := seal_problems("01-first"):
            raise AssertionError(problems)
        results = self.folder / "chapters" / "results"
        rows = sorted(record["rows"][0]["y"] for record in read_published("01-rows").values())
        (claim,) = json.loads((results / "claims" / "01-first.json").read_text())
        figure = json.loads((results / "figures" / "01-y.json").read_text())
        notebook = (self.folder / "chapters" / "01-first.ipynb").read_text()
        assert claim["sentence"] == f"It is {sum(rows)}." and claim["sentence"] in notebook
        assert sorted(row["y"] for row in figure["rows"]) == rows
        return rows


class Book(Saving):
    """`book`, of a chapter that has to be executed first: the pages of before, or those of after."""

    command = [*NNOPT, "book"]

    def __init__(self, folder: Path) -> None:
        self.command = Saving.command
        super().__init__(folder)
        shutil.copytree(ROOT / "book", folder / "book", ignore=shutil.ignore_patterns("_build"))
        for page in ("questions", "play"):
            (folder / "book" / f"{page}.md").write_text(f"# The page {page}\n")
        tiny_course.edit(folder / "book" / "_toc.yml", "01-source-article", "01-first")
        self.source.write_text(self.source.read_text().replace("s.seed * 3}", "s.seed * 2}"))
        self.command = Book.command
        self.run()
        tiny_course.edit(self.source, "Yes, it does.", "Yes, it does so.")

    def published(self) -> Any:
        super().published()
        html = self.folder / "book" / "_build" / "html"
        page = (html / "chapters" / "01-first.html").read_text()
        assert (html / "index.html").is_file() and page.rstrip().endswith("</html>")
        return "Yes, it does so." in page


class Grading(Task):
    """`labs grade` of three students: what is in the gradebook is a grade that somebody earned."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with labs_class.at_home(folder):
            self.course = labs_class.new_course(folder)
        self.command = [*NNOPT, "labs", "grade", "tiny", "--course", str(self.course.folder)]
        for student in ("ada", "bob", "eve"):
            labs_class.hand_in(self.course, student, labs_class.solved(student))
        self.earned = sum(self.course.most_points("tiny").values())

    def published(self) -> Any:
        points = {student: sum(cells.values()) for student, cells in self.course.points("tiny").items()}
        # Graded or not yet: never some of the points, unless no record says that it is finished.
        records = {path.stem for path in (self.course.folder / "graded" / "tiny").glob("*.json")}
        wrong = {student: points.get(student) for student in records if points.get(student) != self.earned}
        assert not wrong, wrong
        return len(records)


class Searching(Task):
    """A search: its records are whole, and it finds the same again."""

    command = [sys.executable, "-c", SEARCH]

    def published(self) -> Any:
        for file in (self.folder / "build" / "store").glob("*/*.json"):
            assert json.loads(file.read_text())["rows"]
        return None


# Faults: each is told about the process, and does its harm


def kill(process: subprocess.Popen[str], draw: random.Random) -> None:
    process.kill()


def terminate(process: subprocess.Popen[str], draw: random.Random) -> None:
    process.send_signal(draw.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)))


def fill_disk(process: subprocess.Popen[str], draw: random.Random) -> None:
    """No process of the command can write a file beyond some bytes from now on."""
    for one in _tree(process):
        with contextlib.suppress(psutil.Error):
            one.rlimit(psutil.RLIMIT_FSIZE, (draw.choice((0, 100, 4000)), 2**40))


def lose_worker(process: subprocess.Popen[str], draw: random.Random) -> None:
    below = _tree(process)[1:]
    if below:
        with contextlib.suppress(psutil.Error):
            draw.choice(below).kill()


def set_clock(process: subprocess.Popen[str], draw: random.Random) -> None:
    """It is another year for the command, and all files of its project are as old, or not written yet."""
    shift_seconds = draw.choice((-400, 400)) * 86_400
    with contextlib.suppress(psutil.Error):
        project = Path(psutil.Process(process.pid).cwd())
        (project / "clock" / "shift").write_text(str(shift_seconds))
        moment = time.time() + shift_seconds
        for file in project.rglob("*"):
            with contextlib.suppress(OSError):
                os.utime(file, (moment, moment))


FAULTS = (kill, kill, terminate, fill_disk, lose_worker, set_clock)
TASKS: tuple[type[Task], ...] = (Saving, Saving, Saving, Grading, Searching, Book)


def _tree(process: subprocess.Popen[str]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    return []


@contextlib.contextmanager
def at(task: Task) -> Iterator[None]:
    """Let this process look at the task's project."""
    before = dict(os.environ)
    os.environ |= {name: task.environment[name] for name in ("NNOPT_HOME", "NNOPT_BUILD")}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def one(task: Task, fault: Callable[..., None], after_seconds: float, draw: random.Random) -> str:
    """What went wrong with one fault at one moment; empty for nothing."""
    clock = task.folder / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(CLOCK)  # which Python imports when it starts
    paths = task.environment["PYTHONPATH"]
    if fault is set_clock:
        shifted = {"PYTHONPATH": f"{clock}{os.pathsep}{paths}", "SHIFTED_CLOCK": str(clock / "shift")}
        task.environment |= shifted
    with at(task):
        try:
            before = task.published() if not isinstance(task, Searching) else None
            process = task.start()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(after_seconds)
            if process.poll() is None:
                fault(process, draw)
            _, said = process.communicate(timeout=600)
            if "Traceback" in said and not isinstance(task, Searching):
                return f"it printed a trace: {said[-600:]}"
            between = task.published()
            task.environment["PYTHONPATH"] = paths
            task.run()
            after = task.published()
        except (Exception, SystemExit) as error:
            return f"{type(error).__name__}: {error}"
    if between not in (before, after) and not isinstance(task, Grading):
        return f"published {between!r} where {before!r} or {after!r} would be right"
    if isinstance(task, Grading) and after != 3:
        return f"{after} of 3 students have a grade after it was run again"
    return ""


def durations() -> dict[type[Task], float]:
    """How long each command takes without a fault."""
    seconds = {}
    for kind in dict.fromkeys(TASKS):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)  # sandboxes run as other accounts
            task = kind(Path(folder))
            began = time.monotonic()
            with at(task):
                task.run()
            seconds[kind] = time.monotonic() - began
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    seconds, wrong = durations(), 0
    for number in range(1, arguments.count + 1):
        kind, fault = TASKS[number % len(TASKS)], draw.choice(FAULTS)
        moment = draw.uniform(0, seconds[kind])
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            os.chmod(folder, 0o755)
            problem = one(kind(Path(folder)), fault, moment, draw)
        wrong += bool(problem)
        words = f"{kind.__name__}, {fault.__name__} after {moment:.1f} of {seconds[kind]:.1f} s"
        print(f"{number}/{arguments.count} {words}: {problem or 'fine'}", flush=True)
    print(f"{arguments.count} faults, {wrong} of them did harm")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
