"""Chapters run: executed whole or not at all, once; saved with their rows, or left as they were."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import shutil
import threading

import nbformat
import pytest

from nnopt_lib import files as files_module
from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters import run as running
from nnopt_lib.course.chapters import state as chapters_module
from nnopt_lib.course.chapters.check import check_chapter
from nnopt_lib.course.chapters.run import run_chapter, run_chapters, save_chapter
from nnopt_lib.course.chapters.source import (
    find_chapters,
    read_source,
)
from nnopt_lib.course.chapters.state import (
    chapter_state,
    committed_is_fresh,
)
from nnopt_lib.experiments import records
from tests.tiny_course import committed_bytes, edit, plant_row, published_values

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


# Freshness


def test_nothing_changed_executes_nothing(executions):
    assert [chapter_state(chapter).word for chapter in find_chapters()] == ["never run"] * 2
    assert run_chapters(find_chapters()) == {"01-first": "executed", "02-second": "executed"}
    assert run_chapters(find_chapters()) == {"01-first": "fresh", "02-second": "fresh"}
    assert executions == ["01-first", "02-second"]
    state, note = (
        chapter_state(find_chapters()[0]),
        chapters_module.read_note(find_chapters()[0], "published"),
    )
    assert state.word == "fresh"
    assert (state.duration_seconds, state.finished_at) == (note["duration_seconds"], note["finished_at"])


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
        return files_module.lock(path)

    monkeypatch.setattr(running, "lock", lock_together)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run_chapter, chapter, "quick") for _ in range(2)]
        assert sorted(run.result() for run in runs) == [False, True]
    assert executions == ["01-first"] and locked == [chapters_module.note_file(chapter, "quick")] * 2


def test_a_run_waits_as_long_as_another_holds_its_chapter(executions, monkeypatch):
    (chapter,) = find_chapters(["1"])
    note_file = chapters_module.note_file(chapter, "quick")
    seen = []

    def free_meanwhile(path):
        assert files_module.lock(path, timeout=0) is None  # taken: here a run would wait
        seen.append(list(executions))
        held.lock.release()
        return files_module.lock(path)

    monkeypatch.setattr(running, "lock", free_meanwhile)
    held = files_module.lock(note_file)
    assert run_chapter(chapter, "quick")
    assert (seen, executions) == ([[]], ["01-first"])


# Real kernels


@pytest.mark.notebook
def test_a_chapter_is_executed_saved_and_checked(project):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    assert chapter_state(chapter).word == "fresh"
    notebook = nbformat.read(chapter.notebook, as_version=4)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in read_source(chapter).cells]
    assert (
        "papermill" not in chapter.notebook.read_text() and str(project) not in chapter.notebook.read_text()
    )
    published = records.read_published("01-rows")
    assert sorted(record["rows"][0]["y"] for record in published.values()) == [0, 2, 4]
    status = json.loads((project / "chapters" / "results" / "status.json").read_text())["01-first"]
    assert status["profile"] == "published" and status["duration_seconds"] > 0 and status["versions"]["numpy"]
    rows = project / "chapters" / "results" / "01-rows.jsonl"
    assert status["rows"] == {"01-rows": hashlib.sha256(rows.read_bytes()).hexdigest()}

    assert check_chapter(chapter) == []
    assert chapter_state(chapter).word == "fresh"  # checking disturbs nothing
    assert run_chapters([chapter], published_rows=True) == {"01-first": "stored"}

    edit(chapter.notebook, "accuracy 0.912", "accuracy 0.913")  # one printed number
    assert check_chapter(chapter) == [
        "code cell 3: the stored output says 'accuracy 0.913', executing it gives 'accuracy 0.912'"
    ]


@pytest.mark.notebook
def test_saving_replaces_what_was_published_before(project):
    (chapter,) = find_chapters(["1"])
    results = project / "chapters" / "results"
    (results / "figures").mkdir(parents=True)
    edit(
        chapter.source,
        "\nrows = run",
        '\nrun_experiment("02-kept", [Settings(0)], lambda s: {"y": 1})\nrows = run',
    )
    for name in ("01-old.jsonl", "02-kept.jsonl", "figures/01-old.json", "figures/02-kept.json"):
        (results / name).write_text("{}")
    made = project / "build" / "figures" / "01-before"
    made.mkdir(parents=True)
    (made / "figure.json").write_text("{}")  # left by another profile: not drawn by this run
    edit(
        chapter.source,
        'claim("holds")',
        'import pathlib; folder = pathlib.Path("../build/figures/01-new"); folder.mkdir(parents=True); '
        '(folder / "figure.json").write_text("[]"); claim("holds")',
    )
    save_chapter(chapter)
    assert (
        results / "02-kept.jsonl"
    ).read_text() == "{}"  # rows of another chapter are that one's to publish
    names = {str(path.relative_to(results)) for path in results.rglob("*") if path.is_file()}
    assert names == {
        "01-rows.jsonl", "02-kept.jsonl", "figures/01-new.json", "figures/02-kept.json", "status.json"
    }  # fmt: skip


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


# Published rows and committed notebooks


def test_local_rows_move_neither_a_run_nor_what_is_saved(project, kernel):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    before = committed_bytes(project)
    plant_row(77)
    shutil.rmtree(project / "build" / "notebooks")
    run_chapter(chapter)
    assert json.loads(chapter.executed("published").read_text())["metadata"]["printed"][1] == [0, 2, 4]
    save_chapter(chapter)
    after = committed_bytes(project)
    assert {name for name in before if before[name] != after[name]} <= {"chapters/results/status.json"}
    assert committed_is_fresh(chapter)


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


def test_saving_with_recompute_replaces_published_rows_and_saves_the_parameters_of_the_source(
    project, kernel
):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    edit(chapter.source, "s.seed * 2}", "s.seed * 3}")
    save_chapter(chapter)
    assert published_values() == {0: 0, 1: 2, 2: 4}  # what is published stays
    plant_row(77)
    kernel.clear()
    assert run_chapters([chapter], given={"recompute": "true"}, save=True) == {"01-first": "executed"}
    assert kernel == [("01-first", {"recompute": True}), ("01-first", {})]
    assert published_values() == {0: 0, 1: 3, 2: 6}
    assert json.loads(chapter.notebook.read_text())["metadata"]["printed"][1] == [0, 3, 6]
    assert "recompute = True" not in chapter.notebook.read_text() and committed_is_fresh(chapter)
    assert not (project / "build" / "recomputed" / "01-first").exists()


@pytest.mark.parametrize("failing", ["recomputing", "executing", "publishing", "edited"])
def test_saving_that_fails_leaves_what_was_published_as_it_was(project, kernel, monkeypatch, failing):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    edit(chapter.source, "s.seed * 2}", "s.seed * 3}")
    before, calls, real = committed_bytes(project), len(kernel), running.execute

    def execute(*arguments):
        count = len(kernel) - calls
        if failing == ("recomputing", "executing")[min(count, 1)]:
            raise NnoptError("it failed.")
        if failing == "edited" and count:
            edit(chapter.source, "Yes, it does.", "Edited meanwhile.")
        return real(*arguments)

    def write_status(*arguments):
        raise NnoptError("it failed.")

    monkeypatch.setattr(running, "execute", execute)
    if failing == "publishing":
        monkeypatch.setattr(running, "_write_status", write_status)
    with pytest.raises(NnoptError) as refusal:
        save_chapter(chapter, recompute=True)
    assert str(refusal.value) == (
        "it failed."
        if failing != "edited"
        else "chapter 01-first and its library must not be edited while it is saved. "
        "Run nnopt run 01 --save again."
    )
    after = committed_bytes(project)
    assert {name for name in after if after[name] != before.get(name)} == (
        {"chapters/01-first.md"} if failing == "edited" else set()
    )


def test_a_first_saving_that_fails_publishes_nothing(project, kernel, monkeypatch):
    (chapter,) = find_chapters(["1"])
    monkeypatch.setattr(running, "_write_status", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_chapter(chapter)
    assert set(committed_bytes(project)) == {"chapters/01-first.md", "chapters/02-second.md"}
