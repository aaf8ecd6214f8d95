"""Pasted solutions and equal notebooks are found, whatever their names; honest likeness is not."""

from __future__ import annotations

import ast
import json

import pytest

from nnopt_lib.course.chapters.source import read_source
from nnopt_lib.course.labs import flags
from nnopt_lib.course.labs.sources import find_labs
from nnopt_lib.course.labs.submissions import name_of
from nnopt_lib.course.labs.trees import FUNCTIONS, functions, size

LABS = [lab.name for lab in find_labs()]
KEEP = "def keep_nodes(values, count):\n    keep = np.zeros(len(values), bool)\n    keep[np.argsort(-np.asarray(values), kind='stable')[:count]] = True\n    return keep"
SMALL = """
def small_network(weights, keep):
    names = ("dense_1/kernel", "dense_1/bias", "dense_2/kernel")
    parts = remove(*(weights[name] for name in names), keep)
    model = nnopt.build(nnopt.mlp((int(keep.sum()),), inputs=64, outputs=10))
    nnopt.set_weights(model, dict(zip(names, parts)) | {"dense_2/bias": weights["dense_2/bias"]})
    return model
"""
OTHER = """
def small_network(weights, keep):
    smaller = remove(weights["dense_1/kernel"], weights["dense_1/bias"], weights["dense_2/kernel"], keep)
    model = nnopt.build(nnopt.mlp((keep.sum(),), inputs=64, outputs=10))
    names = ["dense_1/kernel", "dense_1/bias", "dense_2/kernel", "dense_2/bias"]
    nnopt.set_weights(model, dict(zip(names, [*smaller, weights["dense_2/bias"]])))
    return model
"""
ONE_LINE = "def importance(kernel):\n    return np.abs(kernel).sum(axis=1)"
TYPED = 'numbers = {"norm": 1.5, "macs": 100}'
COMPUTED = 'numbers = {"norm": float(importance(tensor).min()), "macs": measure.count(small.spec).macs}'


def renamed(source: str) -> str:
    """The same code by another hand: all arguments and variables under other names, with comments."""

    class Rename(ast.NodeTransformer):
        def visit_arg(self, node):
            node.arg += "_mine"
            return node

        def visit_Name(self, node):
            node.id += "_mine" if node.id in bound else ""
            return node

    tree = ast.parse(source)
    nodes = [node for each in tree.body if isinstance(each, FUNCTIONS) for node in ast.walk(each)]
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return "# all my own work\n" + ast.unparse(Rename().visit(tree))


def solution(name: str) -> dict[str, str]:
    (lab,) = find_labs([name])
    cells = [cell for cell in read_source(lab).cells if cell.cell_type == "code" and name_of(cell)]
    return {name_of(cell): cell.source for cell in cells if not name_of(cell).endswith("-test")}


@pytest.mark.parametrize("name", LABS)
def test_a_pasted_solution_is_found_under_other_names_and_short_functions_are_not_looked_at(name):
    cells = solution(name)
    telling = {cell for _, (cell, text) in functions(cells).items() if size(text) > flags.TELLING}
    assert telling, "each lab has a function that is long enough to tell"
    disguised = {key: renamed(source) for key, source in cells.items()}
    assert disguised != cells
    assert set(flags.pasted(disguised, cells)) == telling
    short = {key: source for key, source in disguised.items() if key not in telling}
    assert flags.pasted(short, cells) == []
    for text in (text for _, text in functions(cells).values()):
        if len(ast.parse(text).body[0].body) == 1:  # what one line says, many honest students write
            assert size(text) <= flags.TELLING, text


def test_the_threshold_is_an_argument_and_another_solution_is_not_pasted():
    cells = {"keep": KEEP, "small": SMALL}
    assert flags.pasted({"keep": renamed(KEEP), "small": OTHER}, cells) == []
    assert flags.pasted({"keep": renamed(KEEP), "small": OTHER}, cells, telling=10) == ["keep"]
    assert flags.pasted({"own cell 4": renamed(SMALL)}, cells) == ["small"]  # wherever it stands
    assert flags.pasted({"small": renamed(SMALL) + OTHER}, cells) == []  # the last definition counts
    assert flags.pasted({}, cells) == flags.pasted(cells, {}) == []


