"""What a teacher should look at: pasted solutions, equal notebooks, code that no lab asks for.

Nothing here is executed and nothing takes a point. A flag says what is so; what it means a
person decides.
"""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from nnopt_lib.course.labs.oddities import oddities as oddities
from nnopt_lib.course.labs.trees import OWN, UNREADABLE, cells_of, functions, normalized, parse, size

# Nodes of a function's syntax tree from which on equal code tells something. In our labs what one line says,
# and two or three lines that the task dictates (a tent applied k times, a step with momentum), has at most
# 40; above it lies what needs a plan: which arrays, in which order, by which calls.
TELLING = 40
# Of a whole notebook: more than one such function, or one and computed numbers.
TELLING_TOGETHER = 80
CELLS_OF_DATA = ("student", "predict", "words")  # alike in every notebook, or never

EQUAL_NUMBERS = "Typed equal numbers, though each has a seed of their own:"
EQUAL_CODE = "Solved the lab by code that is equal but for names:"


def found(cells: Mapping[str, str], solution_cells: Mapping[str, str]) -> list[str]:
    """The sentences on one notebook that a record keeps as `flags`: oddities, then pasted solutions."""
    same = [f"cell {cell} is the lab's own solution but for names" for cell in pasted(cells, solution_cells)]
    return [*oddities(cells), *same]


def pasted(cells: Mapping[str, str], solution_cells: Mapping[str, str], telling: int = TELLING) -> list[str]:
    """The solution's cells whose functions stand in `cells` with nothing changed but names and layout.

    Parameters:
        cells, solution_cells: sources of code cells by name, of a student and of the lab with its solution.
        telling: how large a function must be, in nodes of its syntax tree; smaller ones are the same in many
            honest notebooks.

    The student's function may stand in another cell than it should. A cell with several functions is
    pasted if all that are large enough are.
    """
    theirs = {name: text for name, (_, text) in functions(cells).items()}
    equal: dict[str, list[bool]] = {}
    for name, (cell, text) in functions(solution_cells).items():
        if not cell.startswith(OWN) and size(text) > telling:
            equal.setdefault(cell, []).append(theirs.get(name) == text)
    return [cell for cell, same in equal.items() if all(same)]


def equal_notebooks(
    by_student: Mapping[str, Mapping[str, str]], telling: int = TELLING_TOGETHER
) -> list[list[str]]:
    """Students whose solved cells are equal but for names, in groups of two and more.

    Parameters:
        by_student: of each student the sources of code cells by name; cells without a name in the lab are not
            looked at, since those that the lab gives are everybody's.
        telling: how large the code must be in all, in nodes of syntax trees, without functions of one line.

    Functions are compared first; then, of notebooks that compute their numbers where they should type them,
    functions and what is computed: such a notebook can go from hand to hand and be right for each seed.
    """
    found: list[list[str]] = []
    for computed in (False, True):
        alike: dict[str, list[str]] = {}
        for student, cells in by_student.items():
            code = _solved(cells)
            numbers = _computed(cells) if computed else {}
            if computed and not numbers:
                continue
            large = sum(size(text) for text in code.values() if size(text) > TELLING // 2)
            if large + sum(map(size, numbers.values())) > telling:
                alike.setdefault(json.dumps([code, numbers], sort_keys=True), []).append(student)
        groups = [group for group in alike.values() if len(group) > 1]
        found += [one for one in groups if not any(set(one) <= set(other) for other in found)]
    return found


def groups_of_equal_numbers(records: Mapping[str, Mapping[str, Any] | None]) -> list[list[str]]:
    """Students who typed the very same `numbers`, in groups of two and more.

    Namesakes have one seed, and so the same numbers by right: a group of nothing else is none.
    """
    groups: dict[str, list[str]] = {}
    for student, record in records.items():
        numbers = (record or {}).get("typed", {}).get("numbers")
        if numbers:
            groups.setdefault(json.dumps(numbers, sort_keys=True), []).append(student)
    return [group for group in groups.values() if len(group) > 1 and not _are_namesakes(group, records)]


def _are_namesakes(group: Sequence[str], records: Mapping[str, Mapping[str, Any] | None]) -> bool:
    members = [records[student] or {} for student in group]
    names = {str(one.get("typed", {}).get("student", "")).strip().casefold() for one in members}
    return len(names) == 1 and names != {""} and all(one.get("name") == "own" for one in members)


def groups(
    records: Mapping[str, Mapping[str, Any] | None],
    notebooks: Mapping[str, bytes] | None = None,
    leave_out: Sequence[str] = (),
) -> dict[str, list[list[str]]]:
    """What a class has in common: a heading for the report, and under it the groups of students.

    Parameters:
        records: of each student how grading ended, with what was typed, or None.
        notebooks: the content of each submission that can be read.
        leave_out: names of cells that are not the student's, as those of tests.
    """
    by_student = {name: cells_of(content, leave_out) for name, content in (notebooks or {}).items()}
    return {EQUAL_NUMBERS: groups_of_equal_numbers(records), EQUAL_CODE: equal_notebooks(by_student)}


def _solved(cells: Mapping[str, str]) -> dict[str, str]:
    """The functions in the lab's cells, normalized, without those that nobody has written yet."""
    solved = {name: text for name, (cell, text) in functions(_named(cells)).items()}
    return {name: text for name, text in solved.items() if "NotImplementedError" not in text}


def _computed(cells: Mapping[str, str]) -> dict[str, str]:
    """The lab's other cells in which something is computed: normalized as functions are."""
    computed = {}
    for name, source in _named(cells).items():
        tree, _ = parse(source)
        rest = [node for node in tree.body if not isinstance(node, ast.FunctionDef)] if tree else []
        used = any(isinstance(node, ast.Call | ast.Subscript) for one in rest for node in ast.walk(one))
        if not used or "NotImplementedError" in source:
            continue
        arguments = ast.arguments([], [], None, [], [], None, [])
        with contextlib.suppress(*UNREADABLE):
            computed[name] = normalized(ast.FunctionDef("cell", arguments, rest, [], None))
    return computed


def _named(cells: Mapping[str, str]) -> dict[str, str]:
    """The cells in which a student solves something, by the lab's names for them."""
    others = {name for name in cells if name.startswith(OWN) or name.endswith("-test")} | {*CELLS_OF_DATA}
    return {name: source for name, source in cells.items() if name not in others}
