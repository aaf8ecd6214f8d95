"""What a student answered against what is right: numbers one by one, words whatever their spelling."""

from __future__ import annotations

import math
import numbers as number_types
import re
from collections.abc import Mapping
from typing import Any

from nnopt_lib.checks import refuse

SAME = {"true": "yes", "y": "yes", "false": "no", "n": "no", "can not tell": "cannot tell"}


class Points(float):
    """Points of a test: a number that nbgrader reads as partial credit, with a sentence for each loss."""

    losses: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{float(self):g}"


def verdict(low: float, high: float) -> str:
    """What an interval of a difference says: ``"yes"`` above 0, ``"no"`` below, else ``"cannot tell"``.

    Example:
        >>> verdict(0.2, 1.3), verdict(-1.0, 0.4)
        ('yes', 'cannot tell')
    """
    return "yes" if low > 0 else "no" if high < 0 else "cannot tell"


def same_words(received: Any, expected: Any) -> bool:
    """Whether two answers in words are the same but for case, spaces, signs and usual other spellings.

    Example:
        >>> same_words(" Yes.", "yes"), same_words("can't tell", "cannot tell"), same_words(True, "yes")
        (True, True, True)
    """
    return _plain(received) == _plain(expected)


def _plain(answer: Any) -> str:
    text = str(answer).casefold().replace("’", "'").replace("can't", "cannot")
    text = " ".join(re.sub(r"[\W_]+", " ", text).split())
    return SAME.get(text, text)


def given(answers: Any, *names: str) -> None:
    """Say which of the answers called `names` stand in the dictionary `answers`, and which are missing.

    Refuses, by an `AssertionError` in a sentence, what is no dictionary or holds none of them.
    """
    assert isinstance(answers, Mapping), f"give a dictionary, {{name: value}}, not a {type(answers).__name__}"
    there = [name for name in names if not _is_missing(answers.get(name))]
    missing = [name for name in names if name not in there]
    unknown = [str(name) for name in answers if name not in names]
    assert there, f"none of {', '.join(names)} is given yet"
    print(f"given: {', '.join(there)}" + (f"; missing: {', '.join(missing)}" if missing else ""))
    if unknown:
        print(f"not asked for: {', '.join(unknown)}")


def mark(answers: Any, expected: Mapping[str, Any], *, points: float) -> Points:
    """Points for a dictionary of answers, an equal share for each of `expected`.

    Parameters:
        answers: what the student gave.
        expected: by name ``(value, tolerance)`` for a number, a text for an answer in words, or a tuple of
            texts of which each is right. A list of any of these is right if one of them is, as where an
            answer may follow from what the student measured or from what is right.
        points: for all of them.

    A number that is 100 times too large or too small gives half of its share: percent stood for a fraction,
    or the other way round. A sentence for each loss is printed and kept in `losses`.
    """
    if not expected or not points > 0:
        refuse("mark needs at least one expected answer and points above 0", f"{len(expected)}, {points}")
    share, earned, losses = points / len(expected), 0.0, []
    known = answers if isinstance(answers, Mapping) else {}
    for name, right in expected.items():
        part, why = _mark_one(known.get(name), right)
        earned += share * part
        if why:
            losses.append(f"{name}: {why} ({share * (1 - part):g} of {points:g} points lost)")
    print(*losses, sep="\n", end="\n" if losses else "")
    earned_points = Points(round(earned, 6))
    earned_points.losses = tuple(losses)
    return earned_points


def carried(answers: Any, right: Mapping[str, Any], *names: str) -> tuple[float, ...]:
    """The numbers called `names` as the student gave them; as `right` has them where none was given.

    For a question whose answer follows from numbers of another exercise: an error there costs its point once.

    Example:
        >>> carried({"low": 0.5, "high": "?"}, {"low": 1.0, "high": 2.0}, "low", "high")
        (0.5, 2.0)
    """
    known = answers if isinstance(answers, Mapping) else {}
    typed = {name: _as_number(known.get(name)) for name in names}
    return tuple(float(right[name]) if (number := typed[name]) is None else number for name in names)


def _mark_one(received: Any, right: Any) -> tuple[float, str]:
    """The part of its share that one answer earns, and why not all."""
    if _is_missing(received):
        return 0.0, "is missing"
    if isinstance(right, list):
        return max((_mark_one(received, one) for one in right), key=lambda marked: marked[0])
    if isinstance(right, str):
        right = (right,)
    if all(isinstance(word, str) for word in right):
        return (1.0, "") if any(same_words(received, word) for word in right) else (0.0, "is not right")
    value, tolerance = map(float, right)
    number = _as_number(received)
    if number is None:
        return 0.0, f"{received!r:.40} is not a number"
    if abs(number - value) <= tolerance:
        return 1.0, ""
    # A share of the value itself, since a wide tolerance times 100 would take any number.
    if abs(value) > tolerance and abs(number - 100 * value) <= min(100 * tolerance, 10 * abs(value)):
        return 0.5, f"{number:g} is 100 times what was asked, as percent for a fraction"
    if abs(value) > tolerance and abs(100 * number - value) <= min(tolerance, 0.1 * abs(value)):
        return 0.5, f"{number:g} is a hundredth of what was asked, as a fraction for percent"
    return 0.0, f"{number:g} is not right"


def _is_missing(answer: Any) -> bool:
    return answer is None or answer is Ellipsis


def _as_number(answer: Any) -> float | None:
    """A finite number, also one between quotes or with a percent sign left on; None for anything else."""
    if isinstance(answer, str):
        answer = answer.strip().removesuffix("%").replace("−", "-").replace(",", ".")
    elif not isinstance(answer, number_types.Real) or isinstance(answer, bool):
        return None
    try:
        number = float(answer)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
