"""Several chapters: refused before anything starts, skipped where fresh, failures told together."""

from __future__ import annotations

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters.batch import run_chapters
from nnopt_lib.course.chapters.run import run_chapter
from nnopt_lib.course.chapters.save import save_chapter
from nnopt_lib.course.chapters.source import (
    find_chapters,
)
from nnopt_lib.course.chapters.state import (
    chapter_state,
    read_note,
)
from tests.tiny_course import edit

pytestmark = pytest.mark.usefixtures("project")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"recompte": "true"}, "parameter of 01-first must be one of profile, recompute, device; "
         "received 'recompte'. Did you mean 'recompute'?"),
        ({"recompute": "maybe"}, "parameter recompute of 01-first must be true or false, like False; received 'maybe'."),
        ({"recompute": "1"}, "parameter recompute of 01-first must be true or false, like False; received '1'."),
        ({"profile": "fast"}, "profile must be one of quick, published; received 'fast'."),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_refused_before_anything_runs(executions, given, sentence):
    with pytest.raises(NnoptError) as refusal:
        run_chapters(find_chapters(), given.pop("profile", "quick"), given)
    assert str(refusal.value) == sentence and executions == []


def test_nothing_changed_executes_nothing(executions):
    assert [chapter_state(chapter).word for chapter in find_chapters()] == ["never run"] * 2
    assert run_chapters(find_chapters()) == {"01-first": "executed", "02-second": "executed"}
    assert run_chapters(find_chapters()) == {"01-first": "fresh", "02-second": "fresh"}
    assert executions == ["01-first", "02-second"]
    state, note = chapter_state(find_chapters()[0]), read_note(find_chapters()[0], "published")
    assert state.word == "fresh"
    assert (state.duration_seconds, state.finished_at) == (note["duration_seconds"], note["finished_at"])


def test_a_build_folder_that_cannot_be_written_is_one_sentence_for_all_chapters(executions, monkeypatch):
    monkeypatch.setenv("NNOPT_BUILD", "/proc/nowhere")
    with pytest.raises(NnoptError) as refusal:
        run_chapters(find_chapters(), "quick", {"recompute": "true"})
    assert str(refusal.value) == (
        "/proc/nowhere could not be written: No such file or directory. Make that folder writable and run again; "
        "what was there before is untouched."
    )
    assert executions == []


def test_only_the_published_profile_is_saved():
    with pytest.raises(NnoptError) as refusal:
        run_chapters(find_chapters(), "quick", save=True)
    rule = "only the published profile with its own parameters, or with -p recompute true, can be saved"
    assert str(refusal.value) == f"{rule}; received quick {{}}."
    for given in ({"recompute": "false"}, {"device": "cpu"}, {"recompute": "true", "device": "cpu"}):
        with pytest.raises(NnoptError) as refusal:
            run_chapters(find_chapters(), given=given, save=True)
        assert str(refusal.value) == f"{rule}; received published {given}."


def test_the_book_takes_no_notebook_that_was_executed_on_local_rows(project, kernel):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    edit(chapter.source, "else 3)", "else 4)")
    run_chapter(chapter)  # computes the fourth seed, for this machine alone
    with pytest.raises(NnoptError) as refusal:
        run_chapters([chapter], published_rows=True)
    assert str(refusal.value) == (
        "01-rows must take all its rows from the published ones while NNOPT_ROWS is published; received 1 of 4 "
        "settings that are not published, the first {'seed': 3}. Run nnopt run 01 --save."
    )
    assert run_chapters([chapter]) == {"01-first": "fresh"}
    save_chapter(chapter)
    assert run_chapters([chapter], published_rows=True) == {"01-first": "stored"}
