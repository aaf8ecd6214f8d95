"""The trusted side: the lab's own solution as the student, and tests that never take it for the student's."""

from __future__ import annotations

import os

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.examine import Examiner, Judgement, assigned, is_test, used
from nnopt_lib.course.labs.kernel import BrokenKernelError, NotDataError


def cell(source: str, name: str = "", *, grade: bool = False, solution: bool = False):
    marks = {"grade_id": name, "grade": grade, "solution": solution, "locked": grade, "schema_version": 3}
    return new_code_cell(source, metadata={"nbgrader": {**marks, "points": 1}} if name else {})


SETUP = """
import os
import numpy as np
seen = (os.environ["NNOPT_STUDENT"], os.path.exists("table.csv"), os.path.exists("lab.ipynb"))
print("not shown")
"""
SOLVED = """
def twice(values):
    "Twice as much."
    return [2 * value for value in values]
def in_place(values):
    values *= 2
numbers = {"norm": 3.0}
helper = [1, 2]
"""
TEST = "assert twice([1, 2]) == [2, 4]"


def lab(*tests: str, solved: str = SOLVED, setup: str = SETUP):
    tests = tests or (TEST,)
    cells = [new_markdown_cell("# A lab"), cell(setup), cell(solved, "solved", solution=True)]
    return new_notebook(cells=[*cells, *(cell(one, f"{n}-test", grade=True) for n, one in enumerate(tests))])


@pytest.fixture(scope="module")
def examiner():
    with Examiner(lab(), "ada") as running:
        yield running


def twice(values):
    return [2 * value for value in values]


def judge(examiner, source: str, **exported) -> Judgement:
    return examiner.judge(source, exported, "ada")


def test_the_lab_is_run_as_the_student_beside_its_files_and_everything_is_put_back(tmp_path, monkeypatch):
    (tmp_path / "table.csv").write_text("1")
    (tmp_path / "lab.ipynb").write_text("{}")
    for before in ("other", None):
        if before is None:
            monkeypatch.delenv("NNOPT_STUDENT")
        else:
            monkeypatch.setenv("NNOPT_STUDENT", before)
        place = os.getcwd()
        with Examiner(lab(), "ada", tmp_path) as examiner:
            folder = os.getcwd()
            assert folder != place
            assert judge(examiner, "assert seen == ('ada', True, False)").passed
            assert os.environ["NNOPT_STUDENT"] == "ada"
        assert (os.getcwd(), os.environ.get("NNOPT_STUDENT")) == (place, before)
        assert not os.path.exists(folder)
    assert (tmp_path / "table.csv").exists()


def test_a_lab_whose_own_solution_fails_is_named_and_everything_is_put_back(monkeypatch):
    monkeypatch.setenv("NNOPT_STUDENT", "before")
    place = os.getcwd()
    with pytest.raises(NnoptError) as error, Examiner(lab(solved="\n# why\nlabels = 1 / 0"), "ada"):
        pass
    assert str(error.value) == (
        "the lab's own source must run without its test cells; the cell that begins '# why' raised "
        "ZeroDivisionError: division by zero"
    )
    assert (os.getcwd(), os.environ["NNOPT_STUDENT"]) == (place, "before")


def test_what_a_test_needs_of_the_student_is_known_from_its_text():
    tests = ("assert twice([1])", "labs.given(numbers)", "1", "helper = 3\nassert helper and twice([helper])")
    examiner = Examiner(lab(*tests), "ada")
    assert examiner.exports == {"twice", "in_place", "numbers", "helper"}
    assert examiner.needs == {
        **{"0-test": {"twice"}, "1-test": {"numbers"}, "2-test": frozenset(), "3-test": {"twice"}}
    }


USED = {
    "f(x)": {"f", "x"},
    "x = 1\nf(x)": {"f"},
    "x = x or {}": {"x"},
    "x += 1": {"x"},
    "x: int = x": {"int", "x"},
    "x = [x for x in y]": {"y"},
    "for x in y:\n    f(x)": {"f", "y"},
    "assert all(x for x in y)": {"y", "all"},
    "check = lambda x: x + y": {"y"},
    "def check(x):\n    z = y\n    return x + z": {"y"},
    "def check():\n    return x\nx = 1\ncheck()": set(),
    "with f() as x:\n    x.go()": {"f"},
    "import x\nx.go()": {"x"},
    "x.y = 1": {"x"},
    "x[y] = 1": {"x", "y"},
    "f(": set(),
    "\0": set(),
}


