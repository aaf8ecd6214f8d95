"""A notebook being graded: which cells run, how often, what is judged by what, and what a broken cell costs."""

from __future__ import annotations

import dataclasses

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nnopt_lib.course.labs import attempt as lab_attempt
from nnopt_lib.course.labs.attempt import HIDDEN, Attempt, Student, typed_in
from nnopt_lib.course.labs.examine import Examiner
from nnopt_lib.course.labs.kernel import BrokenKernelError, NotDataError, UndefinedError
from nnopt_lib.course.labs.sandbox.sandbox import Limits


def cell(source: str, name: str = "", *, grade: bool = False, solution: bool = False):
    marks = {"grade_id": name, "grade": grade, "solution": solution, "locked": grade, "schema_version": 3}
    return new_code_cell(source, metadata={"nbgrader": {**marks, "points": 2}} if name else {})


LIMITS = Limits()
FUNCTION_TEST = """print("visible")
### BEGIN HIDDEN TESTS
assert f(1) == 2
### END HIDDEN TESTS
"""
SOURCE = {
    "student": "import os\nstudent = os.environ['NNOPT_STUDENT']",
    "student-test": "import os\nassert student == os.environ['NNOPT_STUDENT'], 'another name'",
    "f": "def f(x):\n    return x + 1",
    "f-test": FUNCTION_TEST,
    "numbers": "numbers = {'a': 1, 'b': 2}",
    "numbers-test": "from nnopt_lib import labs\nlabs.mark(numbers, {'a': (1, 0), 'b': (2, 0)}, points=2)",
}
SOLVED = {**SOURCE, "student": "student = 'ada'"}


def notebook(cells=None, *, before=(), after=()):
    """The lab's cells, some replaced (None: without), between cells of the student's own."""
    cells = {**SOURCE, **(cells or {})}
    marked = [
        cell(source, name, grade=name.endswith("-test"), solution=not name.endswith("-test"))
        for name, source in cells.items()
        if source is not None
    ]
    return new_notebook(cells=[*map(cell, before), *marked, *map(cell, after)])


class Kernel:
    """A kernel in this very process: what cells call `broken`, `final` and `slow` is what breaks one."""

    started: list[Kernel] = []

    def __init__(self, limits, threads, student, files, left):
        self.limits, self.left, self.student, self.ran = limits, left, student, []
        self.started.append(self)

    def __enter__(self):
        self.names = {name: self.breaking(name) for name in ("broken", "final", "timed out after 9 s")}
        self.names["timed_out"] = self.names["timed out after 9 s"]
        return self

    def __exit__(self, *_):
        pass

    @staticmethod
    def breaking(reason):
        def end(*_):
            raise BrokenKernelError(reason, final=reason != "broken")

        return end

    def run(self, one):
        self.ran.append(one.source)
        try:
            exec(one.source, self.names)
        except BrokenKernelError:
            raise
        except Exception:
            return False
        return True

    def knows(self, name):
        return name in self.names

    def value(self, name):
        if name not in self.names:
            raise UndefinedError(name)
        return self.names[name]

    def call(self, name, arguments, options):
        try:
            return self.names[name](*arguments, **options)
        except BrokenKernelError:
            raise
        except Exception as error:
            raise NotDataError(f"{name} raised {type(error).__name__}") from None


@pytest.fixture
def kernels(monkeypatch):
    """The kernels that were started, in their order."""
    monkeypatch.setattr(lab_attempt, "StudentKernel", Kernel)
    monkeypatch.setattr(Kernel, "started", [])
    return Kernel.started


def attempted(nb, accepted: str = "ada", limits: Limits = LIMITS, **source) -> Attempt:
    with Examiner(notebook(source), "ada") as examiner:
        attempt = Attempt(nb, Student("ada", accepted), examiner, limits)
        attempt.run(1, None)
    attempt.notes = attempt.show()
    return attempt


def points(attempt: Attempt) -> dict[str, float]:
    """What nbgrader reads from the outputs of each test."""
    from nbgrader.utils import determine_grade

    tests = [one for one in attempt.nb.cells if one.metadata.get("nbgrader", {}).get("grade")]
    return {one.metadata.nbgrader.grade_id.split("-")[0]: determine_grade(one)[0] for one in tests}


ALL = {"student": 2, "f": 2, "numbers": 2}


def test_a_solved_notebook_has_all_points_and_runs_once(kernels):
    attempt = attempted(notebook(SOLVED, before=["own = 1"]))
    assert points(attempt) == ALL
    assert (attempt.failure, attempt.left_out, attempt.notes, attempt.computed) == ("", {}, {}, set())
    (kernel,) = kernels
    assert kernel.student == "ada" and kernel.ran[0] == "own = 1"
    assert not any("assert f" in source for source in kernel.ran), "a hidden test met the student's kernel"
    assert 'print("visible")\n\n' in kernel.ran


