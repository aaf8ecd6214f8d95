"""Claims and replays: conclusions as checked statements, printed where they are made, kept for the ledger.

A claim has three verdicts: it holds, it holds the other way round, or it is undecided. None of them stops a
chapter, since an honest miss is a result. The claims of a chapter are one family: their verdicts are adjusted
for how many they are. The book's ledger is made from these records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nnopt_lib.checks import check_choice, check_number, refuse
from nnopt_lib.experiments.records import plain
from nnopt_lib.experiments.rows import experiments_of
from nnopt_lib.files import write_atomically
from nnopt_lib.measure.statistics import holm, interval, p_value
from nnopt_lib.paths import build_folder

MARKS = {"V": "read in the primary source", "V2": "read in a secondary source", "M": "from memory"}
ALPHA = 0.05  # of a whole family
TESTS = ("above", "below", "within")
# Of a claim that rests on a sample; of one that is a count, an equality or an order of given numbers.
VERDICTS = ("holds", "holds the other way round", "undecided", "does not hold")


def claim(
    chapter: str,
    id: str,
    sentence: str,
    *,
    rows: Any,
    sample: Sequence[float] | None = None,
    above: float | None = None,
    below: float | None = None,
    within: float | None = None,
    unit: str = "points",
    digits: int = 2,
    holds: bool | None = None,
    **numbers: Any,
) -> None:
    """Print a conclusion with its interval and its verdict, and record it.

    Parameters:
        chapter: as in ``"01-source-article"``; id: its name within the chapter.
        sentence: without a point at its end where a sample follows, which is printed behind a colon; a whole
            one where `holds` is given. Its numbers come from rows, usually by an f-string.
        rows: of `run_experiment`, all that the sentence, the sample and `numbers` were computed from, in
            lists or lists of lists; the record says under `rests_on` which experiments they belong to.
            ``()`` for what rests on no stored rows, as an equality that was asserted or a counted cost.
        sample: one number for each independent unit (seed, split, draw of the data), often
            `measure.differences`; the claim is about their mean.
        above, below: the sentence says that the mean lies on this side of so much (0 for "more" or "less").
        within: the sentence says that the mean lies between minus and plus so much, a margin named before.
        unit, digits: of the sample, as printed; numbers: further ones, kept in the record.
        holds: instead of a sample, whether a plain fact about the rows is true (a count, an order).

    The verdict is *holds* if the 95 % interval lies where the sentence says, *holds the other way round* if
    it lies on the other side (for `within`, beyond the margin), else *undecided*; adjusted by Holm's method
    for all claims of the chapter that rest on samples.

    Example:
        >>> claim("00-demo", "more", "Two is more than one.", holds=2 > 1, rows=())
        ✓ Two is more than one.
        >>> claim("00-demo", "gain", "It gains", sample=[1.0, 1.2, 0.9], above=0, rows=())
        · It gains: +1.03 points (95 % interval +0.65 to +1.41, n = 3).
    """
    bounds = {"above": above, "below": below, "within": within}
    tests = {name: value for name, value in bounds.items() if value is not None}
    record: dict[str, Any] = {"kind": "claim", "sentence": sentence}
    if holds is not None:
        # By its name, for NumPy's comparisons give a bool_, which is no subclass of bool.
        if not isinstance(holds, bool) and type(holds).__name__ not in ("bool", "bool_"):
            refuse("holds must be True or False, computed from rows", repr(holds))
        if sample is not None or tests:
            given = ", ".join(["sample"] * (sample is not None) + list(tests))
            refuse("a claim must have either holds or a sample with a bound", f"holds and {given}")
        record |= {"verdict": "holds" if holds else "does not hold", "numbers": numbers}
    else:
        if sample is None or len(tests) != 1:
            received = f"{'no' if sample is None else 'a'} sample and {', '.join(tests) or 'no bound'}"
            refuse(f"a claim must have holds, or a sample and one of {', '.join(TESTS)}", received)
        record |= _tested(sentence, list(sample), *tests.popitem(), unit, digits, numbers)
    record["rests_on"] = experiments_of(rows)
    _record(chapter, id, record)
    print(statement(record) if holds is not None else f"· {record['sentence']}")


def _tested(
    sentence: str,
    sample: list[float],
    test: str,
    bound: float,
    unit: str,
    digits: int,
    numbers: Mapping[str, Any],
) -> dict[str, Any]:
    """The fields of a claim that rests on a sample."""
    check_number(test, bound, **({"above": 0} if test == "within" else {}))
    mean, low, high = interval(sample)
    shown = [f"{value:+.{digits}f}" for value in (mean, low, high)]
    tail = f": {shown[0]} {unit} (95 % interval {shown[1]} to {shown[2]}, n = {len(sample)})."
    return {
        "sentence": sentence + tail,
        "numbers": {"mean": mean, "low": low, "high": high, "n": len(sample), **numbers},
        "test": {test: bound},
        "p": p_value(sample, margin=bound, absolute=test == "within"),
        "verdict": "undecided",  # until its family is known
    }


def _adjust(records: Sequence[dict[str, Any]]) -> None:
    """Give all claims of a family that rest on samples their adjusted p-values and verdicts, in place."""
    family = [record for record in records if "p" in record]
    for record, adjusted in zip(family, holm([record["p"] for record in family]), strict=True):
        ((test, bound),) = record["test"].items()
        mean = record["numbers"]["mean"]
        as_said = {"above": mean > bound, "below": mean < bound, "within": abs(mean) < bound}[test]
        decided = VERDICTS[0] if as_said else VERDICTS[1]
        record |= {"p_adjusted": adjusted, "verdict": decided if adjusted < ALPHA else "undecided"}
        record["alone"] = decided if record["p"] < ALPHA else "undecided"


def verdicts(chapter: str) -> None:
    """Print the verdicts of a chapter's claims, how many there are, and how many chance alone would decide.

    Example:
        >>> claim("00-demo", "gain", "It gains", sample=[1.0, 1.2, 0.9], above=0, rows=())
        · It gains: +1.03 points (95 % interval +0.65 to +1.41, n = 3).
        >>> verdicts("00-demo")  # doctest: +ELLIPSIS
        1 claim was tested at 5 %; if nothing were true, chance alone would decide 0.1 of them. Decided...
        holds: gain
    """
    family = [record for record in _read(chapter) if "p" in record]
    print(family_size(family))
    for verdict in VERDICTS[:3]:
        names = [record["id"] for record in family if record["verdict"] == verdict]
        if names:
            print(f"{verdict}: {', '.join(names)}")
    if lost := [r["id"] for r in family if r["alone"] != r["verdict"]]:
        print(f"undecided only because there are so many: {', '.join(lost)}")


def family_size(family: Sequence[Mapping[str, Any]]) -> str:
    """How many claims a family has and what chance alone would give, as a sentence or two."""
    decided, adjusted = (sum(r[name] != "undecided" for r in family) for name in ("alone", "verdict"))
    count = len(family)
    words = f"{count} claim was" if count == 1 else f"{count} claims were"
    return (
        f"{words} tested at {100 * ALPHA:g} %; if nothing were true, chance alone would decide "
        f"{ALPHA * count:.1f} of them. "
        f"Decided one by one: {decided}; after Holm's adjustment: {adjusted}."
    )


def replay(
    chapter: str,
    id: str,
    *,
    quantity: str,
    published: float,
    rows: Any,
    mark: str,
    source: str,
    measured: tuple[float, float, float] | None = None,
    half_width: float = 0.0,
    at_least: bool = False,
    order: bool | None = None,
    because: str = "",
) -> None:
    """Compare a published number with ours, print the verdict, and record it for the replication ledger.

    Parameters:
        id: of the replay, as in ``"mnist1d-models"``, with the case behind a slash where there are several.
        quantity: what is compared, with its unit.
        published, half_width: the number, and what its *source* puts behind ±; no band of our own making.
        rows: what `measured` was computed from, as in `claim`.
        mark: how sure we are of the published number: ``"V"``, ``"V2"`` or ``"M"``.
        source: key of the bibliography.
        measured: (mean, low, high) of our 95 % interval; None where the number is quoted only.
        at_least: the source says that it is more than `published`, and not how much more.
        order: where the setting had to change so much that numbers cannot be compared, whether ours have the
            order (the sign, the ranking) of the published ones.
        because: where the two differ, the likely cause (without one the ledger says "cause unknown"); with
            `order` or without `measured`, what had to change, which must be said.

    The verdict is *replayed, inside* when our interval and the published band overlap, else *replayed,
    differs*; *order replayed* or *order not replayed*; or *quoted only*.

    Example:
        >>> replay(
        ...     "00-demo", "x", quantity="accuracy, %", published=68, half_width=2,
        ...     measured=(67.0, 66.5, 67.5), rows=(), mark="V", source="greydanus2024scaling",
        ... )
        accuracy, %: published 68 ± 2 · ours 67 [66.5, 67.5] · replayed, inside
    """
    check_choice("mark", mark, MARKS)
    check_number("half_width", half_width, at_least=0)
    if (measured is None or order is not None) and not because:
        refuse("a replay of the order alone, or of nothing, must say what had to change", "no because")
    record: dict[str, Any] = {"kind": "replay", "quantity": quantity}
    record |= {"published": published, "half_width": half_width, "at_least": at_least}
    if measured is not None:
        mean, low, high = measured
        if not low <= mean <= high:
            refuse("measured must be (mean, low, high) in this order", measured)
        record |= {"mean": mean, "low": low, "high": high}
    verdict = _compared(record, order)
    reason = "" if verdict == "replayed, inside" else f", because {because or 'cause unknown'}"
    record |= {"mark": mark, "source": source, "verdict": verdict + reason, "rests_on": experiments_of(rows)}
    print(statement(record))
    _record(chapter, id, record)


def _compared(record: Mapping[str, Any], order: bool | None) -> str:
    if "mean" not in record:
        return "quoted only"
    if order is not None:
        return "order replayed" if order else "order not replayed"
    # Compared with <= and no tolerance: bands that touch overlap.
    published, half_width = record["published"], record["half_width"]
    below_top = record["at_least"] or record["low"] <= published + half_width
    inside = record["high"] >= published - half_width and below_top
    return "replayed, inside" if inside else "replayed, differs"


def statement(record: Mapping[str, Any]) -> str:
    """The line that a claim or a replay prints, its verdict with it, from its record."""
    if record["kind"] == "claim":
        if "p" in record:
            return f"{record['verdict']}: {record['sentence']}"
        return ("✓ " if record["verdict"] == "holds" else "✗ does not hold here: ") + str(record["sentence"])
    ours = " · ours {mean:.3g} [{low:.3g}, {high:.3g}]".format(**record) if "mean" in record else ""
    return f"{record['quantity']}: published {published_band(record)}{ours} · {record['verdict']}"


def published_band(record: Mapping[str, Any]) -> str:
    """The published side of a replay's record as text: ``68 ± 2``, or ``above 0.3``."""
    plus_minus = f" ± {record['half_width']:g}" if record["half_width"] else ""
    return f"{'above ' if record.get('at_least') else ''}{record['published']:g}{plus_minus}"


def _read(chapter: str) -> list[dict[str, Any]]:
    """The records of ``build/claims/<chapter>.json``."""
    try:
        records = json.loads((build_folder() / "claims" / f"{chapter}.json").read_text(encoding="utf-8"))
        return list(records)
    except (OSError, ValueError):
        return []  # none yet, or damaged: the chapter that is running writes all of them again


def _record(chapter: str, id: str, record: dict[str, Any]) -> None:
    """Put one record into ``build/claims/<chapter>.json``, in the place of an older one of the same id."""
    # A cell that is run again in a notebook replaces what it said before.
    records = [old for old in _read(chapter) if old.get("id") != id]
    records.append(plain({"chapter": chapter, "id": id, **record}, f"the numbers of claim {id}"))
    _adjust(records)
    text = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
    write_atomically(build_folder() / "claims" / f"{chapter}.json", text)
