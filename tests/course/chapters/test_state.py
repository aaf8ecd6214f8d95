"""Fresh or stale: in build/ by the note of the last run, in the repository by status.json."""

from __future__ import annotations

import shutil

import pytest

from nnopt_lib.course.chapters import prepare as preparing
from nnopt_lib.course.chapters import state as freshness
from nnopt_lib.course.chapters.batch import run_chapters
from nnopt_lib.course.chapters.run import run_chapter
from nnopt_lib.course.chapters.save import save_chapter
from nnopt_lib.course.chapters.source import (
    find_chapters,
)
from nnopt_lib.course.chapters.state import (
    chapter_state,
    committed_is_fresh,
    listed_state,
)
from tests.tiny_course import edit

pytestmark = pytest.mark.usefixtures("project")


def test_one_changed_source_executes_that_chapter_only(project, executions):
    run_chapters(find_chapters())
    edit(project / "chapters" / "02-second.md", "Yes, it does.", "No.")
    assert [chapter_state(chapter).word for chapter in find_chapters()] == ["fresh", "stale"]
    run_chapters(find_chapters())
    assert executions == ["01-first", "02-second", "02-second"]


def test_an_edited_output_or_note_is_stale_and_recomputing_is_never_skipped(executions):
    (chapter,) = find_chapters(["1"])
    run_chapter(chapter, "quick")
    chapter.executed("quick").write_text("{}")
    assert chapter_state(chapter, "quick").word == "stale"
    assert run_chapter(chapter, "quick") and not run_chapter(chapter, "quick")
    freshness.note_file(chapter, "quick").write_text("not json")
    assert chapter_state(chapter, "quick").word == "never run"
    assert run_chapter(chapter, "quick")
    assert run_chapter(chapter, "quick", {"recompute": "true"}) and run_chapter(
        chapter, "quick", {"recompute": "true"}
    )
    assert len(executions) == 5


def test_profiles_are_kept_apart(executions):
    (chapter,) = find_chapters(["1"])
    run_chapter(chapter, "quick")
    assert chapter_state(chapter, "published").word == "never run"
    run_chapter(chapter, "published")
    assert chapter_state(chapter, "quick").word == chapter_state(chapter, "published").word == "fresh"


def test_a_saved_chapter_needs_no_execution_on_any_machine(project, kernel, monkeypatch):
    (chapter,) = find_chapters(["1"])
    assert not committed_is_fresh(chapter)
    save_chapter(chapter)
    assert committed_is_fresh(chapter)
    shutil.rmtree(project / "build")  # as in a new checkout, on another machine
    monkeypatch.setattr(preparing, "provenance", lambda: {"versions": {"torch": "3"}})
    monkeypatch.setattr(preparing.platform, "machine", lambda: "another")
    assert run_chapters([chapter], published_rows=True) == {"01-first": "stored"}
    state = listed_state(chapter, "published")
    assert state.word == "fresh" and state.finished_at.endswith("+00:00") and state.duration_seconds >= 0
    assert listed_state(chapter, "quick").word == "never run"
    assert len(kernel) == 1
    assert run_chapters([chapter]) == {"01-first": "executed"}  # `nnopt run` trusts its own records only


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("chapters/01-first.md", "Yes, it does.", "Yes."),
        ("chapters/01-first.ipynb", "Yes, it does.", "Yes."),
        ("chapters/results/01-rows.jsonl", "}\n", "} \n"),
        ("library/spec.py", "one = 1", "one = 2"),
        ("constraints.txt", "torch==1", "torch==2"),
    ],
)
def test_a_committed_notebook_is_stale_after_any_edit_under_it(project, kernel, file, old, new):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    before = (project / file).read_bytes()
    edit(project / file, old, new)
    assert not committed_is_fresh(chapter)
    shutil.rmtree(project / "build")
    assert listed_state(chapter, "published").word == "never run"
    assert run_chapters([chapter], published_rows=True) == {"01-first": "executed"}
    assert run_chapters([chapter], published_rows=True) == {"01-first": "fresh"}
    (project / file).write_bytes(before)
    assert run_chapters([chapter], published_rows=True) == {"01-first": "stored"}


def test_rows_of_another_chapter_make_a_committed_notebook_stale_too(project, kernel):
    (chapter, other) = find_chapters()
    edit(
        chapter.source, "\nrows = run", '\nrun_experiment("02-rows", [Settings(0)], lambda s: {})\nrows = run'
    )
    save_chapter(other)
    save_chapter(chapter)
    assert committed_is_fresh(chapter)
    edit(project / "chapters" / "results" / "02-rows.jsonl", "}\n", "} \n")
    assert not committed_is_fresh(chapter)
