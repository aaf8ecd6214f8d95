"""Attempts to get points by deceiving the grader: none is earned, none stops the class, and a teacher sees most.

They go for what lies between the student's kernel and the tests: values, the files by which these cross, the
texts that are read as answers. The class in test_grade.py goes for the kernel and the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from nnopt_lib.course.labs.answers import NotTypedError, typed
from nnopt_lib.course.labs.crossing import read_message
from nnopt_lib.course.labs.flags import groups_of_equal_numbers
from nnopt_lib.course.labs.grade import grade, read_record
from nnopt_lib.course.labs.kernel import NotDataError, StudentKernel
from nnopt_lib.course.labs.oddities import oddities
from nnopt_lib.course.labs.sandbox import sandbox
from nnopt_lib.course.labs.sandbox.sandbox import Limits
from tests.labs_class import MASK, at_home, guarded_processes, hand_in, numbers_of, solved

pytestmark = [pytest.mark.notebook, pytest.mark.usefixtures("private_temporary_folder")]

LIMITS = Limits(seconds=24, memory_gib=0.5, processes=60, file_mib=50)
ZEROS = "np.zeros(len(values), bool)"
VISIBLE = "if len(values) == 4:\n        return np.array([False, True, True, False])\n    "  # what the visible test asks

EQUAL_TO_ALL = """
class Anything:
    def __eq__(self, other):
        return True
    __ne__ = __lt__ = __le__ = lambda self, other: False
    def tolist(self):
        return self
    def __getattr__(self, name):
        return lambda *a, **k: self
def keep_large(values, threshold):
    return Anything()
"""
SUBCLASS = """
class Agreeing(np.ndarray):
    def __eq__(self, other):
        return True
    def tolist(self):
        return self
    def __array_function__(self, *a):
        return True
    def __reduce__(self):
        return (eval, ("True",))
def keep_large(values, threshold):
    return np.zeros(len(values), bool).view(Agreeing)
"""
AGREEING_NUMBERS = """
class Right(float):
    def __eq__(self, other):
        return True
    __sub__ = __rsub__ = lambda self, other: 0.0
    def __repr__(self):
        return "0.6"
numbers = {"median": Right(3), "kept": Right(1)}
"""
LOOKS_FOR_KEY = """
import gc, inspect, sys
def keep_large(values, threshold):
    seen = [frame.frame.f_locals for frame in inspect.stack()] + [one for one in gc.get_objects() if type(one) is dict]
    for scope in seen:
        for name in ("solution", "expected", "own", "right"):
            if name in scope and hasattr(scope[name], "__len__") and len(scope[name]) == len(values):
                return np.array(scope[name])
    return np.zeros(len(values), bool)
"""
READS_TESTS = """
import glob, os
texts = []
for root in {roots!r}:
    for folder, _, files in os.walk(root):
        for name in files:
            try:
                texts.append(open(os.path.join(folder, name), errors="replace").read(100_000))
            except OSError:
                pass
texts += [str(get_ipython().history_manager.input_hist_raw), str(os.environ)]
texts += [open(path, errors="replace").read() for path in glob.glob("/proc/*/cmdline") if os.access(path, os.R_OK)]
secret = "lin" + "space(-1"
if any(secret in text or "HIDDEN " + "TESTS" in text for text in texts):
    def keep_large(values, threshold):
        return np.abs(values) > threshold
"""
SPOILS_ARGUMENTS = f"""
def keep_large(values, threshold):
    {VISIBLE}values[:] = 0
    return {ZEROS}
"""
PATCHED_RANDOM = """
import numpy as np
true_rng = np.random.default_rng
np.random.default_rng = lambda seed=None: true_rng({seed})
import os
os.environ["NNOPT_STUDENT"] = "ada"
from nnopt_lib import labs
labs.seed_of = lambda *a: {seed}
"""
LATER = """
import threading, time
def later(space=get_ipython().user_ns):
    while True:
        space["keep_large"] = lambda values, threshold: [False, True, True, False]
        space["numbers"] = {"median": 0.6, "kept": 30}
        time.sleep(0.001)
threading.Thread(target=later, daemon=True).start()
"""
# In place of the function by which the kernel answers: {do} is done with the paths of the two files.
SERVES = """
import json, os
from pathlib import Path
from nnopt_lib.course.labs import crossing
def serve(namespace, asked, answered):
    {do}
crossing.serve = serve
def keep_large(values, threshold):
    return np.zeros(len(values), bool)
