"""What honest students hand in, kind by kind, with the points that a fair reader gives; the tiny lab.

A kind is a way of solving or typing, not a student: `Kind.make` builds the notebook. Points are those of the three
exercises, `student` of 1, `mask` and `numbers` of 2, worked out before anything was graded, by reading.
`odd_kinds.py` has the notebooks that came out oddly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from nnopt_lib import labs
from nnopt_lib.course.labs.gradebook import Course
from tests.labs_class import MASK, Notebook, hand_in, numbers_of

FULL = (1.0, 2.0, 2.0)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of submission.

    `id` is the student's, too; `typed` what stands in the first cell, where it is not the id. `expected` are the
    points by exercise; `judgement` says why, where readers could differ; `told` is what the record must say. What is
    not tried `often` is much like another kind, and left to the weekly run.
    """

    id: str
    says: str
    make: Callable[[Course, str], Notebook | bytes]
    expected: tuple[float, float, float] = FULL
    typed: str = ""
    judgement: str = ""
    told: str = ""
    often: bool = True

    @property
    def name(self) -> str:
        """The name that the student works under."""
        return self.typed or self.id


def solved(course: Course, name: str, **cells: str) -> Notebook:
    """The released notebook with everything solved in the name of `name`, some cells otherwise."""
    usual = {"student": f"student = {name!r}", "mask": MASK, "numbers": numbers_of(name)}
    return Notebook(course, {**usual, **cells})


def with_cells(**cells: str) -> Callable[[Course, str], Notebook]:
    """A maker of solved notebooks with these cells otherwise; ``{median}``, ``{kept}``, ``{name}`` are put in."""

    def make(course: Course, name: str) -> Notebook:
        values = own_numbers(name)
        return solved(course, name, **{cell: _put_in(text, values) for cell, text in cells.items()})

    return make


def with_extra(source: str, *, before: str = "numbers", times: int = 1) -> Callable[[Course, str], Notebook]:
    """A maker of solved notebooks with a cell of the student's own in front of the cell `before`."""

    def make(course: Course, name: str) -> Notebook:
        notebook = solved(course, name)
        for number in range(times):
            insert(notebook, before, own_cell(source, f"own-{number}"))
        return notebook

    return make


def own_cell(source: str, cell_id: str = "own", kind: str = "code") -> dict[str, Any]:
    """A cell that a student made."""
    cell: dict[str, Any] = {"cell_type": kind, "id": cell_id, "metadata": {}, "source": source}
    return {**cell, "execution_count": None, "outputs": []} if kind == "code" else cell


def insert(notebook: Notebook, before: str, *cells: dict[str, Any], after: bool = False) -> None:
    """Put cells before, or after, the one called `before`."""
    at = notebook.cells.index(notebook.cell(before)) + after
    notebook.cells[at:at] = cells


def own_numbers(name: str) -> dict[str, str]:
    """What goes in for ``{median}``, ``{kept}`` and the like, as text."""
    values = np.abs(np.random.default_rng(labs.seed_of(name)).normal(size=100))
    median, kept = float(np.median(values)), int((values > 1).sum())
    more = {"doubled": f"{2 * median:.9f}", "typo": f"{median + 0.1:.6f}", "gone": str(100 - kept)}
    return {"name": name, "median": f"{median:.9f}", "short": f"{median:.6f}", "kept": str(kept), **more}


def _put_in(text: str, values: dict[str, str]) -> str:
    for key, value in values.items():
        text = text.replace("{" + key + "}", value)
    return text


