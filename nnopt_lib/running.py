"""Run chapters: skip what is fresh, execute the rest, and publish what the author saves."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnopt_lib.chapters import (
    Chapter,
    chapter_state,
    convert_parameters,
    default_parameters,
    freshness_key,
    note_file,
    read_note,
    read_source,
)
from nnopt_lib.checks import NnoptError, refuse
from nnopt_lib.execution import execute
from nnopt_lib.experiment import project_root, provenance, write_atomically
from nnopt_lib.published import row_hashes
from nnopt_lib.store import lock, publish, published_file, read_published, read_record


def run_chapter(
    chapter: Chapter,
    profile: str = "published",
    given: Mapping[str, str] | None = None,
    *,
    force: bool = False,
) -> bool:
    """Execute `chapter` unless it is fresh; True if it was executed.

    The output replaces ``build/notebooks/<profile>/NN-name.ipynb`` after success only.
    With the parameter `recompute` it is executed always.
    """
    with lock(note_file(chapter, profile)):  # a second run at once waits, then finds it fresh
        defaults = default_parameters(chapter, read_source(chapter))
        parameters = convert_parameters(chapter, defaults, {**(given or {}), "profile": profile})
        if not force and _is_fresh(chapter, profile, parameters):
            return False
        changed = {name: value for name, value in parameters.items() if value != defaults[name]}
        _execute_and_note(chapter, profile, changed, freshness_key(chapter, parameters))
    return True


def _is_fresh(chapter: Chapter, profile: str, parameters: Mapping[str, Any]) -> bool:
    recompute = parameters.get("recompute") is True
    return not recompute and chapter_state(chapter, profile, parameters).word == "fresh"


def _execute_and_note(chapter: Chapter, profile: str, changed: Mapping[str, Any], key: str) -> None:
    """Execute, and note what makes it fresh; `key` is older than the source read here, so an edit counts."""
    notebook = read_source(chapter)
    used_file = note_file(chapter, profile).with_suffix(".used")
    claims_file = project_root() / "build" / "claims" / f"{chapter.name}.json"
    for left_over in (used_file, claims_file):
        left_over.unlink(missing_ok=True)
    started = time.perf_counter()
    content = execute(
        chapter.name, notebook, changed, chapter.executed(profile), {"NNOPT_USED": str(used_file)}
    )
    note = {
        "key": key,
        "output_sha256": hashlib.sha256(content.encode()).hexdigest(),
        "duration_seconds": round(time.perf_counter() - started, 1),
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "used": _used(used_file),
        "provenance": provenance(),
        "claims": json.loads(claims_file.read_text(encoding="utf-8")) if claims_file.is_file() else [],
    }
    write_atomically(chapter.executed(profile), content)
    write_atomically(note_file(chapter, profile), json.dumps(note, indent=1) + "\n")


def _used(file: Path) -> dict[str, list[str]]:
    """The run ids that a chapter's calls of `run_experiment` noted, by experiment."""
    used: dict[str, set[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        note = json.loads(line)
        used.setdefault(note["experiment"], set()).update(note["run_ids"])
    file.unlink(missing_ok=True)
    return {experiment: sorted(run_ids) for experiment, run_ids in sorted(used.items())}


def run_chapters(
    chapters: Sequence[Chapter],
    profile: str = "published",
    given: Mapping[str, str] | None = None,
    *,
    jobs: int = 1,
    save: bool = False,
) -> dict[str, str]:
    """Execute what is not fresh, `jobs` chapters at once, each in a process with its share of the cores.

    All are tried; then the failures are raised together, one line each. Returns, for every chapter,
    ``executed`` or ``fresh``.
    """
    import joblib

    outcomes = {}
    for chapter in chapters:  # all names and types, before anything is started
        defaults = default_parameters(chapter, read_source(chapter))
        parameters = convert_parameters(chapter, defaults, {**(given or {}), "profile": profile})
        outcomes[chapter.name] = "fresh" if not save and _is_fresh(chapter, profile, parameters) else ""
    if save and (profile != "published" or given):
        refuse(
            "only the published profile with its own parameters can be saved",
            f"{profile} {dict(given or {})}",
        )
    stale = [chapter for chapter in chapters if not outcomes[chapter.name]]
    calls = [joblib.delayed(_try_chapter)(chapter, profile, given, save) for chapter in stale]
    outcomes |= dict(joblib.Parallel(n_jobs=max(1, min(jobs, len(stale))))(calls))
    failures = [word for word in outcomes.values() if word not in ("executed", "fresh")]
    if failures:
        raise NnoptError("\n".join(failures))
    return outcomes


def _try_chapter(
    chapter: Chapter, profile: str, given: Mapping[str, str] | None, save: bool
) -> tuple[str, str]:
    try:
        if save:
            save_chapter(chapter)
            return chapter.name, "executed"
        return chapter.name, "executed" if run_chapter(chapter, profile, given) else "fresh"
    except NnoptError as error:
        return chapter.name, str(error)


def save_chapter(chapter: Chapter) -> None:
    """Execute `chapter` as published and replace what is committed of it: notebook, rows, figures, claims.

    It is always executed, on stored rows where there are any, so that no other profile's figures slip in.
    """
    build, results = project_root() / "build", published_file(chapter.name).parent
    for folder in build.glob(f"figures/{chapter.number}-*"):
        shutil.rmtree(folder)
    run_chapter(chapter, "published", force=True)
    note = read_note(chapter, "published")

    own = {name: ids for name, ids in note["used"].items() if name.startswith(f"{chapter.number}-")}
    published = {publish(experiment, run_ids) for experiment, run_ids in own.items()}
    for made in build.glob(f"figures/{chapter.number}-*/figure.json"):
        published.add(_copy(made, results / "figures" / f"{made.parent.name}.json"))
    for made in build.glob(f"claims/{chapter.name}.json"):
        published.add(_copy(made, results / "claims" / made.name))
    old = {*results.glob(f"{chapter.number}-*.jsonl"), *results.glob(f"*/{chapter.number}-*.json")}
    for path in old - published:
        path.unlink()
    write_atomically(chapter.notebook, chapter.executed("published").read_text(encoding="utf-8"))
    _write_status(chapter, note)
    parameters = default_parameters(chapter, read_source(chapter))
    write_atomically(  # the published rows are part of the key
        note_file(chapter, "published"),
        json.dumps({**note, "key": freshness_key(chapter, parameters)}, indent=1) + "\n",
    )


def _copy(made: Path, target: Path) -> Path:
    write_atomically(target, made.read_bytes())
    return target


def _write_status(chapter: Chapter, note: Mapping[str, Any]) -> None:
    """Add seconds, date, versions, hardware and the rows read to ``chapters/results/status.json``."""
    file = published_file(chapter.name).with_name("status.json")
    status = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    status[chapter.name] = {
        "profile": "published",
        "duration_seconds": note["duration_seconds"],
        "finished_at": note["finished_at"],
        "rows": row_hashes(note["used"]),
        **provenance(),
    }
    write_atomically(file, json.dumps(dict(sorted(status.items())), indent=1) + "\n")


def verify_chapter(chapter: Chapter, tolerance: float) -> int:
    """Recompute the quick profile of `chapter` in a scratch store and compare with its published rows.

    Runs of the quick profile that are published too are the sample; the number of them is returned. Numbers
    may differ by `tolerance`, relative or absolute; times (``_seconds``, ``_per_second``) are not compared.
    """
    notebook = read_source(chapter)
    defaults = default_parameters(chapter, notebook)
    parameters = convert_parameters(chapter, defaults, {"profile": "quick", "recompute": "true"})
    changed = {name: value for name, value in parameters.items() if value != defaults[name]}
    with tempfile.TemporaryDirectory() as folder:
        store, used_file = Path(folder), Path(folder) / "used"
        environment = {"NNOPT_STORE": str(store), "NNOPT_USED": str(used_file)}
        execute(chapter.name, notebook, changed, store / chapter.source.name, environment)
        compared = 0
        for experiment, run_ids in _used(used_file).items():
            published = read_published(experiment)
            for identity in published.keys() & set(run_ids):
                record = read_record(store / experiment / f"{identity}.json")
                difference = _difference(published[identity]["rows"], record and record["rows"], tolerance)
                if difference:
                    raise NnoptError(
                        f"run {identity} of {experiment} is not what is published: {difference}."
                    )
                compared += 1
    if not compared:
        rule = f"the quick profile of {chapter.name} must share runs with its published rows"
        refuse(rule, "none", f"Run nnopt run {chapter.number} --save first.")
    return compared


def _difference(published: Any, computed: Any, tolerance: float) -> str:
    """The first difference beyond `tolerance`, in words; empty where there is none."""
    if isinstance(published, list) and isinstance(computed, list) and len(published) == len(computed):
        found = (_difference(one, other, tolerance) for one, other in zip(published, computed, strict=True))
        return next(filter(None, found), "")
    if isinstance(published, dict) and isinstance(computed, dict) and published.keys() == computed.keys():
        names = [name for name in published if not name.endswith(("_seconds", "_per_second"))]
        found = (_difference(published[name], computed[name], tolerance) for name in names)
        return next((f"{name}: {words}" for name, words in zip(names, found, strict=True) if words), "")
    if published == computed or (published != published and computed != computed):  # NaN is not itself
        return ""
    numbers = isinstance(published, (int, float)) and isinstance(computed, (int, float))
    if numbers and math.isclose(published, computed, rel_tol=tolerance, abs_tol=tolerance):
        return ""
    return f"published {published!r}, computed {computed!r}"
