"""Compute published rows anew on this machine, and tell how far the two machines' results are apart."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters.prepare import prepare
from nnopt_lib.course.chapters.run import Recomputed, recomputed
from nnopt_lib.course.chapters.source import Chapter
from nnopt_lib.experiments.provenance import provenance
from nnopt_lib.experiments.records import damaged_lines, read_published, read_record, sealed
from nnopt_lib.files import write_atomically
from nnopt_lib.paths import results_folder
from nnopt_lib.results.claims import statement
from nnopt_lib.results.seals import read_json, seal_problems
from nnopt_lib.results.staleness import read_claims, read_machine

TIMES = ("_seconds", "_per_second")  # endings of fields that hold times
# A row with one of these fields is a timing as a whole: its other numbers are ratios and intervals of times.
TIMING_FIELDS = {"seconds", "milliseconds", "microseconds", "nanoseconds"}


@dataclasses.dataclass(frozen=True)
class Difference:
    """Two values of one run: `distance` is |a − b| / max(1, |a|, |b|), infinite where they are no numbers."""

    distance: float
    run_id: str
    field: str
    published: Any
    computed: Any

    def __str__(self) -> str:
        values = f"published {self.published!r}, computed {self.computed!r}"
        return f"{self.field} of run {self.run_id}: {values}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One experiment: how many published runs were compared, differ at all, and differ beyond the tolerance.

    `absent` are published runs that the chapter no longer asks for when it is computed here, as a search may.
    """

    experiment: str
    runs: int
    unequal: int
    differing: int
    absent: int
    worst: Difference | None
    processors: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """What came of one chapter: `claims` is how many were compared, `changed` those that read otherwise."""

    chapter: Chapter
    profile: str
    tolerance: float
    damaged: list[str]
    failure: str = ""
    comparisons: list[Comparison] = dataclasses.field(default_factory=list)
    claims: int | None = None
    changed: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def runs(self) -> int:
        """The number of runs compared."""
        return sum(one.runs for one in self.comparisons)

    @property
    def differing(self) -> int:
        """The number of runs that differ by more than the tolerance."""
        return sum(one.differing for one in self.comparisons)

    @property
    def worst(self) -> tuple[str, Difference] | None:
        """The largest difference of all, and its experiment; None where no run differs in any digit."""
        apart = [(one.experiment, one.worst) for one in self.comparisons if one.worst]
        return max(apart, key=lambda pair: pair[1].distance, default=None)


def verify_chapter(chapter: Chapter, tolerance: float, profile: str = "quick") -> Report:
    """Compute `profile` of `chapter` anew, apart, and compare with its published rows.

    The runs that are published too are compared, value by value; numbers may differ by `tolerance`, relative
    or absolute, and times are not compared. In the published profile its conclusions are compared as well,
    but those about times. Nothing is refused: the report names damaged lines, and why a chapter failed.
    """
    files = sorted(results_folder().glob(f"{chapter.number}-*.jsonl"))
    damaged = [line for file in files for line in damaged_lines(file.stem)]
    # A line that is missing or was put there by hand can be whole in itself.
    named = "".join(damaged)
    unsealed = [line for line in seal_problems(chapter.name) if line.partition(" ")[0] not in named]
    damaged += [line for line in unsealed if line.startswith("results/")]
    report = Report(chapter, profile, tolerance, damaged)
    try:
        with recomputed(prepare(chapter, profile, {"recompute": "true"})) as apart:
            compared = [
                _compare(name, ids, apart.folder / "store", report)
                for name, ids in apart.used.items()
                if ids  # else it only quotes published rows, which are another chapter's to verify
            ]
            report = dataclasses.replace(report, comparisons=compared)
            if profile == "published":
                claims, changed = _compare_claims(chapter, apart)
                report = dataclasses.replace(report, claims=claims, changed=changed)
    except NnoptError as error:
        return dataclasses.replace(report, failure=str(error))
    if not report.runs:
        rule = (
            f"the {profile} profile of {chapter.name} must share runs with its published rows; received none"
        )
        report = dataclasses.replace(report, failure=f"{rule}. Run nnopt run {chapter.number} --save first.")
    return report


