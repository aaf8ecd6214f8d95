"""Claims and replays: conclusions as checked statements, printed where they are made and kept for the ledger.

A claim that does not hold is printed and recorded as such; it never stops a chapter, since an honest miss is
a result. The book's ledger page is made from these records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nnopt_lib.checks import check_choice, check_number, refuse
from nnopt_lib.experiments.records import plain
from nnopt_lib.experiments.rows import experiments_of
from nnopt_lib.files import write_atomically
from nnopt_lib.paths import build_folder

MARKS = {"V": "read in the primary source", "V2": "read in a secondary source", "M": "from memory"}


def claim(chapter: str, id: str, sentence: str, *, holds: bool, rows: Any, **numbers: Any) -> None:
    """Print a conclusion, marked by whether the rows bear it out, and record it.

    Parameters:
        chapter: as in ``"01-source-article"``; id: its name within the chapter.
        sentence: a whole sentence whose numbers come from rows, usually an f-string.
        holds: the condition, computed from rows. False prints "does not hold" and is recorded.
        rows: of `run_experiment`, all that the sentence, `holds` and `numbers` were computed from, in lists
            or lists of lists; the record says under `rests_on` which experiments they belong to. ``()`` for
            what rests on no stored rows, as an equality that was asserted or a count from a description.
        numbers: those of the sentence (mean, low, high, ...), kept in the record.

    Example:
        >>> claim("00-demo", "more", "Two is more than one.", holds=2 > 1, rows=())
        ✓ Two is more than one.
    """
    # By its name, for NumPy's comparisons give a bool_, which is no subclass of bool.
    if not isinstance(holds, bool) and type(holds).__name__ not in ("bool", "bool_"):
        refuse("holds must be True or False, computed from rows", repr(holds))
    record = {"kind": "claim", "sentence": sentence, "holds": bool(holds), "numbers": numbers}
    record["rests_on"] = experiments_of(rows)
    print(statement(record))
    _record(chapter, id, record)


def replay(
    chapter: str,
    id: str,
    *,
    quantity: str,
    published: float,
    half_width: float = 0.0,
    at_least: bool = False,
    measured: tuple[float, float, float],
    rows: Any,
    mark: str,
    source: str,
    because: str = "",
) -> None:
    """Compare a published number with ours, print the verdict, and record it for the replication ledger.

    Parameters:
        id: of the replay, as in ``"mnist1d-models"``, with the case behind a slash where there are several.
        quantity: what is compared, with its unit.
        published, half_width: the number, and what its source puts behind ±.
        at_least: the source says that it is more than `published`, and not how much more.
        measured: (mean, low, high) of our 95 % interval.
        rows: what `measured` was computed from, as in `claim`.
        mark: how sure we are of the published number: ``"V"``, ``"V2"`` or ``"M"``.
        source: key of the bibliography.
        because: the likely cause where the two differ; without one the ledger says "cause unknown".

    The verdict is *replayed, inside* when our interval and the published band overlap.

    Example:
        >>> replay(
        ...     "00-demo", "x", quantity="accuracy, %", published=68, half_width=2,
        ...     measured=(67.0, 66.5, 67.5), rows=(), mark="V", source="greydanus2024scaling",
        ... )
        accuracy, %: published 68 ± 2 · ours 67 [66.5, 67.5] · replayed, inside
    """
    check_choice("mark", mark, MARKS)
    check_number("half_width", half_width, at_least=0)
    # Compared with <= and no tolerance: bands that touch overlap.
    mean, low, high = measured
    if not low <= mean <= high:
        refuse("measured must be (mean, low, high) in this order", measured)
    inside = high >= published - half_width and (at_least or low <= published + half_width)
    verdict = "replayed, inside" if inside else f"replayed, differs, because {because or 'cause unknown'}"
    record = {"kind": "replay", "quantity": quantity, "published": published, "half_width": half_width}
    record |= {"at_least": at_least, "mean": mean, "low": low, "high": high}
    record |= {"mark": mark, "source": source, "verdict": verdict, "rests_on": experiments_of(rows)}
    print(statement(record))
    _record(chapter, id, record)


def statement(record: Mapping[str, Any]) -> str:
    """The line that a claim or a replay prints, its verdict with it, from its record."""
    if record["kind"] == "claim":
        return ("✓ " if record["holds"] else "✗ does not hold here: ") + str(record["sentence"])
    ours = "{mean:.3g} [{low:.3g}, {high:.3g}]".format(**record)
    return f"{record['quantity']}: published {published_band(record)} · ours {ours} · {record['verdict']}"


def published_band(record: Mapping[str, Any]) -> str:
    """The published side of a replay's record as text: ``68 ± 2``, or ``above 0.3``."""
    plus_minus = f" ± {record['half_width']:g}" if record["half_width"] else ""
    return f"{'above ' if record.get('at_least') else ''}{record['published']:g}{plus_minus}"


def _record(chapter: str, id: str, record: dict[str, Any]) -> None:
    """Put one record into ``build/claims/<chapter>.json``, in the place of an older one of the same id."""
    file = build_folder() / "claims" / f"{chapter}.json"
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        records = []  # none yet, or damaged: the chapter that is running writes all of them again
    # A cell that is run again in a notebook replaces what it said before.
    records = [old for old in records if old.get("id") != id]
    new = plain({"chapter": chapter, "id": id, **record}, f"the numbers of claim {id}")
    write_atomically(file, json.dumps([*records, new], indent=1, ensure_ascii=False) + "\n")