@pytest.mark.parametrize("source", USED)
def test_names_are_used_as_python_would_look_them_up(source):
    assert used(source) == USED[source]


def test_names_are_assigned_at_the_top_of_a_cell():
    source = "a = b = 1\nc, (d, *e) = f()\ng: int = 1\nh += 1\nx.y = 1\ndef i(j):\n    k = 1\nclass L:\n    m = 1\nimport n"
    assert assigned(source) - {"x"} == {"a", "b", "c", "d", "e", "g", "h", "i", "L"}
    assert assigned("a = (") == set()


@pytest.mark.parametrize(
    "source",
    [
        "assert numbers['norm'] == 3",
        "numbers = numbers or {}\nassert numbers['norm'] == 3",
        "def check():\n    return numbers['norm'] == 3\nassert check()",
        "assert eval('numbers')['norm'] == 3",
        "assert twice([1]) == [2]",
        "assert helper == [1, 2]",
    ],
)
def test_a_missing_name_never_gets_the_solution_s_value(examiner, source):
    judgement = judge(examiner, source)
    assert not judgement.passed and judgement.sentence.startswith("NameError: name ")


def test_what_the_student_made_is_judged_and_the_solution_s_stands_beside_it(examiner):
    source = "assert numbers['norm'] == solution['numbers']['norm'] == 3"
    assert judge(examiner, source, numbers={"norm": 3}) == Judgement(True)
    judgement = judge(examiner, source, numbers={"norm": 4})
    assert judgement == Judgement(
        False, None, "not true: numbers['norm'] == solution['numbers']['norm'] == 3"
    )
    assert judge(examiner, TEST, twice=lambda values: values).sentence == "not true: twice([1, 2]) == [2, 4]"
    assert judge(examiner, TEST, twice=twice).passed


def test_later_tests_know_what_earlier_ones_made_but_not_what_a_student_did(examiner):
    assert judge(examiner, "own = twice([4])", twice=twice).passed
    assert judge(examiner, "assert own == [8]").passed
    assert not judge(examiner, "assert twice").passed
    assert not judge(examiner, "early = 1\nassert False").passed
    assert judge(examiner, "early").sentence == "NameError: name 'early' is not defined"


POINTS = {
    "3.5": 3.5,
    "2": 2.0,
    "np.float64(1.5)": 1.5,
    "True": None,
    "None": None,
    "'3'": None,
    "x = 3": None,
    "float('nan')": 0.0,
    "float('inf')": 0.0,
    "-10**9": -(10.0**9),
    "": None,
}


@pytest.mark.parametrize("source", POINTS)
def test_the_last_value_of_a_test_gives_its_points(examiner, source):
    assert judge(examiner, source) == Judgement(True, POINTS[source])


def test_a_number_too_large_for_points_is_an_error_of_the_test(examiner):
    assert judge(examiner, "10**5000").sentence.startswith("OverflowError: ")


def test_losses_are_told_and_what_was_printed_is_kept(examiner):
    source = (
        "print('seen')\nfrom nnopt_lib import labs\nlabs.mark(numbers, {'a': (1, 0), 'b': (2, 0)}, points=2)"
    )
    judgement = judge(examiner, source, numbers={"a": 1, "b": 3})
    assert (judgement.passed, judgement.points) == (True, 1.0)
    assert judgement.sentence == "b: 3 is not right (1 of 2 points lost)"
    assert judgement.printed.splitlines()[0] == "seen"


SENTENCES = {
    "assert 1 == 2, 'one is not two'": "one is not two",
    "x = 1\nassert (\n    x ==\n    2\n)": "not true: x == 2",
    "for x in (1, 2):\n    assert x == 1": "not true: x == 1",
    "def check(x):\n    assert x > 1\ncheck(1)": "not true: x > 1",
    "raise AssertionError": "a test did not pass",
    "1 / 0": "ZeroDivisionError: division by zero",
    "assert_small(2)": "a test did not pass",
    "x = (": "SyntaxError: '(' was never closed (<unknown>, line 1)",
    "\n\n\n\n\nassert_small(2)\nassert 1 == 2": "a test did not pass",
}


@pytest.mark.parametrize("source", SENTENCES)
def test_a_test_that_fails_says_why(source):
    setup = "def assert_small(x):\n    if x > 1:\n        raise AssertionError\n    x += 0\n    x += 0\n    assert x < 1"
    with Examiner(lab(setup=setup), "ada") as examiner:
        assert judge(examiner, source) == Judgement(False, None, SENTENCES[source])


