"""Chapters: found, read, fresh or stale, executed whole or not at all, saved, verified; and what the check notices."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
import pytest

from nnopt_lib import files as files_module
from nnopt_lib import paths
from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters import run as running
from nnopt_lib.course.chapters import state as chapters_module
from nnopt_lib.course.chapters.check import check_chapter
from nnopt_lib.course.chapters.kernel import kernel_environment
from nnopt_lib.course.chapters.run import run_chapter, run_chapters, save_chapter
from nnopt_lib.course.chapters.source import (
    convert_parameters,
    default_parameters,
    find_chapters,
    read_source,
)
from nnopt_lib.course.chapters.state import (
    chapter_state,
    committed_is_fresh,
    freshness_key,
    listed_state,
)
from nnopt_lib.experiments import records as records_module
from tests.tiny_course import edit, write_course


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A course of two tiny chapters; nothing of the real one is touched."""
    write_course(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def executions(monkeypatch):
    """Names of the chapters executed; a stand-in for papermill that takes no time."""
    names = []

    def execute(name, notebook, parameters, output, environment):
        names.append(name)
        return f'{{"executed": {len(names)}}}\n'

    monkeypatch.setattr(running, "execute", execute)
    return names


# Finding and reading


def test_chapters_are_found_by_number_word_or_name_in_their_order():
    first, second = find_chapters()
    assert (first.number, first.name, first.title) == ("01", "01-first", "Does it work?")
    for names in (["2"], ["02"], ["second"], ["02-second"], ["02", "2"]):
        assert find_chapters(names) == [second]
    assert find_chapters(["2", "1"]) == [first, second]


def test_an_unknown_chapter_is_one_sentence(project):
    with pytest.raises(NnoptError) as refusal:
        find_chapters(["7"])
    assert str(refusal.value) == "there is no chapter '7'. Choose from 01-first, 02-second."
    with pytest.raises(NnoptError) as refusal:
        find_chapters(["02-secnd"])
    assert str(refusal.value) == "there is no chapter '02-secnd'. Did you mean '02-second'?"
    for path in (project / "chapters").glob("*.md"):
        path.unlink()
    with pytest.raises(NnoptError) as refusal:
        find_chapters()
    assert str(refusal.value) == (
        f"{project / 'chapters'} must hold chapters called NN-name.md. Run nnopt inside the course's checkout."
    )


def test_a_source_that_is_no_myst_notebook_is_one_sentence(project):
    edit(project / "chapters" / "01-first.md", "  display_name: Python 3\n", "")
    (chapter,) = find_chapters(["1"])
    with pytest.raises(NnoptError) as refusal:
        read_source(chapter)
    assert str(refusal.value) == (
        f"{chapter.source} must be a MyST notebook; received \"'display_name' is a required property\"."
    )


def test_cell_ids_depend_on_the_text_only():
    one, again = (read_source(find_chapters(["1"])[0]) for _ in range(2))
    assert [cell.id for cell in one.cells] == [cell.id for cell in again.cells]
    assert len({cell.id for cell in one.cells}) == len(one.cells)
    nbformat.validate(one)


def test_parameters_are_converted_to_the_type_of_their_literal():
    (chapter,) = find_chapters(["1"])
    defaults = default_parameters(chapter, read_source(chapter))
    assert defaults == {"profile": "published", "recompute": False, "device": "auto"}
    for text, value in (("true", True), ("True", True), ("false", False)):
        assert convert_parameters(chapter, defaults, {"recompute": text})["recompute"] is value
    others = {"count": 3, "rate": 0.5, "name": "x", "widths": [1]}
    given = {"count": "4", "rate": "2", "name": "5", "widths": "[2, 3]"}
    assert convert_parameters(chapter, others, given) == {
        "count": 4,
        "rate": 2.0,
        "name": "5",
        "widths": [2, 3],
    }


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


def test_parameters_that_are_not_literals_are_refused(project):
    edit(project / "chapters" / "01-first.md", 'device = "auto"', "device = max(1, 2)")
    (chapter,) = find_chapters(["1"])
    with pytest.raises(NnoptError) as refusal:
        default_parameters(chapter, read_source(chapter))
    assert str(refusal.value).startswith(
        "chapter 01-first must have one cell tagged parameters that only assigns literals; received 'profile ="
    )


# Freshness


def test_nothing_changed_executes_nothing(executions):
    assert [chapter_state(chapter).word for chapter in find_chapters()] == ["never run"] * 2
    assert run_chapters(find_chapters()) == {"01-first": "executed", "02-second": "executed"}
    assert run_chapters(find_chapters()) == {"01-first": "fresh", "02-second": "fresh"}
    assert executions == ["01-first", "02-second"]
    state = chapter_state(find_chapters()[0])
    assert state.word == "fresh" and 0 <= state.duration_seconds < 5 and state.finished_at.endswith("+00:00")


def test_one_changed_source_executes_that_chapter_only(project, executions):
    run_chapters(find_chapters())
    edit(project / "chapters" / "02-second.md", "Yes, it does.", "No.")
    assert [chapter_state(chapter).word for chapter in find_chapters()] == ["fresh", "stale"]
    run_chapters(find_chapters())
    assert executions == ["01-first", "02-second", "02-second"]


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
    keys = {freshness_key(chapter, {"profile": "quick"}), freshness_key(chapter, {"profile": "published"})}
    (project / "chapters" / "results").mkdir()
    (project / "chapters" / "results" / "01-rows.jsonl").write_text("{}\n")
    keys.add(freshness_key(chapter, {"profile": "quick"}))
    (project / "chapters" / "results" / "02-rows.jsonl").write_text("{}\n")  # of another chapter
    keys.add(freshness_key(chapter, {"profile": "quick"}))
    monkeypatch.setattr(chapters_module.shutil, "which", lambda command: "/usr/bin/nvidia-smi")
    keys.add(freshness_key(chapter, {"profile": "quick"}))
    monkeypatch.setattr(chapters_module, "provenance", lambda: {"versions": {"torch": "3"}})
    keys.add(freshness_key(chapter, {"profile": "quick"}))
    assert len(keys) == 5


def test_an_edited_output_or_note_is_stale_and_recomputing_is_never_skipped(executions):
    (chapter,) = find_chapters(["1"])
    run_chapter(chapter, "quick")
    chapter.executed("quick").write_text("{}")
    assert chapter_state(chapter, "quick").word == "stale"
    assert run_chapter(chapter, "quick") and not run_chapter(chapter, "quick")
    chapters_module.note_file(chapter, "quick").write_text("not json")
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
    held = files_module.lock(chapters_module.note_file(chapter, "quick"))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run_chapter, chapter, "quick") for _ in range(2)]
        time.sleep(0.2)
        assert executions == []
        with held:  # lets go at the end
            pass
        assert sorted(run.result() for run in runs) == [False, True]
    assert executions == ["01-first"]


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
    published = records_module.read_published("01-rows")
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
@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import os; os._exit(0)", "the kernel died (killed, or out of memory)"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "the kernel died (killed, or out of memory)",
        ),
        ('raise ValueError("one line\\nand another")', "ValueError: one line"),
    ],
)
def test_a_failing_notebook_is_one_sentence_and_the_old_output_stays(project, code, what):
    (chapter,) = find_chapters(["1"])
    output = chapter.executed("published")
    output.parent.mkdir(parents=True)
    output.write_text("old")
    edit(chapter.source, 'print(f"accuracy {0.91234:.3f}")', code)
    with pytest.raises(NnoptError) as refusal:
        run_chapter(chapter)
    unfinished = output.with_name("01-first.unfinished.ipynb")
    assert str(refusal.value) == (
        f"chapter 01-first failed in code cell 3: {what}. What was done until then is in {unfinished}."
    )
    assert output.read_text() == "old"
    assert chapter_state(chapter).word == "never run"
    if "kernel died" in what:  # papermill's habit: even the cells after the death are marked as completed
        cells = nbformat.read(unfinished, as_version=4).cells
        assert {cell.metadata.papermill.status for cell in cells} == {"completed"}


