"""Run chapters: skip what is fresh, execute the rest, and publish what the author saves."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import datetime
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnopt_lib.checks import NnoptError, refuse
from nnopt_lib.course.chapters.kernel import execute
from nnopt_lib.course.chapters.prepare import Prepared, prepare
from nnopt_lib.course.chapters.source import Chapter
from nnopt_lib.course.chapters.state import committed_is_fresh, matches_note, note_file, read_note
from nnopt_lib.experiments.provenance import provenance
from nnopt_lib.experiments.records import (
    PUBLISHED_ROWS_ONLY,
    check_writable,
    publish,
    published_rows_only,
)
from nnopt_lib.files import file_hash, lock, write_atomically
from nnopt_lib.paths import build_folder, published_file
from nnopt_lib.results.staleness import row_hashes


def run_chapter(
    chapter: Chapter,
    profile: str = "published",
    given: Mapping[str, str] | None = None,
    *,
    force: bool = False,
    published_rows: bool = False,
) -> bool:
    """Execute `chapter` unless it is fresh; True if it was executed.

    The output replaces ``build/notebooks/<profile>/NN-name.ipynb`` after success only.
    With the parameter `recompute` it is executed always. With `published_rows` it may read no others, and is
    fresh only if it read no others.
    """
    with lock(note_file(chapter, profile)):  # a second run at once waits, then finds it fresh
        prepared = prepare(chapter, profile, given)
        if not force and _is_fresh(prepared, profile, published_rows):
            return False
        _execute_and_note(prepared, profile, published_rows or published_rows_only())
    return True


def _is_fresh(prepared: Prepared, profile: str, published_rows: bool) -> bool:
    if prepared.parameters.get("recompute") is True:
        return False
    if published_rows and not read_note(prepared.chapter, profile).get("published_rows"):
        return False
    return matches_note(prepared, profile)


def _execute_and_note(prepared: Prepared, profile: str, published_rows: bool) -> None:
    """Execute, and note what makes it fresh: the key of what was executed, so an edit meanwhile counts."""
    chapter = prepared.chapter
    used_file = note_file(chapter, profile).with_suffix(".used")
    claims_file = build_folder() / "claims" / f"{chapter.name}.json"
    # Both are appended to or written by the kernel only where it gets so far: those of an earlier run would
    # pass for this one's.
    for left_over in (used_file, claims_file):
        left_over.unlink(missing_ok=True)
    environment = {"NNOPT_USED": str(used_file), **(PUBLISHED_ROWS_ONLY if published_rows else {})}
    started = time.perf_counter()
    content = _execute(prepared, chapter.executed(profile), environment)
    note = {
        "key": prepared.key,
        "output_sha256": hashlib.sha256(content.encode()).hexdigest(),
        "duration_seconds": round(time.perf_counter() - started, 1),
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "used": _used(used_file),
        "published_rows": published_rows,
        "provenance": provenance(),
        "claims": json.loads(claims_file.read_text(encoding="utf-8")) if claims_file.is_file() else [],
    }
    # The note last: without it a notebook is not trusted, so a crash in between costs a run, not a number.
    write_atomically(chapter.executed(profile), content)
    write_atomically(note_file(chapter, profile), json.dumps(note, indent=1) + "\n")


def _execute(prepared: Prepared, output: Path, environment: Mapping[str, str]) -> str:
    # A copy: papermill writes outputs and marks of its own into the notebook that it is given.
    notebook = copy.deepcopy(prepared.notebook)
    return execute(prepared.chapter.name, notebook, prepared.changed, output, environment)


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
    published_rows: bool = False,
) -> dict[str, str]:
    """Execute what is not fresh, `jobs` chapters at once, each in a process with its share of the cores.

    With `published_rows`, as for the book, no other rows may be read, and a chapter whose committed notebook
    is fresh is not executed at all. With `save` what is committed is replaced; of all parameters only
    `recompute` may then be set. All are tried; then the failures are raised together, one line each.
    Returns, for every chapter, ``executed``, ``fresh`` or ``stored``.
    """
    import joblib

    given, outcomes = dict(given or {}), {}
    for chapter in chapters:  # all names and types, before anything is started
        prepared = prepare(chapter, profile, given)
        if save:
            _check_can_be_saved(prepared, given)
        outcomes[chapter.name] = ""
        if published_rows and committed_is_fresh(chapter):
            outcomes[chapter.name] = "stored"
        elif not save and _is_fresh(prepared, profile, published_rows):
            outcomes[chapter.name] = "fresh"
    # Each prepares its chapter again when its turn comes, under its lock: hours may have passed, and what was
    # edited or published meanwhile shall be executed, not what stood in the source at the start.
    stale = [chapter for chapter in chapters if not outcomes[chapter.name]]
    if stale:
        check_writable(build_folder())  # one sentence, and not one for each chapter
    calls = [joblib.delayed(_try_chapter)(one, profile, given, save, published_rows) for one in stale]
    outcomes |= dict(joblib.Parallel(n_jobs=max(1, min(jobs, len(stale))))(calls))
    failures = [word for word in outcomes.values() if word not in ("executed", "fresh", "stored")]
    if failures:
        raise NnoptError("\n".join(failures))
    return outcomes


def _check_can_be_saved(prepared: Prepared, given: Mapping[str, str]) -> None:
    """Refuse what would publish other numbers than those of the source's parameters."""
    values = {name: prepared.parameters[name] for name in given}
    if prepared.profile != "published" or values not in ({}, {"recompute": True}):
        rule = "only the published profile with its own parameters, or with -p recompute true, can be saved"
        refuse(rule, f"{prepared.profile} {dict(given)}")