def hand_in_all(course: Course, kinds: list[Kind]) -> None:
    """The roster and the notebooks of all kinds, where collecting puts them."""
    lines = ["id,name,aliases,section,platform id", *ROSTER]
    (course.folder / "students.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for kind in kinds:
        hand_in(course, kind.id, kind.make(course, kind.name))


ROSTER = [
    'apostrophe,"Seán O\'Dónaill",,A,',
    'comma,"Varga, Ilona",,A,',
    "accent,Jürgen Weiß,,B,",
    "case,Priya Raman,,B,",
    "space,Tomás Ferreira,,B,",
    "renamed,Nguyễn Thị Hà,Ha Nguyen;hnguyen3,B,",
]
LAMBDA = "keep_large = lambda values, threshold: abs(values) > threshold"
CALLABLE = """\
class KeepLarge:
    def __init__(self, size):
        self.size = size

    def __call__(self, values, threshold):
        return self.size(values) > threshold

keep_large = KeepLarge(np.abs)"""
RECURSION = """\
def keep_large(values, threshold):
    if len(values) == 0:
        return np.zeros(0, dtype=bool)
    first = np.array([values[0] > threshold or -values[0] > threshold])
    return np.concatenate([first, keep_large(values[1:], threshold)])"""
HELPERS = """\
from functools import partial

def magnitude(x):
    return (x ** 2) ** 0.5

def above(border, x):
    return magnitude(x) > border

def keep_large(values, threshold):
    return np.array(list(map(partial(above, threshold), values)))"""
TYPED = """\
from __future__ import annotations
from collections.abc import Sequence
import numpy.typing as npt

def keep_large(values: Sequence[float] | npt.NDArray[np.float64], threshold: float, *, strict: bool = True) -> npt.NDArray[np.bool_]:
    \"\"\"Which are large?\"\"\"
    if (n := len(values)) == 0:
        return np.empty(0, bool)
    result: npt.NDArray[np.bool_] = np.greater(np.abs(np.asarray(values)), threshold)
    assert result.shape == (n,)
    return result"""
IN_PLACE = """\
def keep_large(values, threshold):
    np.abs(values, out=values)
    values -= threshold
    result = values > 0
    values += threshold
    return result"""
OWN_NAMES = """\
abs = [1, 2]
set = {1}
sum = 0
list = "a list"
print = None
def keep_large(values, threshold):
    sum = np.sqrt(values * values)
    return sum > threshold"""
TWO_TRIES = """\
# def keep_large(values, threshold):
#     return values > threshold   <- forgot the negative ones!!
def keep_large(values, threshold):
    return values > threshold
def keep_large(v, t):   # second try
    return np.logical_or(v > t, v < -t)"""
TALKATIVE = """\
import warnings
def keep_large(values, threshold):
    print("called with", values, threshold)
    warnings.warn("careful")
    mask = np.zeros(len(values), dtype=bool)
    for i, v in enumerate(values):
        print(i, v)
        mask[i] = abs(v) > threshold
    return mask"""
PLOTS = """\
%matplotlib inline
import matplotlib.pyplot as plt
fig, ax = plt.subplots(2)
ax[0].hist(weights, bins=20)
ax[1].plot(sorted(abs(weights)))
plt.show()"""

# fmt: off
HONEST = [
    Kind("array", "one line of NumPy, numbers as literals", with_cells()),
    Kind("where", "`np.where`, with whole numbers 0 and 1 for False and True", with_cells(mask="def keep_large(values, threshold):\n    return np.where(np.abs(values) > threshold, 1, 0)"), often=False),
    Kind("lambda", "a lambda instead of a function", with_cells(mask=LAMBDA), often=False),
    Kind("class", "an object that can be called", with_cells(mask=CALLABLE), often=False),
    Kind("vectorized", "`np.vectorize` of a function of one number", with_cells(mask="@np.vectorize\ndef keep_large(value, threshold):\n    return bool(abs(value) > threshold)"), often=False),
    Kind("recursion", "recursion, one value at a time", with_cells(mask=RECURSION), often=False),
    Kind("helpers", "several functions of one's own, put together", with_cells(mask=HELPERS), often=False),
    Kind("type-hints", "type hints, a docstring, an option more, an own assertion", with_cells(mask=TYPED), often=False),
    Kind("in-place", "works in its argument, and leaves absolute values there", with_cells(mask=IN_PLACE)),
    Kind("list", "returns a list where an array was asked", with_cells(mask="def keep_large(values, threshold):\n    return [bool(abs(value) > threshold) for value in values]"), (1, 0, 2), judgement="the visible test calls `.tolist()` and fails for the student, too"),
    Kind("own-names", "variables called `sum`, `set`, `abs`, `list`, `print`", with_cells(mask=OWN_NAMES)),
    Kind("two-tries", "the first try left above the second, parameters renamed", with_cells(mask=TWO_TRIES), often=False),
    Kind("talkative", "prints and warns inside the function", with_cells(mask=TALKATIVE), often=False),
    Kind("wrong-mask", "forgot negative values: passes nothing, numbers measured all the same", with_cells(mask="def keep_large(values, threshold):\n    return values > threshold"), (1, 0, 2), judgement="the numbers are right, however they were come by"),
    Kind("numpy-scalars", "numbers pasted as NumPy 2 prints them", with_cells(numbers='numbers = {"median": np.float64({median}), "kept": np.int64({kept})}')),
    Kind("dict-call", "`dict(median=..., kept=...)`", with_cells(numbers="numbers = dict(median={median}, kept={kept})")),
    Kind("item-by-item", "an empty dictionary filled line by line", with_cells(numbers="numbers = {}\nnumbers['median'] = {median}\nnumbers['kept'] = {kept}"), often=False),
    Kind("six-digits", "rounded to six digits, as printed", with_cells(numbers='numbers = {"kept": {kept}, "median": {short}}  # from above'), often=False),
    Kind("arithmetic", "arithmetic between literals", with_cells(numbers='numbers = {"median": {doubled} / 2, "kept": 100 - {gone}}'), often=False),
    Kind("named-first", "literals named first, then put together", with_cells(numbers='m = {median}\nk = {kept}\nnumbers = {"median": round(m, 8), "kept": k}'), often=False),
    Kind("computed", "computed in the cell instead of typed", with_cells(numbers='numbers = {"median": np.median(abs(weights)), "kept": sum(keep_large(weights, 1.0))}'), told="numbers was computed"),
    Kind("float-count", "a count written as 25.0", with_cells(numbers='numbers = {"median": {median}, "kept": {kept}.0}'), often=False),
    Kind("typo", "one of two numbers wrong", with_cells(numbers='numbers = {"median": {typo}, "kept": {kept}}'), (1, 2, 1), judgement="half of the exercise is right"),
    Kind("one-number", "one of two numbers left out", with_cells(numbers='numbers = {"median": {median}}'), (1, 2, 1), judgement="half of the exercise is there", often=False),
    Kind("extra-number", "a number more than was asked", with_cells(numbers='numbers = {"median": {median}, "kept": {kept}, "mean": 0.8}'), often=False),
    Kind("optional-import", "`import seaborn`, not installed where grading runs, in a cell of its own", with_extra("import seaborn as sns\nsns.set_theme()", before="mask")),
    Kind("many-lines", "prints two mebibytes", with_extra("for n in range(20_000):\n    print('step', n, 'x' * 90)"), often=False),
    Kind("plots", "plots of one's own, with a magic", with_extra(PLOTS), often=False),
    Kind("scratch-fails", "scratch cells that fail", with_extra("weights[1000] / 0\nundefined_name", times=3), often=False),
    Kind("overwritten", "overwrites `weights` and `seed` after measuring", with_extra("weights = weights[:3]; seed = 0; student_name = 1", before="numbers-test"), often=False),
    Kind("nothing-in-words", "an answer in words that is long, in Chinese and with formulas", with_cells(words="大的权重更重要,因为 $|w| x$ 更大。\n\n" * 50), often=False),
    Kind("apostrophe", "a name with an apostrophe and an accent", with_cells(), typed="Seán O'Dónaill", often=False),
    Kind("comma", "family name first, with a comma, as the list has it", with_cells(), typed="Varga, Ilona"),
    Kind("accent", "the accents left out", with_cells(), typed="Jurgen Weiss", often=False),
    Kind("case", "the name in capitals", with_cells(), typed="PRIYA RAMAN", often=False),
    Kind("space", "spaces around and inside the name", with_cells(), typed="  Tomás  Ferreira ", often=False),
    Kind("renamed", "the name that the platform made of it", with_cells(), typed="hnguyen3"),
    Kind("nickname", "a name that nobody in the class has", with_cells(), (0, 2, 2), typed="the pruner", judgement="the name is what that point is for; the numbers follow from it"),
]
# fmt: on