@pytest.mark.notebook
def test_the_kernel_is_this_interpreter_and_chapters_at_once_share_the_cores(project, monkeypatch):
    kernels = project / "jupyter" / "kernels" / "python3"
    kernels.mkdir(parents=True)
    (kernels / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(project / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # a number that is given is kept
    code = 'import os; print(sys.executable, os.getcwd(), os.environ.get("OMP_NUM_THREADS"), profile)'
    for chapter in find_chapters():
        edit(chapter.source, 'print(f"accuracy {0.91234:.3f}")', code)
    edit(project / "chapters" / "02-second.md", 'claim("holds")', "1 / 0")
    with pytest.raises(NnoptError) as refusal:
        run_chapters(find_chapters(), "quick", jobs=2)
    assert str(refusal.value).startswith(
        "chapter 02-second failed in code cell 6: ZeroDivisionError: division by zero."
    )
    first, second = find_chapters()
    assert first.executed("quick").is_file()  # one failure does not stop the others
    assert not second.executed("quick").exists()
    cells = nbformat.read(first.executed("quick"), as_version=4).cells
    printed = [
        output.text for cell in cells for output in cell.get("outputs", []) if output.output_type == "stream"
    ]
    cores = max(1, __import__("joblib").cpu_count() // 2)
    assert printed[0] == f"{sys.executable} {project / 'chapters'} {cores} quick\n"


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


def test_a_home_that_cannot_be_written_is_a_temporary_one_for_kernels(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "HOME" not in kernel_environment()
    monkeypatch.setenv("HOME", "/proc/nowhere")
    home = Path(kernel_environment()["HOME"])
    assert home.is_dir() and os.access(home, os.W_OK) and kernel_environment()["HOME"] == str(home)


def test_a_relative_folder_of_data_means_the_callers(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NNOPT_DATA", "own/data")
    assert kernel_environment()["NNOPT_DATA"] == str(tmp_path / "own" / "data")


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


@pytest.fixture
def kernel(monkeypatch):
    """Chapters executed by a stand-in for papermill that runs their code in this process, without a kernel."""
    calls = []

    def execute(name, notebook, parameters, output, environment):
        calls.append((name, dict(parameters)))
        names = {}
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            for cell in (one for one in notebook.cells if one.cell_type == "code"):
                exec(cell.source, names)
                names.update(parameters if "parameters" in cell.metadata.get("tags", []) else {})
        notebook.metadata["printed"] = [printed.getvalue(), [row["y"] for row in names["rows"]]]
        return nbformat.writes(notebook) + "\n"

    monkeypatch.setattr(running, "execute", execute)
    return calls


def values(experiment="01-rows"):
    """The published value of each seed."""
    records = records_module.read_published(experiment).values()
    return {record["settings"]["seed"]: record["rows"][0]["y"] for record in records}


def plant(value, seed=1, experiment="01-rows"):
    """Put another value under a published run id into the local store, as another processor would."""
    (record,) = [
        r for r in records_module.read_published(experiment).values() if r["settings"]["seed"] == seed
    ]
    path = paths.store_folder() / experiment / f"{record['run_id']}.json"
    records_module.write_record(path, {**record, "rows": [{"y": value}]})


def committed(project):
    """Bytes of all that `--save` commits."""
    files = [path for path in (project / "chapters").rglob("*") if path.is_file()]
    return {str(path.relative_to(project)): path.read_bytes() for path in files}


def test_a_saved_chapter_needs_no_execution_on_any_machine(project, kernel, monkeypatch):
    (chapter,) = find_chapters(["1"])
    assert not committed_is_fresh(chapter)
    save_chapter(chapter)
    assert committed_is_fresh(chapter)
    shutil.rmtree(project / "build")  # as in a new checkout, on another machine
    monkeypatch.setattr(chapters_module, "provenance", lambda: {"versions": {"torch": "3"}})
    monkeypatch.setattr(chapters_module.platform, "machine", lambda: "another")
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


def test_local_rows_move_neither_a_run_nor_what_is_saved(project, kernel):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    before = committed(project)
    plant(77)
    shutil.rmtree(project / "build" / "notebooks")
    run_chapter(chapter)
    assert json.loads(chapter.executed("published").read_text())["metadata"]["printed"][1] == [0, 2, 4]
    save_chapter(chapter)
    after = committed(project)
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


def test_saving_with_recompute_replaces_published_rows_and_saves_its_own_parameters(project, kernel):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    edit(chapter.source, "s.seed * 2}", "s.seed * 3}")
    save_chapter(chapter)
    assert values() == {0: 0, 1: 2, 2: 4}  # what is published stays
    plant(77)
    kernel.clear()
    assert run_chapters([chapter], given={"recompute": "true"}, save=True) == {"01-first": "executed"}
    assert kernel == [("01-first", {"recompute": True}), ("01-first", {})]
    assert values() == {0: 0, 1: 3, 2: 6}
    assert json.loads(chapter.notebook.read_text())["metadata"]["printed"][1] == [0, 3, 6]
    assert "recompute = True" not in chapter.notebook.read_text() and committed_is_fresh(chapter)
    assert not (project / "build" / "recomputed" / "01-first").exists()


@pytest.mark.parametrize("failing", ["recomputing", "executing", "publishing", "edited"])
def test_saving_that_fails_leaves_what_was_published_as_it_was(project, kernel, monkeypatch, failing):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    edit(chapter.source, "s.seed * 2}", "s.seed * 3}")
    before, calls, real = committed(project), len(kernel), running.execute

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
    after = committed(project)
    assert {name for name in after if after[name] != before.get(name)} == (
        {"chapters/01-first.md"} if failing == "edited" else set()
    )


def test_a_first_saving_that_fails_publishes_nothing(project, kernel, monkeypatch):
    (chapter,) = find_chapters(["1"])
    monkeypatch.setattr(running, "_write_status", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_chapter(chapter)
    assert set(committed(project)) == {"chapters/01-first.md", "chapters/02-second.md"}


@pytest.mark.notebook
def test_a_planted_local_row_moves_neither_the_check_nor_the_book(project):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    plant(2.0000001)
    assert check_chapter(chapter) == []
    rows = project / "chapters" / "results" / "01-rows.jsonl"
    whole = rows.read_text()
    rows.write_text("".join(line for line in whole.splitlines(True) if '"seed": 1}' not in line))
    assert check_chapter(chapter) == [
        "code cell 4: Cell execution caused an exception: NnoptError: 01-rows must take all its rows "
        "from the published ones while NNOPT_ROWS is published; received 1 of 3 settings that are not published, "
        "the first {'seed': 1}. Run nnopt run 01 --save."
    ]
    rows.write_text(whole)
    edit(chapter.source, "Yes, it does.", "Yes, it does so.")  # now the book has to execute it
    assert run_chapters([chapter], published_rows=True) == {"01-first": "executed"}
    assert "[0, 2, 4]" in chapter.executed("published").read_text()
    edit(chapter.source, "else 3)", "else 4)")
    with pytest.raises(NnoptError, match="received 1 of 4 settings that are not published, the first"):
        run_chapters([chapter], published_rows=True)


# The check


@pytest.fixture
def twin(project):
    """A committed notebook that agrees with its source, made without a kernel."""
    (chapter,) = find_chapters(["1"])

    def write(change=lambda notebook: None):
        notebook = read_source(chapter)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for number, cell in enumerate(code, start=1):
            cell.execution_count = number
        change(notebook)
        nbformat.write(notebook, chapter.notebook)
        return check_chapter(chapter, run=False)

    return write


def test_a_chapter_by_the_template_passes(twin):
    assert twin() == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("# Does it work?", "# It works", "the first line must be a title that asks a question; it is '# It works'"),
        ('device = "auto"', 'device = "cpu"', "the parameters cell must say device = 'auto'"),
        ("## The idea", "## Thoughts", "a section whose heading has the word 'idea' is missing"),
        ("## Where it fails", "## Summary of failures: where it fails\n\n## Summary", ""),
        ("## Claims", "## Where it ends", "a section whose heading has the word 'claims' is missing"),
        ("claim(", "note(", "no conclusion is recorded with claim(...)"),
        ("<details>", "<p>", "no exercise has a collapsed solution (<details> with <summary>Solution)"),
        ("Yes, it does.", "![](plot.svg)", "picture plot.svg has no alternative text"),
        ("Yes, it does.", "```{figure} plot.svg\n:width: 3\n```", "picture plot.svg has no alternative text"),
        ("Yes, it does.", "```{figure} plot.svg\n:alt: a line\n```", ""),
        ("def claim", "\n".join(f"x{n} = 1" for n in range(30)) + "\ndef claim",
         "a code cell has 32 lines, 30 are allowed: 'x0 = 1'"),
        ("import dataclasses, sys", "import dataclasses, sys\na = 1\nb = 2\nc = 3\nd = 4\ne = 5", ""),
    ],
)  # fmt: skip
def test_what_breaks_the_template_is_named(project, twin, old, new, problem):
    edit(project / "chapters" / "01-first.md", old, new)
    assert twin() == ([problem] if problem else [])


def test_sections_keep_their_order(project, twin):
    path = project / "chapters" / "01-first.md"
    edit(path, "## Sources", "## Late")
    edit(path, "## The idea", "## Sources\n\n## The idea")
    assert twin() == ["a section whose heading has the word 'sources' stands too early"]


def test_long_cells_are_counted_by_their_median(project, twin):
    path = project / "chapters" / "01-first.md"
    for old in ("import dataclasses, sys", 'print(f"accuracy', "def claim"):
        edit(path, old, "a = 1\nb = 2\nc = 3\nd = 4\ne = 5\n" + old)
    assert twin() == ["code cells have a median of 7 lines; 5 are allowed"]


def test_a_notebook_that_differs_from_its_source_is_noticed(project, twin):
    def other_source(notebook):
        notebook.cells[3].source += "\nx = 1"

    def other_tags(notebook):
        notebook.cells[1].metadata.tags = []

    def one_more(notebook):
        notebook.cells.append(nbformat.v4.new_markdown_cell("more"))

    assert twin(other_source) == ["cell 4 of the notebook differs from its source: 'import dataclasses, sys'"]
    assert twin(other_tags) == ["cell 2 of the notebook differs from its source: 'profile = \"published\"'"]
    count = len(read_source(find_chapters(["1"])[0]).cells)
    assert twin(one_more) == [f"the notebook has {count + 1} cells, its source {count}"]
    find_chapters(["1"])[0].notebook.unlink()
    assert check_chapter(find_chapters(["1"])[0]) == [
        "01-first.ipynb is missing; nnopt run 01 --save makes it"
    ]


def test_outputs_that_nbval_would_pass_are_noticed(twin):
    def display(words):
        return nbformat.v4.new_output("display_data", {"image/svg+xml": "<svg/>", "text/plain": words})

    def code(notebook):
        return [cell for cell in notebook.cells if cell.cell_type == "code"]

    def stripped(notebook):
        code(notebook)[2].execution_count = None

    def failed(notebook):
        code(notebook)[2].outputs = [
            nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])
        ]

    def silent(notebook):
        code(notebook)[2].outputs = [display("<Figure size 640x480>")]

    def told(notebook):
        code(notebook)[2].outputs = [display("Accuracy rises with width.")]

    assert twin(stripped) == ["code cell 3 was not executed in order (it says None)"]
    assert twin(failed) == ["code cell 3 shows an error: ValueError"]
    assert twin(silent) == ["the figure of code cell 3 has no alternative text"]
    assert twin(told) == []


@pytest.mark.notebook
def test_nbval_fails_on_a_timeout_and_on_an_unexpected_warning(project, monkeypatch):
    monkeypatch.setattr("nnopt_lib.course.chapters.check.CELL_TIMEOUT_SECONDS", 1)
    (chapter,) = find_chapters(["1"])
    notebook = nbformat.v4.new_notebook()
    lines = ["import sys; print('careful', file=sys.stderr)", "1 / 0", "import time; time.sleep(9)", "x = 1"]
    for number, line in enumerate(lines, start=1):
        notebook.cells.append(nbformat.v4.new_code_cell(line, execution_count=number))
    nbformat.write(notebook, chapter.notebook)
    from nnopt_lib.course.chapters.check import nbval_problems

    assert list(nbval_problems(chapter.notebook)) == [
        "code cell 1: Unexpected output fields from running code: {'stderr'}",
        "code cell 2: Cell execution caused an exception: ZeroDivisionError: division by zero",
        "code cell 3: Timeout of 1 seconds exceeded executing cell",
    ]
