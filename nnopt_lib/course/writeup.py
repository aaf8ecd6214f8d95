"""The write-up: a short paper whose every number, verdict, table and figure is read from published records.

`book/writeup/paper.typ` names records and figures; `build_writeup` looks them up, refuses what is unknown or
stale, draws the figures at column width, hands all of it to Typst as one JSON file and compiles, offline.
"""

from __future__ import annotations

import datetime
import hashlib
import inspect
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nnopt_lib.checks import NnoptError, nearest, refuse
from nnopt_lib.experiments.records import read_published
from nnopt_lib.files import write_atomically
from nnopt_lib.measure.statistics import interval
from nnopt_lib.paths import build_folder, project_root, results_folder
from nnopt_lib.results.claims import VERDICTS as CLAIM_VERDICTS
from nnopt_lib.results.claims import family_size, published_band
from nnopt_lib.results.figures import redraw
from nnopt_lib.results.seals import RESTORE, read_published_json, read_status, seal_problems
from nnopt_lib.results.staleness import check_fresh, read_claims, row_hashes

SOURCE = "book/writeup/paper.typ"
REPLAY_VERDICTS = ("inside", "differs", "order replayed", "order not replayed", "quoted only")
VERDICTS = (*REPLAY_VERDICTS, *CLAIM_VERDICTS)
COLUMN_INCHES = 3.25  # of the paper's columns; figures are drawn for it, never scaled


def build_writeup(out: Path | None = None) -> Path:
    """Build the paper as PDF from published rows and return its path; equal rows give equal bytes.

    Parameters:
        out: the file; by default ``build/writeup/paper.pdf``.
    Refuses a name in the source that no chapter recorded, and records or figures whose rows have changed
    since they were made: one line each, with the row file. Needs no network.
    """
    out = out or build_folder() / "writeup" / "paper.pdf"
    if out.is_dir():
        refuse("--out must name a file", f"the folder {out}", f"As {out / 'paper.pdf'}.")
    source = project_root() / SOURCE
    if not source.is_file():
        refuse(f"the write-up needs its source {SOURCE}", f"no such file in {project_root()}")
    records, figures = _used_in(source.read_text(encoding="utf-8"))
    stored = {name: read_published_json(results_folder() / "figures" / f"{name}.json") for name in figures}
    check_fresh(
        records | {f"figure {name}": {**figure, "chapter": name[:2]} for name, figure in stored.items()}
    )
    _check_seals()
    chapters = [chapter_facts(name) for name in read_status()]
    facts = {
        "records": {name: shown(record) for name, record in records.items()},
        "figures": {name: {"alt": figure["alt"]} for name, figure in stored.items()},
        "chapters": chapters,
        "about": _about(chapters),
    }
    # Apart, since Typst reads only below its root: nothing else of the machine can get into the paper.
    with tempfile.TemporaryDirectory() as folder:
        for name in figures:
            redraw(name, style="paper", width_inches=COLUMN_INCHES, formats=["pdf"], out=Path(folder))
        (Path(folder) / "facts.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
        shutil.copy(source, folder)
        shutil.copy(project_root() / "book" / "references.bib", folder)
        content = _compile(Path(folder), chapters)
    write_atomically(out, content)
    return out


def _check_seals() -> None:
    """Refuse a published file that is not what its chapter was saved with, named in the paper or not."""
    lines = [
        f"{problem}. {RESTORE.format(chapter[:2])}"
        for chapter in read_status()
        for problem in seal_problems(chapter)
    ]
    if lines:
        raise NnoptError("\n".join(lines))


def _compile(folder: Path, chapters: Iterable[Mapping[str, Any]]) -> bytes:
    """The PDF; its date is that of the newest rows, and only fonts that come with Typst are used."""
    import typst

    newest = max(datetime.datetime.fromisoformat(chapter["finished_at"]) for chapter in chapters)
    try:
        return bytes(
            typst.compile(
                str(folder / Path(SOURCE).name),
                root=str(folder),
                ignore_system_fonts=True,
                timestamp=int(newest.timestamp()),
            )
        )
    except typst.TypstError as error:
        raise NnoptError(f"{SOURCE} could not be compiled: {' '.join(str(error).split())}.") from error


def _used_in(text: str) -> tuple[dict[str, Any], list[str]]:
    """The records that the source names, all replays, and its figures; an unknown name is refused."""
    known = read_claims()
    text = re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)  # what a comment names need not exist
    in_source = dict.fromkeys(re.findall(r'"(\d\d-[\w-]+/[^"]+)"', text))
    for name in in_source:
        if name not in known:
            chapter = [other for other in known if other.startswith(name.partition("/")[0])]
            refuse(f"{SOURCE} names the record {name!r}, which no chapter made", None, nearest(name, chapter))
    figures = list(dict.fromkeys(re.findall(r'fig\("([^"]+)"', text)))
    published = [path.stem for path in (results_folder() / "figures").glob("*.json")]
    for name in figures:
        if name not in published:
            refuse(
                f"{SOURCE} names the figure {name!r}, which is not published",
                None,
                nearest(name, published or ["none"]),
            )
    return {
        name: record for name, record in known.items() if name in in_source or record["kind"] == "replay"
    }, figures


