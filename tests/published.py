"""What tests publish without executing a chapter: rows from a store, and the seals of whatever is there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from nnopt_lib.experiments.records import rows_to_publish, sealed
from nnopt_lib.files import file_hash, write_atomically
from nnopt_lib.paths import chapters_folder, published_file
from nnopt_lib.results.seals import published_files, status_file
from nnopt_lib.results.staleness import row_hashes


def publish(experiment: str, run_ids: Iterable[str], recomputed: Path | None = None) -> Path:
    """Make the published rows of an experiment exactly those runs; returns their file."""
    write_atomically(published_file(experiment), rows_to_publish(experiment, run_ids, recomputed))
    return published_file(experiment)


def seal(chapter: str, rows: Iterable[str] = (), **fields) -> None:
    """Note in status.json all that is published of a chapter as it is now, and the experiments that it read."""
    status = json.loads(status_file().read_text()) if status_file().is_file() else {}
    files = {
        file.relative_to(chapters_folder()).as_posix(): file_hash(file) for file in published_files(chapter)
    }
    entry = {**status.get(chapter, {}), **fields, "chapter": chapter, "files": dict(sorted(files.items()))}
    entry["rows"] = row_hashes(rows) or entry.get("rows", {})
    status_file().parent.mkdir(parents=True, exist_ok=True)
    status_file().write_text(json.dumps({**status, chapter: sealed(entry)}) + "\n")
