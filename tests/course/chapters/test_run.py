"""Chapters run: executed whole or not at all, once, apart from whatever else runs."""

from __future__ import annotations

import concurrent.futures
import threading

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters import run as running
from nnopt_lib.course.chapters.run import run_chapter
from nnopt_lib.course.chapters.source import (
    find_chapters,
)
from nnopt_lib.course.chapters.state import (
    chapter_state,
)
from nnopt_lib.files import lock
from tests.tiny_course import edit

pytestmark = pytest.mark.usefixtures("project")


def test_an_edit_made_while_a_chapter_runs_leaves_it_stale(project, monkeypatch):
    (chapter,) = find_chapters(["1"])

    def execute(*arguments):
        edit(chapter.source, "Yes, it does.", "Edited meanwhile.")
        return "{}"

    monkeypatch.setattr(running, "execute", execute)
    run_chapter(chapter)
    assert chapter_state(chapter).word == "stale"


def test_two_runs_of_one_chapter_at_once_execute_it_once(executions, monkeypatch):
    (chapter,) = find_chapters(["1"])
    both_are_here, locked = threading.Barrier(2, timeout=60), []

    def lock_together(path):
        locked.append(path)
        both_are_here.wait()  # neither has the lock yet, whatever it has looked at before
        return lock(path)

    monkeypatch.setattr(running, "lock", lock_together)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run_chapter, chapter, "quick") for _ in range(2)]
        assert sorted(run.result() for run in runs) == [False, True]
    assert executions == ["01-first"] and len(set(locked)) == 1


def test_a_run_waits_as_long_as_another_holds_its_chapter(executions, monkeypatch):
    (chapter,) = find_chapters(["1"])
    seen = []

    def free_meanwhile(path):
        assert lock(path, timeout=0) is None  # taken: here a run would wait
        seen.append(list(executions))
        held.lock.release()
        return lock(path)

    held = running.chapter_lock(chapter)
    monkeypatch.setattr(running, "lock", free_meanwhile)
    assert run_chapter(chapter, "quick")
    assert (seen, executions) == ([[]], ["01-first"])


@pytest.mark.notebook
def test_a_full_disk_while_a_chapter_runs_is_one_sentence(project):
    (project / "build").mkdir()
    (project / "build" / "notebooks").write_text("a file where a folder should be")
    with pytest.raises(NnoptError) as refusal:
        run_chapter(find_chapters(["1"])[0])
    assert str(refusal.value).endswith(
        "01-first.unfinished.ipynb could not be written: Not a directory. Make that folder writable and run again; "
        "what was there before is untouched."
    )