def _try_chapter(
    chapter: Chapter, profile: str, given: Mapping[str, str], save: bool, published_rows: bool
) -> tuple[str, str]:
    try:
        if save:
            save_chapter(chapter, recompute=bool(given))
            return chapter.name, "executed"
        executed = run_chapter(chapter, profile, given, published_rows=published_rows)
        return chapter.name, "executed" if executed else "fresh"
    except NnoptError as error:
        return chapter.name, str(error)


def save_chapter(chapter: Chapter, *, recompute: bool = False) -> None:
    """Execute `chapter` as published and replace what is committed of it: notebook, rows, figures, claims.

    It is always executed, on published and stored rows where there are any, so that no other profile's
    figures slip in. With `recompute` all its rows are computed anew first, apart, and take the place of the
    published ones. If anything fails, what was committed before stays as it was. Refuses a source edited
    meanwhile.
    """
    with _as_before_on_failure(chapter):
        if recompute:
            with recomputed(prepare(chapter, "published", {"recompute": "true"})) as apart:
                for experiment, run_ids in _chapter_runs(chapter, apart.used).items():
                    publish(experiment, run_ids, recomputed=apart.folder / "store")
        for folder in build_folder().glob(f"figures/{chapter.number}-*"):
            shutil.rmtree(folder)
        run_chapter(chapter, "published", force=True)
        note = read_note(chapter, "published")
        prepared = prepare(chapter, "published")
        if not matches_note(prepared, "published"):
            rule = f"chapter {chapter.name} and its library must not be edited while it is saved"
            refuse(rule, None, f"Run nnopt run {chapter.number} --save again.")
        _publish(prepared, note)
    # The published rows are part of the key, and have just been replaced: what was executed is fresh still.
    key = prepared.with_rows_published_now().key
    write_atomically(note_file(chapter, "published"), json.dumps({**note, "key": key}, indent=1) + "\n")


