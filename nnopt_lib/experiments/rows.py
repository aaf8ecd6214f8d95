"""Rows that know their experiment, so that what is concluded from them can say on what it rests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nnopt_lib.checks import refuse


class Row(dict[str, Any]):
    """One row of `run_experiment`: an ordinary dictionary that also knows its `experiment`.

    The experiment is an attribute and no field, so a row compares, prints and is written as JSON like the
    dictionary that it is. Copies and pickles keep it. What is made *from* a row, as ``{**row}`` or
    ``row | {...}``, is a plain dictionary: it may hold anything, so it vouches for nothing.

    Example:
        >>> row = Row({"seed": 0, "accuracy": 0.9}, experiment="00-demo")
        >>> row == {"seed": 0, "accuracy": 0.9}, row.copy().experiment
        (True, '00-demo')
    """

    # No __dict__: a row has its fields and its experiment, and a misspelt attribute is an error.
    __slots__ = ("experiment",)
    experiment: str

    def __init__(self, fields: Mapping[str, Any], *, experiment: str) -> None:
        super().__init__(fields)
        self.experiment = experiment

    def copy(self) -> Row:
        """A shallow copy that knows its experiment; `dict.copy` would return a plain dictionary."""
        return Row(self, experiment=self.experiment)


def experiments_of(
    rows: Any,
    name: str = "rows",
    remedy: str = "Pass the rows themselves, or rows=() for a statement that rests on none.",
) -> list[str]:
    """The experiments that rows belong to, each once, in the order of the rows.

    Parameters:
        rows: a `Row`, or any iterable of rows and of iterables of them, nested as they come: a filtered list,
            two lists in a tuple, ``rows_by_seed.values()``.
        name: of the argument, for the refusal; `remedy` is its last sentence.

    Returns a new list, empty where there are no rows. Refuses anything in `rows` that is no row of
    `run_experiment`, a plain dictionary above all.

    Example:
        >>> rows = [Row({"seed": seed}, experiment="00-demo") for seed in range(3)]
        >>> experiments_of([rows[:1], rows])
        ['00-demo']
    """
    rule = f"{name} must be rows as run_experiment returns them, which know their experiment"
    # A dictionary keeps the first of equal keys in order, which a set would not.
    experiments: dict[str, None] = {}
    pending = [rows]
    while pending:
        item = pending.pop()
        if isinstance(item, Row):
            experiments[item.experiment] = None
        # Text is an iterable of itself, and a mapping one of its keys: neither could hold a row.
        elif isinstance(item, Mapping):
            # Its fields say where in a chapter it was made; its values may be long.
            refuse(rule, f"a plain dictionary with the fields {', '.join(map(str, item)) or 'none'}", remedy)
        elif isinstance(item, (str, bytes)) or not isinstance(item, Iterable):
            refuse(rule, f"a value of type {type(item).__name__}", remedy)
        else:
            pending.extend(reversed(list(item)))  # the last is popped first
    return list(experiments)
