"""Run chapters: skip what is fresh, execute the rest, each apart from whatever else runs at that moment."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import datetime
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nnopt_lib.course.chapters.kernel import execute
from nnopt_lib.course.chapters.prepare import Prepared, prepare
from nnopt_lib.course.chapters.source import Chapter
from nnopt_lib.course.chapters.state import matches_note, note_file, read_note
from nnopt_lib.experiments.provenance import provenance
from nnopt_lib.experiments.records import PUBLISHED_ROWS_ONLY, published_rows_only, sealed
from nnopt_lib.files import lock, write_atomically, writing
from nnopt_lib.paths import build_folder, store_folder
from nnopt_lib.results.staleness import row_hashes


@dataclasses.dataclass(frozen=True)
class Run:
    """One execution: the notebook's text, what is noted of it, the folder of all that it drew and claimed."""

    prepared: Prepared
    profile: str
    notebook: str
    note: dict[str, Any]
    folder: Path

    @property
    def figures(self) -> dict[str, Path]:
        """The figures that the chapter drew, by name, each with the file that it can be drawn again from."""
        number = self.prepared.chapter.number
        files = self.folder.glob(f"figures/{number}-*/figure.json")
        return {file.parent.name: file for file in sorted(files)}

    @property
    def claims(self) -> Path:
        """The file of claims, which is not there where the chapter made none."""
        return self.folder / "claims" / f"{self.prepared.chapter.name}.json"


def chapter_lock(chapter: Chapter) -> Any:
    """The lock that whoever executes or saves a chapter holds, in whatever profile, for a with statement."""
    return lock(build_folder() / "runs" / chapter.name)


def run_chapter(
    chapter: Chapter,
    profile: str = "published",
    given: Mapping[str, str] | None = None,
    *,
    published_rows: bool = False,
) -> bool:
    """Execute `chapter` unless it is fresh; True if it was executed.

    The output replaces ``build/notebooks/<profile>/NN-name.ipynb`` after success only.
    With the parameter `recompute` it is executed always. With `published_rows` it may read no others, and is
    fresh only if it read no others.
    """
    with chapter_lock(chapter):  # a second run at once waits, then finds it fresh
        prepared = prepare(chapter, profile, given)
        if is_fresh(prepared, profile, published_rows):
            return False
        published_rows = published_rows or published_rows_only()
        with executed_apart(prepared, profile, published_rows=published_rows) as run:
            keep(run)
    return True


def is_fresh(prepared: Prepared, profile: str, published_rows: bool) -> bool:
    """Whether the last run of `profile` is what an execution now would give."""
    if prepared.parameters.get("recompute") is True:
        return False
    if published_rows and not read_note(prepared.chapter, profile).get("published_rows"):
        return False
    return matches_note(prepared, profile)


@contextlib.contextmanager
def executed_apart(
    prepared: Prepared, profile: str, *, published_rows: bool = False, results: Path | None = None
) -> Iterator[Run]:
    """Execute a chapter with a build folder of its own, which goes at the end; rows stay in the store.

    So nothing that another profile, or the reader's own JupyterLab, draws and claims meanwhile gets into
    what is kept or published. `results` is a folder of published rows to read in the place of the real ones.
    Whoever calls this holds the chapter's lock.
    """
    chapter = prepared.chapter
    running = build_folder().absolute() / "running"
    for left_over in running.glob(f"{chapter.name}.*"):  # of runs that were killed
        shutil.rmtree(left_over, ignore_errors=True)
    # A name of its own, since the kernel of a run that was killed may still be writing to the last one.
    folder = running / f"{chapter.name}.{uuid.uuid4().hex[:8]}"
    environment = {"NNOPT_BUILD": str(folder), "NNOPT_STORE": str(store_folder().absolute())}
    environment |= {"NNOPT_USED": str(folder / "used"), **(PUBLISHED_ROWS_ONLY if published_rows else {})}
    environment |= {} if results is None else {"NNOPT_RESULTS": str(results)}
    try:
        with writing(folder):
            folder.mkdir(parents=True)
        started = time.perf_counter()
        text = _execute(prepared, chapter.executed(profile), environment)
        used = used_runs(folder / "used")
        note = {
            "key": prepared.key,  # of what was executed, so that an edit meanwhile counts
            "output_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "duration_seconds": round(time.perf_counter() - started, 1),
            "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "used": used,
            "quoted": row_hashes(name for name in used if not name.startswith(f"{chapter.number}-")),
            "published_rows": published_rows,
            "provenance": provenance(),
        }
        run = Run(prepared, profile, text, note, folder)
        claims = json.loads(run.claims.read_text(encoding="utf-8")) if run.claims.is_file() else []
        note["claims"] = claims
        yield run
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def keep(run: Run, key: str | None = None) -> None:
    """Put what a run made into ``build``, with a note of `key`, or the run's own, that makes it fresh."""
    chapter, build = run.prepared.chapter, build_folder()
    for drawn_before in build.glob(f"figures/{chapter.number}-*"):
        shutil.rmtree(drawn_before)
    for name, file in run.figures.items():
        (build / "figures").mkdir(exist_ok=True)
        shutil.move(file.parent, build / "figures" / name)
    claims = build / "claims" / run.claims.name
    if run.claims.is_file():
        write_atomically(claims, run.claims.read_bytes())
    else:
        claims.unlink(missing_ok=True)
    # The note last: without it a notebook is not trusted, so a crash in between costs a run, not a number.
    write_atomically(chapter.executed(run.profile), run.notebook)
    note = sealed({**run.note, "key": key or run.note["key"]})
    write_atomically(note_file(chapter, run.profile), json.dumps(note, indent=1) + "\n")


def _execute(prepared: Prepared, output: Path, environment: Mapping[str, str]) -> str:
    # A copy: papermill writes outputs and marks of its own into the notebook that it is given.
    notebook = copy.deepcopy(prepared.notebook)
    return execute(prepared.chapter.name, notebook, prepared.changed, output, environment)


def used_runs(file: Path) -> dict[str, list[str]]:
    """The run ids that a chapter's calls of `run_experiment` noted in `file`, by experiment."""
    used: dict[str, set[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        note = json.loads(line)
        used.setdefault(note["experiment"], set()).update(note["run_ids"])
    return {experiment: sorted(run_ids) for experiment, run_ids in sorted(used.items())}


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
        yield Recomputed(folder, text, used_runs(folder / "used"))
        shutil.rmtree(folder, ignore_errors=True)