def _publish(prepared: Prepared, note: Mapping[str, Any]) -> None:
    """Put what the last run made into the place of what is committed of the chapter."""
    chapter = prepared.chapter
    results = published_file(chapter.name).parent
    published = {
        publish(experiment, run_ids) for experiment, run_ids in _chapter_runs(chapter, note["used"]).items()
    }
    for made in build_folder().glob(f"figures/{chapter.number}-*/figure.json"):
        published.add(_copy(made, results / "figures" / f"{made.parent.name}.json"))
    for made in build_folder().glob(f"claims/{chapter.name}.json"):
        published.add(_copy(made, results / "claims" / made.name))
    for path in _published_files(chapter) - published:
        path.unlink()
    write_atomically(chapter.notebook, chapter.executed("published").read_text(encoding="utf-8"))
    _write_status(prepared, note)


def _chapter_runs(chapter: Chapter, used: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Of the run ids that were used, by experiment, those that are this chapter's to publish."""
    return {name: run_ids for name, run_ids in used.items() if name.startswith(f"{chapter.number}-")}


def _published_files(chapter: Chapter) -> set[Path]:
    """The chapter's published rows, figures and claims."""
    results, number = published_file(chapter.name).parent, chapter.number
    names = (f"{number}-*.jsonl", f"figures/{number}-*.json", f"claims/{number}-*.json")
    return {path for name in names for path in results.glob(name)}


@contextlib.contextmanager
def _as_before_on_failure(chapter: Chapter) -> Iterator[None]:
    """Put the chapter's published files and notebook back as they were if the block fails in any way."""
    before = {path: path.read_bytes() for path in _published_files(chapter)}
    if chapter.notebook.is_file():
        before[chapter.notebook] = chapter.notebook.read_bytes()
    try:
        yield
    except BaseException:
        for path in {*_published_files(chapter), chapter.notebook} - set(before):
            path.unlink(missing_ok=True)
        for path, content in before.items():
            if not path.is_file() or path.read_bytes() != content:
                write_atomically(path, content)
        raise


def _copy(made: Path, target: Path) -> Path:
    write_atomically(target, made.read_bytes())
    return target


def _write_status(prepared: Prepared, note: Mapping[str, Any]) -> None:
    """Add seconds, date, versions, hardware, the rows read and what makes it fresh to ``status.json``."""
    chapter = prepared.chapter
    file = published_file(chapter.name).with_name("status.json")
    with lock(build_folder() / "runs" / file.name):  # several chapters may be saved at once
        status = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        status[chapter.name] = {
            "profile": "published",
            "duration_seconds": note["duration_seconds"],
            "finished_at": note["finished_at"],
            "key": prepared.with_rows_published_now().committed_key,
            "notebook_sha256": file_hash(chapter.notebook),
            "rows": row_hashes(note["used"]),
            **provenance(),
        }
        write_atomically(file, json.dumps(dict(sorted(status.items())), indent=1) + "\n")


@dataclasses.dataclass(frozen=True)
class Recomputed:
    """A chapter computed anew, apart: the folder of its rows and claims, its notebook, the runs it used."""

    folder: Path
    notebook: str
    used: dict[str, list[str]]


@contextlib.contextmanager
def recomputed(prepared: Prepared) -> Iterator[Recomputed]:
    """Compute a chapter, prepared with `recompute`, anew in a store and a build folder of its own.

    Both go when the block succeeds; after a failure they stay in ``build/recomputed``, to be looked at.
    Nothing else is touched.
    """
    name = prepared.chapter.name
    folder = (build_folder() / "recomputed" / name).absolute()
    environment = {"NNOPT_BUILD": str(folder), "NNOPT_STORE": str(folder / "store"), "NNOPT_ROWS": ""}
    environment["NNOPT_USED"] = str(folder / "used")
    with lock(folder):
        shutil.rmtree(folder, ignore_errors=True)
        text = _execute(prepared, folder / f"{name}.ipynb", environment)
        yield Recomputed(folder, text, _used(folder / "used"))
        shutil.rmtree(folder, ignore_errors=True)
