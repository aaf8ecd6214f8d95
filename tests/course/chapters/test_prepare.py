"""What a chapter rests on, hashed: every part of it makes another key, and nothing else does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import nnopt_lib
from nnopt_lib.course.chapters import prepare as preparing
from nnopt_lib.course.chapters.batch import run_chapters
from nnopt_lib.course.chapters.prepare import prepare
from nnopt_lib.course.chapters.run import recomputed
from nnopt_lib.course.chapters.save import save_chapter
from nnopt_lib.course.chapters.source import (
    find_chapters,
    read_source,
)
from nnopt_lib.course.chapters.state import (
    chapter_state,
    committed_is_fresh,
)
from tests.tiny_course import edit

pytestmark = pytest.mark.usefixtures("project")


@pytest.mark.parametrize(
    ("file", "old", "new", "stale"),
    [
        ("library/spec.py", "one = 1", "one = 2", True),
        ("library/cli.py", "command = 1", "command = 2", False),  # no chapter runs it
        ("constraints.txt", "torch==1", "torch==2", True),
    ],
)
def test_a_changed_library_or_pin_makes_all_stale(project, executions, file, old, new, stale):
    run_chapters(find_chapters())
    edit(project / file, old, new)
    run_chapters(find_chapters())
    assert len(executions) == (4 if stale else 2)


def test_other_parameters_versions_devices_and_published_rows_are_other_keys(project, monkeypatch):
    (chapter,) = find_chapters(["1"])
    keys = {prepare(chapter, "quick").key, prepare(chapter, "published").key}
    (project / "chapters" / "results").mkdir()
    (project / "chapters" / "results" / "01-rows.jsonl").write_text("{}\n")
    keys.add(prepare(chapter, "quick").key)
    (project / "chapters" / "results" / "02-rows.jsonl").write_text("{}\n")  # of another chapter
    keys.add(prepare(chapter, "quick").key)
    monkeypatch.setattr(preparing.shutil, "which", lambda command: "/usr/bin/nvidia-smi")
    keys.add(prepare(chapter, "quick").key)
    monkeypatch.setattr(preparing, "provenance", lambda: {"versions": {"torch": "3"}})
    keys.add(prepare(chapter, "quick").key)
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("where", "name", "other"),
    [
        (preparing.platform, "machine", lambda: "another architecture"),
        (preparing.shutil, "which", lambda command: "/usr/bin/nvidia-smi"),
        (preparing.sys, "platform", "darwin"),
        (preparing, "provenance", lambda: {"versions": {"numpy": "1", "torch": "3"}}),
        (preparing, "provenance", lambda: {"versions": {"numpy": "2", "torch": "2"}}),
    ],
    ids=["architecture", "gpu", "apple's gpu", "torch", "numpy"],
)
def test_a_chapter_is_fresh_on_the_machine_that_executed_it_and_stale_on_any_other(
    executions, monkeypatch, where, name, other
):
    (chapter,) = find_chapters(["1"])
    monkeypatch.setattr(preparing.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(preparing.shutil, "which", lambda command: None)
    monkeypatch.setattr(preparing.sys, "platform", "linux")
    monkeypatch.setattr(preparing, "provenance", lambda: {"versions": {"numpy": "1", "torch": "2"}})
    run_chapters([chapter])
    assert chapter_state(chapter).word == "fresh"
    with monkeypatch.context() as patch:
        patch.setattr(where, name, other)
        assert chapter_state(chapter).word == "stale"
    assert chapter_state(chapter).word == "fresh"


def test_no_machine_and_no_profile_changes_the_committed_key(monkeypatch):
    (chapter,) = find_chapters(["1"])
    keys = {prepare(chapter, profile).committed_key for profile in ("quick", "published", None)}
    monkeypatch.setattr(preparing.platform, "machine", lambda: "another")
    monkeypatch.setattr(preparing, "provenance", lambda: {"versions": {"torch": "3"}})
    keys.add(prepare(chapter).committed_key)
    assert len(keys) == 1


def test_a_prepared_chapter_is_a_snapshot(project):
    (chapter,) = find_chapters(["1"])
    prepared = prepare(chapter, "quick", {"device": "cpu"})
    assert prepared.changed == {"profile": "quick", "device": "cpu"}
    before = prepared.key, prepared.committed_key
    edit(chapter.source, "Yes, it does.", "No.")
    edit(project / "library" / "spec.py", "one = 1", "one = 2")
    (project / "chapters" / "results").mkdir()
    (project / "chapters" / "results" / "01-rows.jsonl").write_text("{}\n")
    assert (prepared.key, prepared.committed_key) == before
    renewed = prepared.with_published_rows({"01-rows.jsonl": "0" * 64})
    differing = {
        name for name, value in prepared.committed_parts.items() if value != renewed.committed_parts[name]
    }
    assert differing == {"published"} and renewed.key != prepare(chapter, "quick", {"device": "cpu"}).key


def test_an_edit_while_the_source_is_read_makes_the_key_that_of_the_older_one(monkeypatch):
    (chapter,) = find_chapters(["1"])
    before = prepare(chapter).key

    def edit_and_read(chapter):
        edit(chapter.source, "Yes, it does.", "No.")
        return read_source(chapter)

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "read_source", edit_and_read)
        prepared = prepare(chapter)
    assert "No." in prepared.notebook.cells[0].source
    assert prepared.key == before != prepare(chapter).key  # executed or not, it is stale at the next look


def test_executing_leaves_the_prepared_notebook_as_it_was_read(kernel):
    (chapter,) = find_chapters(["1"])
    prepared = prepare(chapter, "quick", {"recompute": "true"})
    with recomputed(prepared):  # the stand-in writes into the notebook that it is given, as papermill does
        assert prepared.notebook == read_source(chapter)
    assert kernel == [("01-first", {"profile": "quick", "recompute": True})]


@pytest.mark.parametrize(
    ("file", "word"),
    [("course/writeup.py", "fresh"), ("cli.py", "fresh"), ("pruning/masks.py", "stale")],
)
def test_a_comment_in_the_real_library_counts_where_chapters_can_run_it(
    project, kernel, monkeypatch, file, word
):
    library = project / "copy" / "nnopt_lib"
    shutil.copytree(Path(nnopt_lib.__file__).parent, library, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(preparing, "LIBRARY", library)
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    assert chapter_state(chapter).word == "fresh" and committed_is_fresh(chapter)
    with open(library / file, "a") as module:
        module.write("# a comment\n")
    assert chapter_state(chapter).word == word
    assert committed_is_fresh(chapter) == (word == "fresh")
