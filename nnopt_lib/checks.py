"""Argument checks and their sentences: the rule, what was received, the remedy.

Every refusal in the project is a `NnoptError`, so that the command line can print it as one line and a
test can read it whole. Nothing here imports more than the standard library.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, NoReturn


class NnoptError(ValueError):
    """Bad input, said in one sentence: the rule, what was received, what to do instead."""


def refuse(rule: str, received: Any = None, remedy: str = "") -> NoReturn:
    """Raise `NnoptError` reading ``rule; received <received>. <remedy>``.

    `received` is left out of the sentence when it is None.
    """
    sentence = rule if received is None else f"{rule}; received {received}"
    raise NnoptError(f"{sentence}. {remedy}".rstrip() if remedy else f"{sentence}.")


def nearest(name: Any, names: Iterable[str]) -> str:
    """The remedy for a misspelt name: ``Did you mean 'x'?``, or the list of what there is."""
    names = sorted(map(str, names))
    return _close(name, names) or f"Choose from {', '.join(names)}."


def _close(name: Any, names: Iterable[str]) -> str:
    """``Did you mean 'x'?`` where a name is near enough, whatever its case; else nothing."""
    by_lower = {each.lower(): each for each in names}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return f"Did you mean {by_lower[close[0]]!r}?" if close else ""


def check_choice(what: str, value: Any, choices: Iterable[str]) -> str:
    """`value` if it is one of `choices`; otherwise refuse, naming the nearest."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        refuse(f"{what} must be one of {', '.join(choices)}", repr(value), _close(value, choices))
    return value


def check_int(what: str, value: Any, *, at_least: int, at_most: int | None = None) -> int:
    """`value` as int if it is a whole number in [at_least, at_most]; booleans are refused."""
    bound = f"at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
    rule = f"{what} must be a whole number, {bound}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        refuse(rule, repr(value))
    number = int(value)
    if number < at_least or (at_most is not None and number > at_most):
        refuse(rule, number)
    return number


def check_number(
    what: str,
    value: Any,
    *,
    at_least: float = -math.inf,
    above: float | None = None,
    below: float = math.inf,
) -> float:
    """`value` as float if it is a finite number, at least `at_least`, above `above` and below `below`."""
    bound = f"above {above}" if above is not None else f"at least {at_least}"
    rule = f"{what} must be a finite number" + ("" if bound == "at least -inf" else f", {bound}")
    rule += "" if below == math.inf else f", below {below:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        refuse(rule, repr(value))
    number = float(value)
    too_low = number < at_least or (above is not None and number <= above)
    if not math.isfinite(number) or too_low or number >= below:
        refuse(rule, f"{number:g}")
    return number


def check_fraction(what: str, value: Any) -> float:
    """`value` as float if it is at least 0 and below 1, as every sparsity-like number here is."""
    rule = f"{what} must be at least 0 and below 1"
    if isinstance(value, bool) or not isinstance(value, Real):
        refuse(rule, repr(value))
    number = float(value)
    if not 0 <= number < 1:  # also catches NaN
        remedy = f"For {number:g} %, pass {number / 100:g}." if 1 < number < 100 else ""
        refuse(rule, f"{number:g}", remedy)
    return number
