"""A student's kernel: its functions are called through data, and whatever they do is one error in words."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from nbformat.v4 import new_code_cell

from nnopt_lib.course.labs import kernel as lab_kernel
from nnopt_lib.course.labs.kernel import (
    BrokenKernelError,
    NotDataError,
    StudentKernel,
    UndefinedError,
    take_over,
)
from nnopt_lib.course.labs.sandbox.sandbox import Limits

CELL = """
import os, sys, time
import numpy as np

value = {"a": (1, 2.5, [None]), "b": np.arange(6).reshape(2, 3)}
def add(a, b=1): return a + b
def change(array, items, table, *, named):
    array *= 2
    items.append("new")
    table.clear()
    named["k"] = array
def fail(): raise ValueError("of my own")
def leave(): sys.exit("bye")
def odd(): return object()
def forge():
    import nnopt_lib.course.labs.crossing as crossing
    write = crossing.write_message
    def once(path, message):
        crossing.write_message = write
        os.mkdir(path)
    crossing.write_message = once
def later(): return helper() + 1
class Evil(np.ndarray):
    def __eq__(self, other): return True
    def tolist(self): return [True]
def evil(): return np.zeros(2).view(Evil)
globals = vars = dict = list = pack = serve = namespace = crossing = 5
"""


@pytest.fixture(scope="module")
def running(private_temporary_folder):
    """A kernel in which the cell above has run."""
    with StudentKernel(Limits(60, 1, 64, 20), 1, "ada") as kernel:
        assert kernel.run(new_code_cell(CELL))
        yield kernel


@pytest.mark.notebook
class TestRunning:
    def test_functions_are_called_with_what_a_test_gives(self, running):
        assert running.call("add", (1,), {"b": 2}) == 3
        received = running.call("add", (np.array([1.5, 2]),), {})
        assert type(received) is np.ndarray and received.tolist() == [2.5, 3]
        received = running.call("evil", (), {})
        assert type(received) is np.ndarray and received.tolist() == [0, 0]
        value = running.value("value")
        assert value["a"] == (1, 2.5, [None]) and value["b"].tolist() == [[0, 1, 2], [3, 4, 5]]

    def test_what_a_function_changes_in_place_is_changed_here(self, running):
        array, items, table, named = np.arange(3.0), [1], {"x": 1}, {}
        alias = array
        assert running.call("change", (array, items, table), {"named": named}) is None
        assert alias.tolist() == [0, 2, 4] and items == [1, "new"] and table == {}
        assert named["k"].tolist() == [0, 2, 4]

    def test_errors_and_what_is_no_data_are_put_into_words(self, running):
        for name, words in {
            "fail": "fail raised ValueError: of my own",
            "leave": "leave raised SystemExit: bye",
            "odd": "odd returned an object of type object, which no test can look at",
            "later": "later raised NameError: name 'helper' is not defined",
        }.items():
            with pytest.raises(NotDataError) as error:
                running.call(name, (), {})
            assert str(error.value) == words
        with pytest.raises(NotDataError, match="^add raised TypeError: "):
            running.call("add", (), {"c": 1})
        with pytest.raises(NotDataError, match="^add cannot be given more than 32 MiB"):
            running.call("add", (np.zeros(2**22),), {})
        with pytest.raises(NotDataError, match="^fail returned an object of type function"):
            running.value("fail")
        running.call("forge", (), {})  # the next answer is a folder
        with pytest.raises(NotDataError, match="^add gave an answer that cannot be read: no ordinary file"):
            running.call("add", (1,), {})
        assert running.call("add", (1,), {}) == 2  # nothing was broken by all that

    def test_names_that_nothing_was_given_are_known_as_such(self, running):
        for ask in (lambda: running.call("nothing", (), {}), lambda: running.value("nothing")):
            with pytest.raises(UndefinedError):
                ask()
        assert [running.knows(name) for name in ("nothing", "add", "value", "np")] == [
            False,
            True,
            True,
            True,
        ]

    def test_a_cell_that_fails_is_no_success_and_breaks_nothing(self, running):
        cell = new_code_cell("print('before')\n1 / 0")
        assert not running.run(cell)
        assert [one.output_type for one in cell.outputs] == ["stream", "error"]
        assert running.run(new_code_cell("1 + 1"))

    def test_a_display_of_an_earlier_cell_may_be_updated(self, running):
        assert running.run(
            new_code_cell("from IPython.display import display\nshown = display(1, display_id=True)")
        )
        assert running.run(new_code_cell("shown.update(2)"))

    def test_a_folder_that_was_spoiled_is_the_notebook_s_fault_and_a_full_disk_nobody_s(
        self, running, monkeypatch
    ):
        numbers = iter([errno.ENOSPC, errno.EACCES, errno.ENOENT])

        def write(path, message):
            raise OSError(next(numbers), "no")

        monkeypatch.setattr(lab_kernel, "write_message", write)
        monkeypatch.setattr(running.box, "kill", lambda: None)
        with pytest.raises(OSError):
            running.call("add", (1,), {})
        for _ in range(2):
            with pytest.raises(BrokenKernelError, match="spoiled its own folder") as broken:
                running.call("add", (1,), {})
            assert broken.value.final


@pytest.mark.notebook
@pytest.mark.usefixtures("private_temporary_folder")
@pytest.mark.parametrize(
    "body, reason, final",
    [
        ("while True: pass", "ran for more than 1 s", False),
        ("import os; os._exit(0)", "killed its kernel", False),
        ("print('x' * 11_000_000)", "printed more than 10 MiB", False),
    ],
)
def test_a_function_that_ends_its_kernel_is_named(body, reason, final):
    with StudentKernel(Limits(5, 1, 64, 20), 1, "ada") as kernel:
        assert kernel.run(new_code_cell(f"def f():\n    {body}"))
        with pytest.raises(BrokenKernelError) as broken:
            kernel.call("f", (), {})
        assert (str(broken.value), broken.value.final) == (reason, final)
        with pytest.raises(BrokenKernelError):
            kernel.run(new_code_cell("1"))
        assert kernel.box.environment["NNOPT_STUDENT"] == "ada"


CHANGES = [
    (np.zeros(2), np.ones(2), np.ones(2)),
    (np.zeros(2), np.ones(3), np.zeros(2)),
    ([1, 2], [3, 4], [3, 4]),
    ([1, 2], [], []),
    ([[1], 2], [[5], 2], [[5], 2]),
    ({"a": [1], "b": 2}, {"a": [3], "c": 4}, {"a": [3], "c": 4}),
    (([1], 2), ([9], 2), ([9], 2)),
    ([1], {"a": 1}, [1]),
    ("a", "b", "a"),
]


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_changes_are_made_in_the_very_objects(number):
    original, changed, expected = CHANGES[number]
    parts = list(original) if isinstance(original, (list, tuple)) else []
    take_over(original, changed)
    assert np.array_equal(original, expected) if isinstance(original, np.ndarray) else original == expected
    for part, now in zip(parts, original, strict=False):
        assert part is now or not isinstance(part, list)


def test_an_array_that_cannot_be_written_stays():
    array = np.zeros(2)
    array.flags.writeable = False
    take_over(array, np.ones(2))
    assert array.tolist() == [0, 0]


@pytest.mark.torch
def test_tensors_and_models_change_in_place():
    import torch

    tensor, model = torch.zeros(2, requires_grad=True), torch.nn.Linear(2, 1)
    take_over(tensor, torch.ones(2))
    assert tensor.tolist() == [1, 1]
    other = torch.nn.Linear(2, 1)
    weight = model.weight
    take_over(model, other)
    assert torch.equal(weight, other.weight) and weight is model.weight
