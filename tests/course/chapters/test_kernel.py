"""One notebook in one kernel: which interpreter, which folders, and how it fails."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.chapters.batch import run_chapters
from nnopt_lib.course.chapters.kernel import execute, kernel_environment
from nnopt_lib.course.chapters.run import run_chapter
from nnopt_lib.course.chapters.save import save_chapter
from nnopt_lib.course.chapters.source import (
    find_chapters,
)
from nnopt_lib.course.chapters.state import (
    chapter_state,
)
from tests import surroundings
from tests.tiny_course import committed_bytes, edit

pytestmark = pytest.mark.usefixtures("project")


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
@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("sys.exit(0)", "ended early in code cell 3 of 5: SystemExit"),
        ("raise SystemExit", "ended early in code cell 3 of 5: SystemExit"),
        (
            'import argparse; argparse.ArgumentParser(prog="x").parse_args(["--help"])',
            "ended early in code cell 3 of 5: SystemExit",
        ),
        (
            "get_ipython().execution_count += 1",
            "did not run in order: code cell 4 was the kernel's cell 5",
        ),
    ],
)
def test_a_notebook_that_ends_early_or_out_of_order_is_no_success(project, code, what):
    (chapter,) = find_chapters(["1"])
    edit(chapter.source, 'print(f"accuracy {0.91234:.3f}")', code)
    with pytest.raises(NnoptError) as refusal:
        run_chapter(chapter)
    sentence = str(refusal.value)
    assert sentence.startswith(f"chapter 01-first {what}") and "What was done until then is in" in sentence
    assert chapter_state(chapter).word == "never run"


@pytest.mark.notebook
def test_an_early_exit_leaves_what_was_published_as_it_was(project):
    (chapter,) = find_chapters(["1"])
    save_chapter(chapter)
    edit(chapter.source, 'print(f"accuracy {0.91234:.3f}")', "sys.exit(0)")
    before = committed_bytes(project)
    with pytest.raises(NnoptError, match="ended early in code cell 3 of 5: SystemExit"):
        save_chapter(chapter)
    assert committed_bytes(project) == before
    assert "chapters/results/01-rows.jsonl" in before


@pytest.mark.notebook
def test_the_last_cell_must_not_exit_either(project):
    (chapter,) = find_chapters(["1"])
    edit(chapter.source, 'claim("holds")', "sys.exit()")
    with pytest.raises(
        NnoptError, match=r"ended early in code cell 5 of 5: SystemExit, and all of them must run"
    ):
        run_chapter(chapter)


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


def test_a_home_that_cannot_be_written_is_a_temporary_one_for_kernels(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "HOME" not in kernel_environment()
    monkeypatch.setenv("HOME", "/proc/nowhere")
    home = Path(kernel_environment()["HOME"])
    assert home.is_dir() and os.access(home, os.W_OK) and kernel_environment()["HOME"] == str(home)


@pytest.mark.parametrize("name", ["NNOPT_DATA", "NNOPT_STORE", "NNOPT_BUILD"])
def test_a_relative_folder_means_the_callers(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, "own/folder")
    assert kernel_environment()[name] == str(tmp_path / "own" / "folder")


def test_a_folder_that_is_not_named_is_not_named_for_kernels(monkeypatch):
    for name in ("NNOPT_DATA", "NNOPT_STORE"):
        monkeypatch.setenv(name, "")
        assert name not in kernel_environment()


@pytest.mark.notebook
def test_a_users_profiles_startup_files_and_styles_are_not_in_a_kernel(project, monkeypatch):
    surroundings.set_up_kernels_for_other_work(project, monkeypatch)
    text = execute("01-first", surroundings.notebook(), {}, project / "build" / "01-first.ipynb", {})
    cells = nbformat.reads(text, as_version=4).cells
    shown = {cell.source: cell.outputs[0].data["text/plain"] for cell in cells}
    assert shown == surroundings.CELLS


def test_a_users_settings_of_jupyter_and_keras_are_not_in_a_kernel(monkeypatch, tmp_path):
    for name in ("JUPYTER_CONFIG_DIR", "KERAS_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
        folder = Path(kernel_environment()[name])
        assert folder.is_dir() and list(folder.iterdir()) == []
