"""Chapters saved: all that is committed of them is replaced, or nothing is, whatever happens meanwhile."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest

from nnopt_lib import files as files_module
from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters import run as running
from nnopt_lib.course.chapters.batch import run_chapters
from nnopt_lib.course.chapters.check import check_chapter
from nnopt_lib.course.chapters.run import run_chapter
from nnopt_lib.course.chapters.save import save_chapter
from nnopt_lib.course.chapters.source import (
    find_chapters,
    read_source,
)
from nnopt_lib.course.chapters.state import (
    chapter_state,
    committed_is_fresh,
)
from nnopt_lib.experiments import records
from nnopt_lib.results.seals import read_status, seal_problems
from tests.tiny_course import committed_bytes, edit, plant_row, published_values

pytestmark = pytest.mark.usefixtures("project")


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
        'import os, pathlib; folder = pathlib.Path(os.environ["NNOPT_BUILD"], "figures/01-new"); folder.mkdir(parents=True); '
        '(folder / "figure.json").write_text("[]"); claim("holds")',
    )
    save_chapter(chapter)
    assert (
        results / "02-kept.jsonl"
    ).read_text() == "{}"  # rows of another chapter are that one's to publish
    names = {str(path.relative_to(results)) for path in results.rglob("*.json*")}
    assert names == {
        "01-rows.jsonl", "02-kept.jsonl", "figures/01-new.json", "figures/02-kept.json", "status.json"
    }  # fmt: skip


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

    monkeypatch.setattr(running, "execute", execute)
    if failing == "publishing":
        _disk_is_full_from(monkeypatch, "plan.json")
    with pytest.raises(NnoptError) as refusal:
        save_chapter(chapter, recompute=True)
    plan = project / "chapters" / "results" / ".publishing" / "01-first" / "plan.json"
    assert str(refusal.value) == {
        "edited": "chapter 01-first and its library must not be edited while it is saved. "
        "Run nnopt run 01 --save again.",
        "publishing": f"{plan} could not be written: No space left on device. Free some space and run again; "
        "what was there before is untouched.",
    }.get(failing, "it failed.")
    assert not plan.parent.exists()
    after = committed_bytes(project)
    assert {name for name in after if after[name] != before.get(name)} == (
        {"chapters/01-first.md"} if failing == "edited" else set()
    )


def _disk_is_full_from(monkeypatch, ending):
    """Let no file be put into its place from the first one whose path has that ending on."""
    state = []

    def replace(source, target, real=os.replace):
        state.extend([True] * str(target).endswith(ending))
        if state:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(files_module.os, "replace", replace)


def test_a_first_saving_that_fails_publishes_nothing(project, kernel, monkeypatch):
    (chapter,) = find_chapters(["1"])
    _disk_is_full_from(monkeypatch, "plan.json")
    with pytest.raises(NnoptError, match="No space left on device"):
        save_chapter(chapter)
    assert set(committed_bytes(project)) == {"chapters/01-first.md", "chapters/02-second.md"}


@pytest.mark.parametrize(
    "cut_at", ["chapters/results/01-rows.jsonl", "chapters/01-first.ipynb", "status.json"]
)
def test_what_was_cut_short_while_it_was_published_is_finished_by_the_next_reader(
    project, kernel, monkeypatch, cut_at
):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    edit(chapter.source, "s.seed * 2}", "s.seed * 3}")
    with monkeypatch.context() as patch:
        _disk_is_full_from(patch, cut_at)
        with pytest.raises(NnoptError, match="could not be written: No space left on device"):
            save_chapter(chapter, recompute=True)
    assert read_status()["01-first"] and seal_problems("01-first") == []
    assert published_values() == {0: 0, 1: 3, 2: 6}
    assert json.loads(chapter.notebook.read_text())["metadata"]["printed"][1] == [0, 3, 6]
    assert committed_is_fresh(chapter)
    assert not list((project / "chapters" / "results" / ".publishing").glob("*/"))


@pytest.mark.notebook
def test_two_profiles_at_once_publish_what_one_of_them_claims(project):
    """The command twice, as processes: neither gets a row, claim or figure of the other's."""
    (chapter,) = find_chapters(["1"])
    edit(
        chapter.source,
        "import dataclasses, sys",
        "import dataclasses, pathlib, time\nfrom nnopt_lib import claim, figures",
    )
    edit(chapter.source, 'def claim(*words): print(*words)\nclaim("holds")', AT_ONCE)
    commands = [["--save"], ["--profile", "quick"]]
    # The library is the real one, unlike in this process.
    command = [sys.executable, "-m", "nnopt_lib.cli", "run", "1"]
    processes = [
        subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for words in commands
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err, out.split()) == (0, "", ["01-first", "executed"])
    results = project / "chapters" / "results"
    assert len(records.read_published("01-rows")) == 3
    (record,) = json.loads((results / "claims" / "01-first.json").read_text())
    assert record["sentence"] == "There are 3 seeds."
    assert len(json.loads((results / "figures" / "01-y.json").read_text())["rows"]) == 3
    assert seal_problems("01-first") == []
    assert "There are 3 seeds." in chapter.notebook.read_text()
    assert "There are 2 seeds." in chapter.executed("quick").read_text()


# Each announces itself, and waits a moment for the other: without a lock they would meet in the middle.
AT_ONCE = """\
here = pathlib.Path(f"{profile}.begun")
here.touch()
deadline = time.monotonic() + 3
while len(list(pathlib.Path().glob("*.begun"))) < 2 and time.monotonic() < deadline:
    time.sleep(0.05)
figures.save_figure("01-y", rows, "curves", x="seed", y="y", x_label="seed", y_label="y", alt="A line.")
claim("01-first", "seeds", f"There are {len(rows)} seeds.", holds=True, rows=rows)"""