def test_an_empty_notebook_has_none_and_nothing_of_the_solution_s(kernels):
    attempt = attempted(notebook(dict.fromkeys(("student", "f", "numbers"), "")))
    assert points(attempt) == {"student": 0, "f": 0, "numbers": 0}
    assert attempt.notes == {f"{name}-test": f"not defined: {name}" for name in ALL}


def test_a_broken_cell_is_left_out_and_the_others_run_again(kernels):
    attempt = attempted(notebook(SOLVED, before=["own = 1", "broken()", "last = own + 1"]))
    assert points(attempt) == ALL
    assert attempt.left_out == {1: "cell 2 broken"} and attempt.failure == ""
    first, second = kernels
    assert first.ran == ["own = 1", "broken()"] and second.ran[:2] == ["own = 1", "last = own + 1"]


def test_a_broken_cell_of_the_lab_costs_what_it_was_worth(kernels):
    attempt = attempted(notebook({**SOLVED, "f": "def f(x):\n    return 2\nbroken()"}))
    assert points(attempt) == {**ALL, "f": 0}
    assert attempt.notes == {"f-test": "not defined: f"} and attempt.left_out == {2: "cell f broken"}


def test_a_function_that_breaks_its_kernel_while_it_is_tested_costs_that_test(kernels):
    attempt = attempted(notebook({**SOLVED, "f": "def f(x):\n    broken()"}), numbers="numbers = {}")
    assert points(attempt) == {**ALL, "f": 0}
    assert attempt.notes["f-test"] == "what it tests broken"
    assert len(kernels) == 2 and 'print("visible")\n\n' not in kernels[1].ran


def test_a_kernel_is_started_six_times_and_typed_answers_count_all_the_same(kernels):
    attempt = attempted(notebook(SOLVED, before=["broken()"] * 7))
    assert len(kernels) == 6 and attempt.failure == "broke its kernel 6 times"
    assert points(attempt) == {**ALL, "f": 0}
    assert attempt.notes == {
        "f-test": "not run, since grading stopped: the notebook broke its kernel 6 times"
    }


def test_what_endangers_the_machine_ends_grading(kernels):
    attempt = attempted(notebook(SOLVED, before=["1", "final()"]))
    assert len(kernels) == 1 and attempt.failure == "final, in cell 2"
    assert points(attempt) == {"student": 0, "f": 0, "numbers": 0}
    assert set(attempt.notes.values()) == {"not run, since grading stopped: the notebook final, in cell 2"}


def test_typed_answers_count_when_time_is_over(kernels):
    attempt = attempted(notebook({**SOLVED, "f": "timed_out()"}), limits=Limits(seconds=9))
    assert attempt.failure == "timed out after 9 s, in cell f"
    assert points(attempt) == {**ALL, "f": 0}
    assert attempt.notes == {
        "f-test": "not run, since grading stopped: the notebook timed out after 9 s, in cell f"
    }
    attempt = attempted(
        notebook({**SOLVED, "f": "timed_out()", "numbers": "numbers = dict(zip('ab', (1, 2)))"})
    )
    assert points(attempt) == {"student": 2, "f": 0, "numbers": 0}  # what was computed went with the kernel


def test_time_is_counted_over_all_starts(kernels, monkeypatch):
    times = iter([0.0, 0.0, 70.0, 130.0])
    monkeypatch.setattr(lab_attempt.time, "monotonic", lambda: next(times))
    attempt = attempted(notebook(SOLVED, before=["broken()", "broken()"]), limits=Limits(seconds=100))
    assert [one.left for one in kernels] == [100, 30]
    assert [one.limits.seconds for one in kernels] == [100, 100]  # a cell has its part of the whole
    assert attempt.failure == "timed out after 100 s, in cell 2"


def test_what_is_defined_after_its_test_counts(kernels):
    nb = notebook({**SOLVED, "f": "", "numbers": ""}, after=["def f(x):\n    return 2", SOLVED["numbers"]])
    attempt = attempted(nb)
    assert points(attempt) == ALL and (attempt.notes, attempt.computed) == ({}, set())


def test_what_was_wrong_at_its_test_is_not_judged_again_by_what_comes_later(kernels):
    attempt = attempted(notebook({**SOLVED, "numbers": "numbers = {'a': 1}"}, after=[SOLVED["numbers"]]))
    assert points(attempt)["numbers"] == 1