def shown(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the paper shows of a claim or a replay: words and rounded numbers, as text.

    ``mean``, ``low`` and ``high`` are rounded to two significant digits of the interval's width;
    ``less`` holds the three of the opposite sign, for a sentence the other way round.
    """
    facts: dict[str, Any] = {"chapter": record["chapter"][:2], "kind": record["kind"]}
    if record["kind"] == "replay":
        verdict, _, because = record["verdict"].removeprefix("replayed, ").partition(", because ")
        published = {**record, "published": float(f"{record['published']:.4g}")}  # some are ratios of two
        facts |= {"quantity": record["quantity"], "published": published_band(published).replace("-", "−")}
        facts |= {"source": record["source"], "mark": record["mark"], "verdict": verdict, "because": because}
    else:
        facts |= {"verdict": record["verdict"], "sentence": record["sentence"]}
    numbers = record if record["kind"] == "replay" else record["numbers"]
    if "low" in numbers and "high" in numbers:
        estimate = {key: numbers[key] for key in ("mean", "low", "high") if key in numbers}
        turned = {"low": -numbers["high"], "high": -numbers["low"]}
        facts |= {
            **_rounded(estimate),
            "less": _rounded({**{key: -estimate[key] for key in estimate}, **turned}),
        }
    return facts


def _rounded(estimate: Mapping[str, float]) -> dict[str, str]:
    width = estimate["high"] - estimate["low"]
    digits = max(0, 1 - math.floor(math.log10(width))) if width > 0 else 2
    # Adding 0.0 makes 0.0 of the -0.0 that rounding may leave, which would print a sign.
    return {
        key: f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−") for key, value in estimate.items()
    }


def chapter_facts(chapter: str) -> dict[str, Any]:
    """What stands under a chapter's records: runs, seeds, hours of computing, commit and date of its rows."""
    saved = read_status()[chapter]
    verdicts = [shown(one)["verdict"] for one in read_claims().values() if one["chapter"] == chapter]
    experiments = [name for name in saved["rows"] if name.startswith(f"{chapter[:2]}-")]
    runs = [read_published(name).values() for name in experiments]
    seeds = [count for records in runs for count in _seeds(records)]
    origins = [one["provenance"] for records in runs for one in records]
    return {
        "name": chapter,
        **{word: verdicts.count(word) for word in VERDICTS},
        "runs": len(origins),
        "seeds": " to ".join(str(count) for count in sorted({min(seeds), max(seeds)})) if seeds else "–",
        "hours": round(sum(origin["duration_seconds"] for origin in origins) / 3600, 2),
        "finished_at": max(origin["finished_at"] for origin in origins),
        "commit": str(saved["commit"])[:8] + ("+" if str(saved["commit"]).endswith("+changes") else ""),
    }


def _seeds(records: Iterable[Mapping[str, Any]]) -> list[int]:
    """How many seeds each comparison of an experiment has: rows with the same words (kind, part, ...)."""
    seeds: dict[str, set[Any]] = {}
    for record in records:
        for row in record["rows"]:
            fields = {**record["settings"], **row}
            words = {name: value for name, value in fields.items() if isinstance(value, str)}
            if "seed" in fields:
                seeds.setdefault(json.dumps(words, sort_keys=True), set()).add(fields["seed"])
    return [len(different) for different in seeds.values()]


def _about(chapters: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over all chapters, and what identifies the rows."""
    experiments = [path.stem for path in results_folder().glob("*.jsonl")]
    hashes = json.dumps(row_hashes(experiments), sort_keys=True)
    confidence = inspect.signature(interval).parameters["confidence"].default
    family = [record for record in read_claims().values() if "p" in record]
    return {
        "claims": family_size(family),
        **{word: sum(chapter[word] for chapter in chapters) for word in (*VERDICTS, "runs")},
        "confidence": f"{100 * confidence:g}",
        "hours": f"{sum(chapter['hours'] for chapter in chapters):.0f}",
        "date": max(chapter["finished_at"] for chapter in chapters)[:10],
        "rows_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        "column_inches": COLUMN_INCHES,
    }
