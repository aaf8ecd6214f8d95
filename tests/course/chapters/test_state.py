"""Fresh or stale: in build/ by the note of the last run, in the repository by status.json."""

from __future__ import annotations

import datetime
import itertools
import json
import shutil
from types import SimpleNamespace

import pytest

from nnopt_lib.course.chapters import prepare as preparing
from nnopt_lib.course.chapters import run as running
from nnopt_lib.course.chapters import state as freshness
from nnopt_lib.course.chapters.batch import run_chapters
from nnopt_lib.course.chapters.run import run_chapter
from nnopt_lib.course.chapters.save import save_chapter
from nnopt_lib.course.chapters.source import (
    find_chapters,
)
from nnopt_lib.course.chapters.state import (
    State,
    chapter_state,
    committed_is_fresh,
    listed_state,
)
from nnopt_lib.experiments.records import sealed
from nnopt_lib.files import file_hash
from nnopt_lib.results.staleness import read_status
from tests.tiny_course import edit, published_values

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


def test_quoted_rows_of_another_chapter_make_a_run_and_a_committed_notebook_stale(project, kernel):
    (chapter, other) = find_chapters()
    quote = "from nnopt_lib import published_rows\nquoted = published_rows('02-rows')\nrows = run"
    edit(chapter.source, "\nrows = run", f"\n{quote}")
    save_chapter(other)
    save_chapter(chapter)
    status = read_status()["01-first"]
    assert set(status["rows"]) == {"01-rows", "02-rows"} and status["rows"]["02-rows"]
    assert "results/02-rows.jsonl" not in status["files"]
    assert committed_is_fresh(chapter) and chapter_state(chapter).word == "fresh"
    edit(project / "chapters" / "results" / "02-rows.jsonl", "}\n", "} \n")
    assert not committed_is_fresh(chapter) and chapter_state(chapter).word == "stale"
    assert chapter_state(other).word == "stale"


# What is written down of a run


@pytest.fixture
def clock(monkeypatch):
    """When it is and what a stopwatch shows, for a run: set ``now`` and ``seconds``."""
    told = SimpleNamespace(
        now=datetime.datetime(2031, 12, 31, 23, 59, 58, 7, tzinfo=datetime.UTC), seconds=12.34
    )
    shown = itertools.count()

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            assert tz is datetime.UTC
            return told.now

    monkeypatch.setattr(running, "datetime", SimpleNamespace(datetime=Clock, UTC=datetime.UTC))
    # Every second look at the stopwatch is the end of a run.
    stopwatch = SimpleNamespace(perf_counter=lambda: 100.0 + told.seconds * (next(shown) % 2))
    monkeypatch.setattr(running, "time", stopwatch)
    return told


def test_a_run_notes_when_it_ended_and_how_long_it_took(executions, clock):
    (chapter,) = find_chapters(["1"])
    run_chapter(chapter, "quick")
    assert chapter_state(chapter, "quick") == State("fresh", 12.3, "2031-12-31T23:59:58+00:00")
    assert set(freshness.read_note(chapter, "quick")["provenance"]) >= {"versions", "hardware", "commit"}


def test_saving_publishes_when_it_ended_and_what_it_ran_on_and_again_the_next_time(project, kernel, clock):
    (chapter,) = find_chapters(["1"])
    for day, seconds in ((30, 7.0), (31, 9.0)):
        clock.now, clock.seconds = clock.now.replace(day=day), seconds
        save_chapter(chapter)
        saved = read_status()["01-first"]
        assert (
            saved["finished_at"] == f"2031-12-{day}T23:59:58+00:00" and saved["duration_seconds"] == seconds
        )
        assert set(saved) >= {"profile", "key", "files", "rows", "versions", "hardware", "commit"}
    shutil.rmtree(project / "build")
    assert listed_state(chapter, "published") == State("fresh", 9.0, "2031-12-31T23:59:58+00:00")


# What a saved chapter leaves of what it published before


CLAIMING = """def claim(*words): print(*words)
claim("holds")"""


@pytest.fixture
def claiming(project, kernel):
    """The first chapter with two cells that record a claim each, and a function that saves it."""
    (chapter,) = find_chapters(["1"])
    cells = """from nnopt_lib.results.claims import claim
claim("01-first", "{0}", "{0}.", holds=True, rows=rows)"""
    both = "\n```\n\n```{code-cell} ipython3\n".join(cells.format(id) for id in ("one", "two"))
    edit(chapter.source, CLAIMING, both)
    file = project / "chapters" / "results" / "claims" / "01-first.json"

    def save():
        save_chapter(chapter)
        return [record["id"] for record in json.loads(file.read_text())] if file.exists() else None

    return chapter, cells, save


def test_claims_of_cells_that_were_removed_are_no_longer_published(claiming):
    chapter, cells, save = claiming
    assert save() == ["one", "two"]
    edit(chapter.source, cells.format("one"), "pass")
    assert save() == ["two"]
    edit(chapter.source, cells.format("two"), cells.format("three"))
    assert save() == ["three"]
    edit(chapter.source, cells.format("three"), "pass")
    assert save() is None  # no file of claims at all


def test_a_runs_note_holds_the_claims_of_that_run_alone(claiming):
    chapter, cells, _ = claiming
    run_chapter(chapter)
    edit(chapter.source, cells.format("one"), "pass")
    run_chapter(chapter)
    assert [record["id"] for record in freshness.read_note(chapter, "published")["claims"]] == ["two"]
    edit(chapter.source, cells.format("two"), "pass")
    run_chapter(chapter)
    assert freshness.read_note(chapter, "published")["claims"] == []


def test_rows_that_a_chapter_no_longer_asks_for_are_no_longer_published(project, kernel):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    assert published_values() == {0: 0, 1: 2, 2: 4}
    edit(chapter.source, "else 3)", "else 2)")
    save_chapter(chapter)
    assert published_values() == {0: 0, 1: 2}
    edit(chapter.source, '"01-rows"', '"01-others"')
    save_chapter(chapter)
    assert published_values("01-others") == {0: 0, 1: 2}
    assert not (project / "chapters" / "results" / "01-rows.jsonl").exists()


# Saving executes


@pytest.mark.parametrize("save", [save_chapter, lambda chapter: run_chapters([chapter], save=True)])
def test_saving_executes_a_chapter_that_is_fresh_already(kernel, save):
    (chapter,) = find_chapters(["1"])
    run_chapter(chapter)
    assert chapter_state(chapter).word == "fresh"
    for times in (2, 3):  # also where it is as it was saved
        save(chapter)
        assert kernel == [("01-first", {})] * times


def test_saving_publishes_what_the_chapter_gives_and_not_an_output_that_passes_for_fresh(kernel):
    (chapter,) = find_chapters(["1"])
    run_chapter(chapter)
    output, note_file = chapter.executed("published"), freshness.note_file(chapter, "published")
    forged = json.loads(output.read_text())
    forged["metadata"]["printed"] = ["forged", []]
    output.write_text(json.dumps(forged))
    note = json.loads(note_file.read_text()) | {"output_sha256": file_hash(output)}
    note_file.write_text(json.dumps(sealed(note)))
    assert chapter_state(chapter).word == "fresh"
    save_chapter(chapter)
    assert json.loads(chapter.notebook.read_text())["metadata"]["printed"][1] == [0, 2, 4]