def test_a_late_definition_that_breaks_its_kernel_is_no_reason_to_start_for_ever(kernels):
    attempt = attempted(notebook({**SOLVED, "f": ""}, after=["def f(x):\n    broken()"]))
    assert points(attempt) == {**ALL, "f": 0} and len(kernels) == 2
    assert attempt.failure == ""


def test_answers_are_read_from_the_text_and_computed_ones_are_flagged(kernels):
    # What the kernel says of a typed answer does not matter.
    attempt = attempted(
        notebook({**SOLVED, "numbers": "numbers = {'a': 1, 'b': 5}"}, after=["numbers['b'] = 2"])
    )
    assert points(attempt)["numbers"] == 1 and attempt.computed == set()
    for source in ("numbers = dict(zip('ab', (1, 2)))", "exec(\"numbers = {'a': 1, 'b': 2}\")"):
        attempt = attempted(notebook({**SOLVED, "numbers": source}))
        assert points(attempt) == ALL and attempt.computed == {"numbers"}


def test_the_name_that_is_accepted_is_the_one_for_the_test_of_the_name(kernels):
    attempt = attempted(notebook(SOLVED), accepted="ada-1")
    assert points(attempt) == {**ALL, "student": 0} and attempt.notes == {"student-test": "another name"}


def test_what_a_function_raises_is_its_note(kernels):
    attempt = attempted(notebook({**SOLVED, "f": "def f(x):\n    return 1 / 0"}))
    assert points(attempt) == {**ALL, "f": 0} and attempt.notes == {"f-test": "f raised ZeroDivisionError"}


def test_a_released_test_that_the_source_no_longer_has_gets_nothing_from_the_solution(kernels):
    empty = dict.fromkeys(("student", "f", "numbers"), "")
    for cells, expected in ((empty, dict.fromkeys(ALL, 0)), (SOLVED, ALL)):
        attempt = attempted(notebook(cells), **{"f-test": None, "student-test": None})
        assert points(attempt) == expected


def test_a_test_that_was_judged_is_not_judged_again_after_a_new_start(kernels, monkeypatch):
    judged = []
    judge = Examiner.judge
    monkeypatch.setattr(Examiner, "judge", lambda *all_: (judged.append(all_[1]), judge(*all_))[1])
    assert points(attempted(notebook(SOLVED, after=["broken()"]))) == ALL
    assert len(kernels) == 2 and len(judged) == 3


def test_points_stay_within_what_a_test_gives(kernels):
    for text, expected in (("99", 2), ("-5", 0), ("1.5", 1.5), ("float('nan')", 0)):
        nb = notebook({**SOLVED, "numbers-test": f"numbers\n{text}"})
        assert points(attempted(nb))["numbers"] == expected


HIDDEN_TESTS = {
    "a\n### BEGIN HIDDEN TESTS\nb\n### END HIDDEN TESTS\nc": "a\n\nc",
    "a\n# BEGIN HIDDEN TESTS here\nb\n#END HIDDEN TESTS there\nc": "a\n\nc",
    "    ### BEGIN HIDDEN TESTS\n    b\n    ### END HIDDEN TESTS": "",
    "a\n### BEGIN HIDDEN TESTS\nb": "a\n",
    "### BEGIN HIDDEN TESTS\nb\n### END HIDDEN TESTS\nc\n### BEGIN HIDDEN TESTS\nd\n### END HIDDEN TESTS": "\nc\n",
    "a": "a",
}


@pytest.mark.parametrize("source", HIDDEN_TESTS)
def test_hidden_tests_are_taken_out_as_nbgrader_reads_them(source):
    assert HIDDEN.sub("", source) == HIDDEN_TESTS[source]


def test_typed_answers_come_from_the_students_cells_only():
    cells = [cell("x = 1"), new_markdown_cell("x = 2"), cell("x = 3", "x-test", grade=True), cell("y = 1")]
    assert typed_in(cells, "x") == 1
    with pytest.raises(KeyError):
        typed_in(cells[1:], "x")


@pytest.mark.notebook
def test_a_real_kernel_goes_on_after_a_cell_that_ended_it(private_temporary_folder):
    cells = {**SOLVED, "f": "def f(x):\n    return x + len(kept)"}
    nb = notebook(cells, before=["kept = [1]", "import os; os._exit(1)"], after=["print(kept)"])
    attempt = attempted(nb, limits=dataclasses.replace(Limits(), seconds=60))
    assert points(attempt) == ALL
    assert list(attempt.left_out.values()) == ["cell 2 killed its kernel"]
    assert attempt.nb.cells[-1].outputs[0].text == "[1]\n"