def _compare(experiment: str, run_ids: Iterable[str], store: Path, report: Report) -> Comparison:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged lines stand in the report
        published = read_published(experiment)
    shared = {identity: published[identity] for identity in sorted(published.keys() & set(run_ids))}
    worst, processors = [], set()
    for identity, record in shared.items():
        computed = read_record(store / experiment / f"{identity}.json") or {"rows": None}
        apart = list(_differences(identity, record["rows"], computed["rows"]))
        if apart:  # else it holds times only
            worst.append(max(apart, key=lambda one: one.distance))
            processors.add(record["provenance"].get("hardware", {}).get("cpu", "an unknown processor"))
    unequal = [one for one in worst if one.distance > 0]
    return Comparison(
        experiment,
        runs=len(worst),
        unequal=len(unequal),
        differing=sum(one.distance > report.tolerance for one in unequal),
        absent=len(published) - len(shared) if report.profile == "published" else 0,
        worst=max(unequal, key=lambda one: one.distance, default=None),
        processors=tuple(sorted(processors)),
    )


def _differences(run_id: str, published: list[dict[str, Any]], computed: Any) -> Iterator[Difference]:
    """Every pair of values of one run but times; one infinite difference where the rows do not match."""
    if not isinstance(computed, list) or [row.keys() for row in computed] != [
        row.keys() for row in published
    ]:
        yield Difference(math.inf, run_id, "rows", published, computed)
        return
    for number, (row, other) in enumerate(zip(published, computed, strict=True), start=1):
        if TIMING_FIELDS & row.keys():
            continue
        for name in row:
            if not name.endswith(TIMES):
                field = f"{name} in row {number}" if len(published) > 1 else name
                for distance, one, its_twin in _pairs(row[name], other[name]):
                    yield Difference(distance, run_id, field, one, its_twin)


def _pairs(published: Any, computed: Any) -> Iterator[tuple[float, Any, Any]]:
    """The plain values inside two values, pair by pair, with their distance."""
    if isinstance(published, list) and isinstance(computed, list) and len(published) == len(computed):
        for one, other in zip(published, computed, strict=True):
            yield from _pairs(one, other)
    elif isinstance(published, dict) and isinstance(computed, dict) and published.keys() == computed.keys():
        for name in published:
            yield from () if name.endswith(TIMES) else _pairs(published[name], computed[name])
    else:
        yield _distance(published, computed), published, computed


def _distance(published: Any, computed: Any) -> float:
    if published == computed or (published != published and computed != computed):  # NaN is not itself
        return 0.0
    if not isinstance(published, (int, float)) or not isinstance(computed, (int, float)):
        return math.inf
    # Relative for large numbers, absolute for those near 0, where two roundings may differ by any factor.
    apart = abs(published - computed) / max(1, abs(published), abs(computed))
    return apart if math.isfinite(apart) else math.inf


def _compare_claims(chapter: Chapter, apart: Recomputed) -> tuple[int, list[dict[str, Any]]]:
    """How many conclusions were compared, and those that read otherwise, in both wordings."""
    published = {
        record["id"]: record for record in read_claims().values() if record["chapter"] == chapter.name
    }
    file = apart.folder / "claims" / f"{chapter.name}.json"
    computed = {record["id"]: record for record in (read_json(file) if file.is_file() else [])}
    ignored = _ignored_output(apart.notebook)
    kept = [
        identity
        for identity in {**published, **computed}
        if not any(_is_timing(book[identity], ignored) for book in (published, computed) if identity in book)
    ]
    changed = []
    for identity in kept:
        one, other = (_statement_and_verdict(book.get(identity)) for book in (published, computed))
        if one != other:
            words = {"published": one[0], "computed": other[0], "moved": one[1] != other[1]}
            changed.append({"id": identity, **words})
    return len(kept), changed


def _statement_and_verdict(record: Mapping[str, Any] | None) -> tuple[str, Any]:
    """What a claim or replay says, and its verdict; that it is missing if only the other side has it."""
    if record is None:
        return "not stated", None
    return statement(record), record["verdict"]