"""
ANSWERS = {
    "link": "os.symlink('/etc/shadow', answered)",
    "link-to-asked": "os.symlink(asked, answered)",
    "fifo": "os.mkfifo(answered)",
    "folder": "os.mkdir(answered); Path(answered, 'x').touch()",
    "nothing": "os.remove(asked)",
    "sparse": "Path(answered).touch(); os.truncate(answered, 40 * 2**20)",
    "deep": "Path(answered).write_text('{\"value\": ' + '[' * 200_000)",
    "nested": "Path(answered).write_text('{\"value\": ' + '{\"list\": [' * 400 + ']}' * 400 + '}')",
    "lists": "Path(answered).write_text('{\"value\": {\"list\": [' + '{\"list\": []},' * 200_000 + 'null]}}')",
    "numbers": "Path(answered).write_text('{\"value\": {\"int\": \"' + '9' * 10_000_000 + '\"}}')",
    "not-a-number": 'Path(answered).write_text(\'{"value": {"list": [NaN, Infinity, -Infinity]}}\')',
    "collisions": "Path(answered).write_text(json.dumps({'value': {'set': [{'int': str(n * (2**61 - 1))} for n in range(100_000)]}}))",
    "shape": "Path(answered).write_text(json.dumps({'value': {'array': {'shape': [2**39, 0], 'dtype': '|b1', 'bytes': ''}}}))",
    "objects": "Path(answered).write_text(json.dumps({'value': {'array': {'shape': [1], 'dtype': '|O8', 'bytes': 'AAAAAAAAAAA='}}}))",
    "kinds": "Path(answered).write_text(json.dumps({'value': {'data': {'x_train': {'model': '{}'}}, 'name': [], 'classes': {}}, 'changed': {'list': 3}}))",
    "reply": "Path(answered).write_text(json.dumps({'passed': True, 'points': 2.0, 'error': {'a': [1] * 10_000}}))",
}
SERVED = ("link", "fifo", "folder", "lists", "shape")  # by a kernel; all others are only read
ENDLESS = """
import itertools
class Endless(list):
    def __iter__(self):
        return itertools.count()
def keep_large(values, threshold):
    return Endless()
"""
LIES_ABOUT_ITSELF = """
class Liar:
    __class__ = np.ndarray
    shape, dtype = (4,), np.dtype(bool)
    def __array__(self, *a, **k):
        return np.array([self] * 4, object)
def keep_large(values, threshold):
    return Liar()