def test_a_record_keeps_oddities_and_pasted_cells_as_sentences():
    cells = {"small": renamed(SMALL), "own cell 2": "import socket"}
    assert flags.found(cells, {"small": SMALL}) == [
        "cell own cell 2 reaches for the network: import socket",
        "cell small is the lab's own solution but for names",
    ]
    assert flags.found({"small": OTHER}, {"small": SMALL}) == []


def notebook(small=SMALL, keep=KEEP, numbers=TYPED, **more):
    return {"importance": ONE_LINE, "keep": keep, "small": small, "numbers": numbers, **more}


def test_equal_code_makes_a_group_whatever_names_numbers_and_given_cells_are():
    assert flags.equal_notebooks({
        "ada": notebook(numbers='numbers = {"norm": 7}'),
        "bob": notebook(renamed(SMALL), renamed(KEEP)),
        "eve": notebook(OTHER),
        "fay": notebook(SMALL, KEEP.replace("stable", "mergesort")),
    }) == [["ada", "bob"]]  # fmt: skip
    given = "def stacked(depth, shortcuts):\n" + SMALL.replace("\n", "\n    ")
    alike = {"importance": ONE_LINE, "own cell 2": given, "predict": "guess = 5", "numbers": TYPED}
    assert flags.equal_notebooks({"ada": alike, "bob": alike}) == []  # one line, and what is everybody's
    lines = {name: ONE_LINE.replace("importance", name) for name in "abcdefghijkl"}
    assert flags.equal_notebooks({"ada": lines, "bob": lines}) == []  # however many
    untouched = dict.fromkeys("abcdefgh", "def f(x):\n    raise NotImplementedError('your code here')")
    assert flags.equal_notebooks({"ada": untouched, "bob": untouched}) == []


def test_equal_notebooks_that_compute_their_numbers_make_a_group():
    more = {
        "explain": "answer = {'part': round(numbers['macs'] / (64 * 32 + 32 * 10), 4), 'better': 'yes' if numbers['low'] > 0 else 'no'}"
    }
    by_student = {
        "ada": notebook(OTHER, numbers=COMPUTED, **more),
        "bob": notebook(renamed(OTHER), numbers="# mine\n" + COMPUTED, **more),
        "eve": notebook(OTHER.replace("[*smaller,", "[*list(smaller),"), numbers=COMPUTED, **more),
    }
    assert flags.equal_notebooks(by_student) == [["ada", "bob"]]
    short = {"mask": ONE_LINE, "numbers": COMPUTED, **more}
    other = {"mask": ONE_LINE, "numbers": COMPUTED.replace("min", "max"), **more}
    assert flags.equal_notebooks({"ada": short, "bob": short, "eve": other}, telling=40) == [["ada", "bob"]]
    assert flags.equal_notebooks({"ada": short, "bob": short}, telling=10**4) == []


def test_equal_numbers_make_a_group_whatever_the_order_of_their_names():
    records = {
        "ada": {"typed": {"numbers": {"a": 1, "b": 2}}},
        "bob": {"typed": {"numbers": {"b": 2, "a": 1}}},
        "eve": {"typed": {"numbers": {"a": 1, "b": 3}}},
        "untouched": {"typed": {"numbers": {}}},
        "copied": {"typed": {"numbers": {}}},  # nothing typed is nothing copied
        "late": None,
    }
    assert flags.groups_of_equal_numbers(records) == [["ada", "bob"]]
    content = json.dumps({"cells": [
        {"cell_type": "code", "metadata": {"nbgrader": {"grade_id": key}}, "source": source}
        for key, source in notebook().items()
    ]}).encode()  # fmt: skip
    assert flags.groups(records, {"ada": content, "cem": content}) == {
        "Typed equal numbers, though each has a seed of their own:": [["ada", "bob"]],
        "Solved the lab by code that is equal but for names:": [["ada", "cem"]],
    }
    assert flags.groups({}) == {flags.EQUAL_NUMBERS: [], flags.EQUAL_CODE: []}


def test_namesakes_have_equal_numbers_by_right_and_who_typed_anothers_name_does_not():
    namesake = {"typed": {"student": "Wei Zhang", "numbers": {"a": 1}}, "name": "own"}
    assert flags.groups_of_equal_numbers({"wei1": namesake, "wei2": namesake}) == []
    others = {"wei1": namesake, "bob": {**namesake, "name": "another's"}}
    assert flags.groups_of_equal_numbers(others) == [["wei1", "bob"]]
