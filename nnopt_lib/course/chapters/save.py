"""Save chapters: execute as published, and replace what is committed of them, all of it or nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnopt_lib.checks import refuse
from nnopt_lib.course.chapters.prepare import prepare
from nnopt_lib.course.chapters.run import Run, chapter_lock, executed_apart, keep, recomputed
from nnopt_lib.course.chapters.source import Chapter
from nnopt_lib.experiments.provenance import provenance
from nnopt_lib.experiments.records import rows_to_publish, sealed
from nnopt_lib.files import replace_together, write_atomically
from nnopt_lib.paths import chapters_folder, results_folder
from nnopt_lib.results.seals import journals, published_files, publishing, read_json, settle, status_file
from nnopt_lib.results.staleness import row_hashes


def save_chapter(chapter: Chapter, *, recompute: bool = False) -> None:
    """Execute `chapter` as published and replace what is committed of it: notebook, rows, figures, claims.

    It is always executed, on published and stored rows where there are any. With `recompute` all its rows are
    computed anew first, apart, and take the place of the published ones. If anything fails, what was
    committed before stays as it was. Refuses a source edited meanwhile.
    """
    _saved_entries()  # refused now what could not be replaced at the end, hours later
    with chapter_lock(chapter), contextlib.ExitStack() as stack:
        store, results = None, None
        if recompute:
            computing = prepare(chapter, "published", {"recompute": "true"})
            apart = stack.enter_context(recomputed(computing))
            store, results = apart.folder / "store", apart.folder / "results"
            _lay_out(results, _rows_of(chapter, apart.used, store))
        prepared = prepare(chapter, "published")
        run = stack.enter_context(executed_apart(prepared, "published", results=results))
        if prepare(chapter, "published").key != prepared.key:
            rule = f"chapter {chapter.name} and its library must not be edited while it is saved"
            refuse(rule, None, f"Run nnopt run {chapter.number} --save again.")
        rows = _rows_of(chapter, run.note["used"], store)
        _publish(run, rows)
        # The published rows are part of the key, and have just been replaced: what was executed is fresh.
        keep(run, run.prepared.with_published_rows(_hashes(rows)).key)


def _rows_of(chapter: Chapter, used: Mapping[str, list[str]], store: Path | None) -> dict[str, bytes]:
    """Of the runs that were used, those that are this chapter's to publish, as the content of their files."""
    return {
        f"{experiment}.jsonl": rows_to_publish(experiment, run_ids, store).encode()
        for experiment, run_ids in used.items()
        if experiment.startswith(f"{chapter.number}-")
    }


def _hashes(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def _lay_out(folder: Path, rows: Mapping[str, bytes]) -> None:
    """Fill `folder` with the published rows as they will be, for a chapter to read that is not saved yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in results_folder().glob("*.jsonl"):
        shutil.copy(file, folder)
    for name, content in rows.items():
        write_atomically(folder / name, content)


def _publish(run: Run, rows: Mapping[str, bytes]) -> None:
    """Put what a run made into the place of what is committed of the chapter."""
    chapter = run.prepared.chapter
    contents = {f"results/{name}": content for name, content in rows.items()}
    contents |= {f"results/figures/{name}.json": file.read_bytes() for name, file in run.figures.items()}
    if run.claims.is_file():
        contents[f"results/claims/{chapter.name}.json"] = run.claims.read_bytes()
    contents[chapter.notebook.name] = run.notebook.encode()
    settle()
    with publishing():  # several chapters may be saved at once, and share status.json
        before = {path.relative_to(chapters_folder()).as_posix() for path in published_files(chapter.name)}
        entries = {**_saved_entries(), chapter.name: _entry(run, rows, contents)}
        contents["results/status.json"] = (
            json.dumps(dict(sorted(entries.items())), indent=1) + "\n"
        ).encode()
        removed = before - set(contents)
        replace_together(journals() / chapter.name, chapters_folder(), contents, sorted(removed))


def _saved_entries() -> dict[str, Any]:
    """What status.json holds, each entry as it is: one that is damaged is for its own chapter to replace."""
    entries = read_json(status_file()) if status_file().is_file() else {}
    if not isinstance(entries, dict):
        remedy = "Take it from version control; without one, remove it and save all chapters."
        refuse(f"{status_file()} must be as nnopt run --save left it", f"a {type(entries).__name__}", remedy)
    return entries


def _entry(run: Run, rows: Mapping[str, bytes], contents: Mapping[str, bytes]) -> dict[str, Any]:
    """What is noted of a saved chapter: date, seconds, origin, hashes of its files and of rows it read."""
    hashes = _hashes(rows)
    row_files = {Path(name).stem: digest for name, digest in hashes.items()}
    return sealed(
        {
            "chapter": run.prepared.chapter.name,
            "profile": "published",
            "duration_seconds": run.note["duration_seconds"],
            "finished_at": run.note["finished_at"],
            "key": run.prepared.with_published_rows(hashes).committed_key,
            "files": dict(sorted(_hashes(contents).items())),
            "rows": {**row_hashes(run.note["used"]), **row_files},
            **provenance(),
        }
    )