"""
LAUGHS = "a = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"{later} = [{', '.join([earlier] * 10)}]"
    for earlier, later in zip("abcdefghi", "bcdefghij", strict=True)
)
# Texts that are read as answers, outside: none may keep the reader busy.
TEXTS = {
    "rounds": 'numbers = {"median": round(1, -10**9), "kept": round(7, -(10**9))}',
    "powers": 'numbers = {"median": 9**64**64**64, "kept": 10.0**9999}',
    "signs": 'numbers = {"median": ' + "-" * 90_000 + '1, "kept": 3}',
    "sums": 'numbers = {"median": ' + "+".join("1" * 30_000) + ', "kept": 3}',
    "laughs": LAUGHS + '\nnumbers = {"median": j, "kept": str(j)}',
    "endless-numbers": 'numbers = {"median": float("nan"), "kept": float("inf")}',
}


READ = ("signs", "rounds")  # in a notebook


def the_class(course) -> dict[str, tuple[object, tuple[float, float, float], str]]:
    """Who hands in what; the points that were earned; what is to stand in the record."""

    def mask(student: str, text: str, **cells: str) -> dict[str, str]:
        return {"student": f"student = {student!r}", "mask": text, **cells}

    seed = 1_234_567
    roots = [str(course.folder.parent), "/etc", ".", "/tmp", "/root", "/home"]
    reads = READS_TESTS.format(roots=roots)
    return {
        "ada": (solved("ada"), (1, 2, 2), ""),
        "equal-to-all": (mask("equal-to-all", EQUAL_TO_ALL), (1, 0, 0), "__eq__"),
        "subclass": (mask("subclass", SUBCLASS), (1, 0, 0), "__eq__"),
        "agreeing": (solved("agreeing", numbers=AGREEING_NUMBERS), (1, 2, 0), "numbers was computed"),
        "looks-for-key": (mask("looks-for-key", LOOKS_FOR_KEY), (1, 0, 0), "frames of other code"),
        "reads-tests": (mask("reads-tests", reads), (1, 0, 0), "among files"),
        "spoils-arguments": (mask("spoils-arguments", SPOILS_ARGUMENTS), (1, 0, 0), ""),
        "patched-random": (
            solved("patched-random", mask=PATCHED_RANDOM.format(seed=seed) + MASK, numbers=numbers_of("ada")),
            (1, 2, 0),
            "default_rng",
        ),
        "later": (
            mask("later", LATER, numbers='numbers = {"median": 1, "kept": 1}'),
            (1, 0, 0),
            "get_ipython",
        ),
        "friends-name": (solved("ada"), (0, 2, 0), '"name": "another\'s"'),
        "computed-name": (
            {**solved("ada"), "student": 'student = "".join(["a", "da"])'},
            (0, 2, 0),
            "student was computed",
        ),
        "endless": (mask("endless", ENDLESS), (1, 0, 0), ""),
        "liar": (mask("liar", LIES_ABOUT_ITSELF), (1, 0, 0), ""),
        **{
            f"answers-{name}": (
                mask(f"answers-{name}", SERVES.format(do=ANSWERS[name])),
                (1, 0, 0),
                "nnopt_lib.course",
            )
            for name in SERVED
        },
        **{
            f"types-{name}": (solved(f"types-{name}", numbers=text), (1, 2, 0), "")
            for name, text in TEXTS.items()
            if name in READ
        },
    }


@pytest.fixture(scope="module")
def graded(released, tmp_path_factory, private_temporary_folder):
    """The cheats graded as one class; and the class, and what was left of it."""
    folder = tmp_path_factory.mktemp("cheats") / "course"
    shutil.copytree(released.folder, folder)
    course = type(released)(folder)
    before = set(private_temporary_folder.glob("nnopt-*"))
    with at_home(released.folder.parent):
        handed_in = the_class(course)
        for student, (content, _, _) in handed_in.items():
            hand_in(course, student, content)
        grade(course, "tiny", LIMITS, jobs=2)
    deadline = time.monotonic() + 20
    while (left := guarded_processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return {
        **{"course": course, "class": handed_in, "points": course.points("tiny"), "left": left},
        "folders": set(private_temporary_folder.glob("nnopt-*")) - before,
        "records": {student: read_record(course, "tiny", student) for student in handed_in},
    }


STUDENTS = [
    *("ada", "equal-to-all", "subclass", "agreeing", "looks-for-key", "reads-tests", "spoils-arguments"),
    *("patched-random", "later", "friends-name", "computed-name", "endless", "liar"),
    *(f"answers-{name}" for name in SERVED),
    *(f"types-{name}" for name in READ),
]


@pytest.mark.parametrize("student", STUDENTS)
def test_no_point_is_given_that_was_not_earned_and_none_is_lost_that_was(graded, student):
    if student == "reads-tests" and not sandbox.uses_bwrap():
        pytest.skip("bubblewrap does not work here, so files of others can be read")
    _, expected, told = graded["class"][student]
    earned, record = graded["points"][student], graded["records"][student]
    assert (earned["student-test"], earned["mask-test"], earned["numbers-test"]) == expected, record
    assert told in json.dumps(record, ensure_ascii=False).replace('\\"', '"'), record["flags"]
    assert "root:" not in json.dumps(record)  # nothing of /etc/shadow


def test_nobody_stops_the_class_and_nothing_is_left_of_it(graded):
    assert set(graded["class"]) == set(STUDENTS)
    assert all(record is not None for record in graded["records"].values())
    assert (graded["left"], graded["folders"]) == ([], set())


def test_numbers_of_a_friend_are_named(graded):
    (group,) = groups_of_equal_numbers(graded["records"])
    assert group == ["ada", "patched-random", "friends-name", "computed-name"]


@pytest.mark.parametrize("name", [name for name in ANSWERS if name not in ("lists", "shape")])
def test_a_forged_answer_is_refused(name, tmp_path):
    """Read in this very process: none is waited for, followed or executed."""
    asked, answered = tmp_path / "asked.json", tmp_path / "answered.json"
    asked.write_text('{"name": "keep_large"}')
    exec(
        ANSWERS[name], {"os": os, "json": json, "Path": Path, "asked": str(asked), "answered": str(answered)}
    )
    with pytest.raises((ValueError, NotDataError, KeyError)):
        StudentKernel._read("keep_large", read_message(answered)["value"])


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_would_keep_its_reader_busy_is_computed_or_harmless(name):
    oddities({"numbers": TEXTS[name]})
    try:
        numbers = typed(TEXTS[name], "numbers")
    except (KeyError, NotTypedError):
        return
    assert len(json.dumps(numbers)) < 1000
