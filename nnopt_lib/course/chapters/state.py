"""Which chapters are fresh: what the last run of each noted, against what it would depend on now."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from nnopt_lib.course.chapters.prepare import Prepared, prepare
from nnopt_lib.course.chapters.source import Chapter
from nnopt_lib.experiments.records import is_sealed
from nnopt_lib.files import file_hash
from nnopt_lib.paths import build_folder
from nnopt_lib.results.seals import read_status
from nnopt_lib.results.staleness import row_hashes


@dataclasses.dataclass(frozen=True)
class State:
    """What is known of a chapter in one profile: `word` is fresh, stale or never run."""

    word: str
    duration_seconds: float | None = None
    finished_at: str | None = None


def note_file(chapter: Chapter, profile: str) -> Path:
    """Where a successful run writes down its key, the hash of its output, and what it used."""
    return build_folder() / "runs" / f"{profile}-{chapter.name}.json"


def read_note(chapter: Chapter, profile: str) -> dict[str, Any]:
    """What the last successful run wrote down; empty where there is none or it cannot be read."""
    try:
        note = json.loads(note_file(chapter, profile).read_text(encoding="utf-8"))
        return note if is_sealed(note) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def matches_note(prepared: Prepared, profile: str) -> bool:
    """Whether the last run had the key of `prepared`, read rows that are the same, and left that very file.

    The notebook alone is never trusted: papermill marks the cell that killed its kernel as completed.
    """
    note, output = read_note(prepared.chapter, profile), prepared.chapter.executed(profile)
    if note.get("key") != prepared.key or not output.is_file():
        return False
    quoted = note.get("quoted", {})  # rows of other chapters; those of its own are part of the key
    if quoted != row_hashes(quoted):
        return False
    return bool(note.get("output_sha256") == file_hash(output))


def chapter_state(chapter: Chapter, profile: str = "published") -> State:
    """Whether the executed notebook of `profile` is what an execution with its parameters would give now."""
    note = read_note(chapter, profile)
    # Looked at first: the source of a chapter that never ran need not be readable to be listed.
    if not note or not chapter.executed(profile).is_file():
        return State("never run")
    word = "fresh" if matches_note(prepare(chapter, profile), profile) else "stale"
    return State(word, note.get("duration_seconds"), note.get("finished_at"))


def committed_is_fresh(chapter: Chapter) -> bool:
    """Whether the committed notebook is what `nnopt run --save` left, and nothing under it has changed.

    Then every machine may show it as it is. Row files of other chapters that it read count too.
    """
    saved = read_status().get(chapter.name, {})
    if not saved or not chapter.notebook.is_file():
        return False
    return bool(
        saved["files"][chapter.notebook.name] == file_hash(chapter.notebook)
        and saved["rows"] == row_hashes(saved["rows"])
        # Last, since it reads the source and the whole library; the profile is what the source says.
        and saved["key"] == prepare(chapter, None).committed_key
    )


def listed_state(chapter: Chapter, profile: str) -> State:
    """What `nnopt list` tells: as published, a chapter is fresh also where its committed notebook is."""
    state = chapter_state(chapter, profile)
    if profile != "published" or state.word == "fresh" or not committed_is_fresh(chapter):
        return state
    saved = read_status()[chapter.name]
    return State("fresh", saved["duration_seconds"], saved["finished_at"])