def _ignored_output(notebook: str) -> str:
    """What the cells printed whose output depends on the machine, as their tag says: times, above all."""
    cells = [one for one in json.loads(notebook)["cells"] if one["cell_type"] == "code"]
    tagged = [one for one in cells if "nbval-ignore-output" in one["metadata"].get("tags", [])]
    outputs = [output for one in tagged for output in one["outputs"] if output["output_type"] == "stream"]
    return "".join("".join(output["text"]) for output in outputs)


def _is_timing(record: Mapping[str, Any], ignored: str) -> bool:
    words = statement(record)
    timed = re.search(r"latency|measured.*speed-up", f"{record['id']} {words}")
    return words in ignored or bool(timed)


def problems(report: Report) -> list[str]:
    """What makes the verification fail, one sentence each: a line for every experiment that differs."""
    here, name = provenance()["hardware"]["cpu"], report.chapter.name
    lines = [
        f"{line}; take the file from git or run nnopt run {report.chapter.number} --save."
        for line in report.damaged
    ]
    lines += [report.failure] if report.failure else []
    for one in report.comparisons:
        machines = f"published on {', '.join(one.processors)}; computed on {here}"
        if one.differing:
            how_many = f"{one.differing} of {one.runs} runs differ by more than {report.tolerance:g}"
            lines.append(f"{one.experiment}: {how_many}, at most {one.worst} ({machines}).")
        if one.absent:
            lines.append(
                f"{one.experiment}: {one.absent} published runs are not asked for here ({machines})."
            )
    for moved in (one for one in report.changed if one["moved"]):
        words = f"published {moved['published']!r}, computed {moved['computed']!r}"
        lines.append(f"{name}: the verdict on {moved['id']} moves: {words} (computed on {here}).")
    return lines


def summary(report: Report) -> list[str]:
    """What is printed of a chapter whatever came of it, a line or more."""
    name, tolerance = f"{report.chapter.name:24}", f"{report.tolerance:g}"
    if report.differing:
        lines = [f"{name} {report.differing} of {report.runs} runs differ by more than {tolerance}"]
    elif report.runs:
        lines = [f"{name} {report.runs} runs equal to within {tolerance}"]
    else:
        lines = [f"{name} nothing compared"]
    if report.claims is not None:
        moved = sum(one["moved"] for one in report.changed)
        lines.append(
            f"{'':24} {report.claims} claims: {len(report.changed)} read otherwise, {moved} change verdict"
        )
    for one in report.changed:
        lines += [f"  {one['id']}", f"    published: {one['published']}", f"    computed:  {one['computed']}"]
    return lines


def save_report(report: Report) -> Path:
    """Put a report into ``chapters/results/machines/<processor>.json``, beside those of other chapters.

    Returns the path. The book's page on machines is made from these files.
    """
    origin = provenance()
    cpu = origin["hardware"]["cpu"]
    name = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", cpu.lower())).strip("-")
    file = results_folder() / "machines" / f"{name}.json"
    chapters = read_machine(file)["chapters"] if file.is_file() else {}
    chapters.setdefault(report.chapter.name, {})[report.profile] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **origin,
        "published_on": sorted({cpu for one in report.comparisons for cpu in one.processors}),
        "tolerance": report.tolerance,
        **_counts(report.comparisons),
        "worst": _worst(report),
        "claims": report.claims,
        "changed": report.changed,
    }
    content = sealed({"cpu": cpu, "chapters": dict(sorted(chapters.items()))})
    write_atomically(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return file


def _counts(comparisons: Sequence[Comparison]) -> dict[str, int]:
    names = ("runs", "unequal", "differing", "absent")
    return {name: sum(getattr(one, name) for one in comparisons) for name in names}


def _worst(report: Report) -> dict[str, Any] | None:
    if report.worst is None:
        return None
    experiment, apart = report.worst
    values = {"field": apart.field, "published": apart.published, "computed": apart.computed}
    return {"experiment": experiment, "run_id": apart.run_id, **values}
