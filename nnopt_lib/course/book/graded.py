"""Tables of the kinds of submissions that were graded, for the page on how labs are graded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from nnopt_lib.paths import project_root

_FILE = "book/labs-graded.json"  # python -m tests.course.labs.graded_kinds writes it
_TITLES = {"honest": "Ways to solve and to type", "odd": "Notebooks that came out oddly"}
_HEADS = ("kind", "a fair reader gives", "given", "where readers could differ")


def graded_tables() -> str:
    """A sentence on all kinds, and a Markdown table of each part with expected and given points of 5."""
    rows = json.loads((project_root() / _FILE).read_text(encoding="utf-8"))
    return "\n\n".join([_sentence(rows), *(_section(part, rows) for part in _TITLES)])


def _sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = [sum(row["part"] == part for row in rows) for part in _TITLES]
    apart = sum(row["expected"] != row["given"] for row in rows)
    judged = sum(bool(row["judgement"]) for row in rows)
    worst = max(abs(sum(row["expected"]) - sum(row["given"])) for row in rows)
    ending = (
        f"{apart} were given other points, by {worst:g} at most" if apart else "all were given these points"
    )
    return (
        f"Of {counts[0]} honest kinds and {counts[1]} odd ones, with points expected before any was graded, "
        f"{ending}. For {judged} of them readers could differ; the last column says why."
    )


def _section(part: str, rows: Sequence[Mapping[str, Any]]) -> str:
    here = [row for row in rows if row["part"] == part]
    lines = [[row["says"], _points(row["expected"]), _points(row["given"]), row["judgement"]] for row in here]
    return f"## {_TITLES[part]}\n\n" + tabulate(lines, _HEADS, tablefmt="pipe", disable_numparse=True)


def _points(parts: Sequence[float]) -> str:
    """The sum, and where something was lost of which exercise."""
    total = f"{sum(parts):g}"
    return total if sum(parts) in (0, 5) else f"{total} ({' + '.join(f'{part:g}' for part in parts)})"