def test_a_statement_of_the_lab_s_own_functions_is_not_taken_for_one_of_the_test():
    with Examiner(lab(setup="def check(x):\n    assert x"), "ada") as examiner:
        assert judge(examiner, "check(0)\nassert secret").sentence == "a test did not pass"


def test_a_sentence_that_quotes_a_student_s_value_stays_short(examiner):
    judgement = judge(examiner, "assert numbers == 1, numbers", numbers="x" * 10**6)
    assert judgement.sentence == "x" * 1000


def test_an_error_of_the_student_s_is_told_in_its_own_words_and_a_broken_kernel_is_not_swallowed(examiner):
    def refused(values):
        raise NotDataError("twice raised ValueError: no")

    def broken(values):
        raise BrokenKernelError("killed its kernel")

    assert judge(examiner, TEST, twice=refused).sentence == "twice raised ValueError: no"
    place = os.environ["NNOPT_STUDENT"]
    with pytest.raises(BrokenKernelError):
        examiner.judge(TEST, {"twice": broken}, "bob")
    assert os.environ["NNOPT_STUDENT"] == place


def test_the_name_that_handed_in_is_in_the_environment_of_that_test_only(examiner):
    source = "import os\nassert os.environ['NNOPT_STUDENT'] == 'bob'"
    assert examiner.judge(source, {}, "bob").passed
    assert not examiner.judge(source, {}, "ada").passed
    assert os.environ["NNOPT_STUDENT"] == "ada"


def test_stand_ins_carry_calls_over(examiner):
    calls = []

    def call(name, arguments, options):
        calls.append((name, arguments, options))
        return [2]

    function = examiner.stand_in("twice", call)
    assert function([1], k=2) == [2] and function.__name__ == "twice"
    assert calls == [("twice", ([1],), {"k": 2})]


@pytest.mark.parametrize(
    "nothing", [[], (), {}, np.empty((0, 2)), [np.empty((3, 0))], {"a": []}, ([1], [])], ids=str
)
def test_an_empty_result_is_refused_where_the_solution_has_something(examiner, nothing):
    function = examiner.stand_in("twice", lambda *_: nothing)
    with pytest.raises(NotDataError, match="twice returned something empty"):
        function([1])
    assert function([]) is nothing  # the solution's is empty, too
    assert function(5) is nothing  # the solution refuses it


def test_arguments_that_were_emptied_do_not_hide_an_empty_result(examiner):
    def call(name, arguments, options):
        arguments[0].clear()
        return []

    with pytest.raises(NotDataError, match="something empty"):
        examiner.stand_in("twice", call)([1])


def test_what_a_function_does_to_its_arguments_stays_with_it(examiner):
    def call(name, arguments, options):
        arguments[0][:] = 0
        options["k"].clear()
        return [1]

    values, table = np.ones(2), {"a": 1}
    assert examiner.stand_in("twice", call)(values, k=table) == [1]
    assert values.tolist() == [1, 1] and table == {"a": 1}
    assert examiner.changing == {"twice"}


def test_a_change_that_the_exercise_asks_for_is_seen_by_its_test(examiner):
    def call(name, arguments, options):
        arguments[0][:] = [7, 8]

    values = np.ones(2)
    examiner.changing.clear()
    examiner.stand_in("in_place", call)(values)
    assert values.tolist() == [7, 8]
    assert examiner.changing == set()


def test_functions_are_told_from_data():
    torch = pytest.importorskip("torch")
    solved = "import torch\ndef f(): pass\nnet = torch.nn.Linear(1, 1)\nclass C: pass\nx = 1"
    with Examiner(lab(solved=solved), "ada") as examiner:
        assert [examiner.is_function(name) for name in ("f", "C", "net", "x", "unknown")] == [
            *(True, True, False, False, False)
        ]
    assert torch.get_num_threads() >= 1


def test_only_cells_that_give_points_and_are_not_to_be_written_are_tests():
    assert is_test(cell("1", "a", grade=True))
    assert not is_test(cell("1", "a", grade=True, solution=True))
    assert not is_test(cell("1", "a", solution=True))
    assert not is_test(cell("1"))
    assert not is_test(new_markdown_cell("1", metadata=cell("1", "a", grade=True).metadata))
