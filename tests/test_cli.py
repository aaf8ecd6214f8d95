"""The command `nnopt`: what it prints, its exit status, and one readable line for every failure."""

from __future__ import annotations

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from nnopt_lib.cli import main
from nnopt_lib.course.book import build as book_module
from nnopt_lib.course.chapters import batch
from nnopt_lib.course.chapters import check as validation
from nnopt_lib.course.chapters import run as running
from nnopt_lib.data.catalog import CATALOG

CHAPTER = """\
---
kernelspec:
  display_name: Python 3
  name: python3
---

# Does it work?

```{code-cell} ipython3
:tags: [parameters]

profile = "published"
recompute = False
device = "auto"
```

```{code-cell} ipython3
print("accuracy 0.9")
```
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A course of two tiny chapters."""
    (tmp_path / "chapters").mkdir()
    (tmp_path / "constraints.txt").write_text("torch==1\n")
    for name in ("01-first", "02-second"):
        (tmp_path / "chapters" / f"{name}.md").write_text(CHAPTER)
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    monkeypatch.setenv("NNOPT_PROGRESS", "0")
    return tmp_path


@pytest.fixture
def executions(monkeypatch):
    """Names and parameters of what was executed; a stand-in for papermill that takes no time."""
    calls = []

    def execute(name, notebook, parameters, output, environment):
        calls.append((name, dict(parameters)))
        return "{}\n"

    monkeypatch.setattr(running, "execute", execute)
    return calls


def run(capsys, *words):
    """Exit status, stdout and stderr of ``nnopt *words``."""
    status = main(words)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_run_executes_then_finds_everything_fresh(capsys, executions):
    assert run(capsys, "run", "--profile", "quick") == (
        0, "01-first                 executed\n02-second                executed\n", ""
    )  # fmt: skip
    assert run(capsys, "run", "--profile", "quick") == (
        0, "01-first                 fresh\n02-second                fresh\n", ""
    )  # fmt: skip
    assert executions == [("01-first", {"profile": "quick"}), ("02-second", {"profile": "quick"})]


def test_parameters_are_passed_as_two_words_and_may_be_repeated(capsys, executions):
    run(capsys, "run", "-p", "device", "cpu", "01", "-p", "recompute", "true", "-p", "profile", "quick")
    assert executions == [("01-first", {"profile": "quick", "recompute": True, "device": "cpu"})]
    run(capsys, "run", "01", "-p", "device", "cpu", "-p", "device", "cuda")  # the last one wins
    assert executions[1:] == [("01-first", {"device": "cuda"})]
    for value in ("a=b", "-1"):  # words of any form are taken for the value, which is then looked at
        status, _, err = run(capsys, "run", "01", "-p", "device", value)
        assert (
            status == 1 and err.startswith("nnopt: device must be one of ") and f"received {value!r}" in err
        )
    assert len(executions) == 2


def test_list_prints_state_duration_and_title(capsys, executions):
    run(capsys, "run", "01")
    assert run(capsys, "list") == (
        0,
        "01-first                 fresh          0.0 s  Does it work?\n"
        "02-second                never run             Does it work?\n",
        "",
    )


FAILURES = [
    (["run", "7"], 1, "there is no chapter '7'. Choose from 01-first, 02-second."),
    (["check", "frist"], 1, "there is no chapter 'frist'. Did you mean '01-first'?"),
    (["run", "-p", "recompte", "true"], 1, "parameter of 01-first must be one of profile, recompute, device; "
     "received 'recompte'. Did you mean 'recompute'?"),
    (["run", "-p", "recompute", "maybe"], 1, "parameter recompute of 01-first must be true or false, like False; "
     "received 'maybe'."),
    (["run", "-p", "recompute"], 2, "Option '-p' requires 2 arguments. See nnopt --help."),
    (["run", "-p", "recompute=true"], 2, "Option '-p' requires 2 arguments. See nnopt --help."),
    (["run", "-p", "recompute=true", "01"], 1, "a parameter must be given as -p NAME VALUE; "
     "received -p recompute=true."),
    (["run", "--profile", "quik"], 1, "profile must be one of quick, published; received 'quik'. "
     "Did you mean 'quick'?"),
    (["list", "--profile", "quik"], 1, "profile must be one of quick, published; received 'quik'. "
     "Did you mean 'quick'?"),
    (["run", "--jobs", "0"], 1, "--jobs must be a whole number, at least 1; received 0."),
    (["run", "--jobs", "two"], 2, "Invalid value for '--jobs': Input should be a valid integer, "
     "unable to parse string as an integer. See nnopt --help."),
    (["run", "--save", "--profile", "quick"], 1,
     "only the published profile with its own parameters, or with -p recompute true, can be saved; received quick {}."),
    (["run", "--profil", "quick"], 2, "No such option: --profil (Possible options: --profile). See nnopt --help."),
    (["rum"], 2, "No such command 'rum'. Did you mean 'run'? See nnopt --help."),
    (["results"], 2, "Missing command. See nnopt --help."),
    (["results", "verify", "--tolerance", "-1"], 1,
     "--tolerance must be a finite number, at least 0; received -1."),
    (["results", "prune", "--older-than-days", "-1"], 1,
     "--older-than-days must be a finite number, at least 0; received -1."),
]  # fmt: skip


@pytest.mark.parametrize(("words", "status", "sentence"), FAILURES)
def test_every_wrong_call_is_one_line_and_executes_nothing(capsys, executions, words, status, sentence):
    assert run(capsys, *words) == (status, "", f"nnopt: {sentence}\n")
    assert executions == []


def test_debug_adds_the_trace_wherever_it_stands(capsys):
    for words in (["--debug", "run", "7"], ["run", "7", "--debug"]):
        status, out, err = run(capsys, *words)
        assert status == 1 and err.startswith("Traceback (most recent call last):")
        assert err.endswith("nnopt: there is no chapter '7'. Choose from 01-first, 02-second.\n")


def test_an_unexpected_error_is_one_line_too(capsys, monkeypatch):
    def broken(*arguments, **options):
        raise KeyError("something\nlong")

    monkeypatch.setattr(batch, "run_chapters", broken)
    assert run(capsys, "run") == (
        1, "", "nnopt: unexpected KeyError: 'something\\nlong'. Run it again with --debug for the trace.\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [[], ["run"], ["list"], ["check"], ["book"], ["figures"], ["results", "verify"], ["results", "prune"]],
)
def test_help_shows_examples(capsys, words):
    status, out, err = run(capsys, *words, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: {' '.join(['nnopt', *words])}")
    assert f"\n  {' '.join(['nnopt', *words])}" in out.split("Options:")[0]


def test_nnopt_alone_prints_its_help(capsys):
    assert run(capsys) == run(capsys, "--help")


def test_check_names_every_problem_and_fails(capsys, monkeypatch):
    problems = {"01-first": [], "02-second": ["code cell 1: differs", "a section is missing"]}
    monkeypatch.setattr(validation, "check_chapter", lambda chapter: problems[chapter.name])
    assert run(capsys, "check") == (
        1,
        "01-first                 ok\n02-second                has problems\n",
        "nnopt: 02-second: code cell 1: differs\nnnopt: 02-second: a section is missing\n",
    )
    assert run(capsys, "check", "1") == (0, "01-first                 ok\n", "")


def test_book_executes_what_is_stale_and_hands_the_notebooks_on(capsys, project, executions, monkeypatch):
    handed = []

    def build_book(*, notebooks, profile, force=False):
        assert profile == "published"
        handed.append((notebooks, force))
        return project / "book" / "_build" / "html" / "index.html"

    monkeypatch.setattr(book_module, "build_book", build_book)
    page = project / "book" / "_build" / "html" / "index.html"
    status, out, err = run(capsys, "book")
    assert (status, err) == (0, "") and out.endswith(f"The book is {page}\n")
    assert run(capsys, "book", "--force")[1].count("fresh") == 2
    assert len(executions) == 2
    folder = project / "build" / "notebooks" / "published"
    notebooks = {name: folder / f"{name}.ipynb" for name in ("01-first", "02-second")}
    assert handed == [(notebooks, False), (notebooks, True)]


def test_book_takes_a_committed_notebook_that_is_fresh_and_list_says_so(
    capsys, project, executions, monkeypatch
):
    handed = {}

    def build_book(*, notebooks, profile, force=False):
        handed.update(notebooks)
        return project

    monkeypatch.setattr(book_module, "build_book", build_book)
    assert run(capsys, "run", "01", "--save", "-p", "recompute", "true")[0] == 0
    assert executions == [("01-first", {"recompute": True}), ("01-first", {})]
    shutil.rmtree(project / "build")
    executions.clear()
    assert run(capsys, "list")[1].splitlines()[0].split()[:2] == ["01-first", "fresh"]
    assert run(capsys, "list", "--profile", "quick")[1].splitlines()[0].split()[:2] == ["01-first", "never"]
    out = run(capsys, "book")[1]
    assert out.startswith("01-first                 stored\n02-second                executed\n")
    assert [name for name, parameters in executions] == ["02-second"]
    assert handed == {
        "01-first": project / "chapters" / "01-first.ipynb",
        "02-second": project / "build" / "notebooks" / "published" / "02-second.ipynb",
    }
    assert run(capsys, "book", "--profile", "quick")[1].count("executed") == 2


def test_figures_are_listed_drawn_by_name_or_chapter_and_refused_by_the_nearest(capsys, monkeypatch):
    drawn = []
    fake = SimpleNamespace(
        NARROWEST_INCHES=1.0,
        WIDEST_INCHES=100.0,
        list_figures=lambda: ["01-held-out", "01-scaling", "02-roofline"],
        redraw=lambda name, **options: drawn.append((name, options)),
    )
    monkeypatch.setitem(sys.modules, "nnopt_lib.results.figures", fake)
    assert run(capsys, "figures", "--list") == (0, "01-held-out\n01-scaling\n02-roofline\n", "")
    assert drawn == []
    assert run(capsys, "figures", "1", "--style", "paper", "--width", "3.3", "--format", "pdf")[0] == 0
    options = {"style": "paper", "width_inches": 3.3, "formats": ("pdf",), "out": None, "own": False}
    assert drawn == [("01-held-out", options), ("01-scaling", options)]
    assert run(capsys, "figures", "02-rofline") == (
        1, "", "nnopt: there is no figure '02-rofline'. Did you mean '02-roofline'?\n"
    )  # fmt: skip
    assert run(capsys, "figures", "--width", "0") == (
        1, "", "nnopt: --width must be a finite number, at least 1.0, below 100; received 0.\n"
    )  # fmt: skip


def test_env_says_what_is_installed_and_what_is_missing(capsys, project, monkeypatch):
    monkeypatch.setenv("NNOPT_DATA", str(project / "data"))
    monkeypatch.setattr("pooch.os_cache", lambda name: project / "cache")
    monkeypatch.setattr("shutil.which", lambda command: None)
    monkeypatch.setattr("sys.platform", "linux")
    status, out, err = run(capsys, "env")
    lines = {line[:16].strip(): line[17:] for line in out.splitlines()}
    assert (status, err) == (0, "")
    assert lines["python"] == sys.version.split()[0] and lines["jupyter-book"].startswith("1.")
    assert lines["bubblewrap"].startswith("not found; labs are graded without it")
    assert lines["accelerator"] == "not found; everything runs on the processor"
    assert lines["mnist"] == "not found; downloaded on first use, or name its folder by NNOPT_DATA"
    for file in CATALOG["banking77"].files:
        path = project / "data" / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert "banking77        on this machine\n" in run(capsys, "env")[1]


def test_the_command_itself_ends_with_the_status(project):
    def nnopt(*words):
        return subprocess.run([sys.executable, "-m", "nnopt_lib.cli", *words], capture_output=True, text=True)

    done = nnopt("run", "7")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nnopt: there is no chapter '7'. Choose from 01-first, 02-second.\n"
    assert nnopt("list").returncode == 0


@pytest.mark.notebook
def test_a_dying_kernel_ends_the_command_with_one_line(project):
    source = project / "chapters" / "01-first.md"
    source.write_text(source.read_text().replace('print("accuracy 0.9")', "import os; os._exit(0)"))
    command = [sys.executable, "-m", "nnopt_lib.cli", "run", "1", "--profile", "quick"]
    done = subprocess.run(command, capture_output=True, text=True)
    unfinished = project / "build" / "notebooks" / "quick" / "01-first.unfinished.ipynb"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "nnopt: chapter 01-first failed in code cell 3: the kernel died (killed, or out of memory). "
        f"What was done until then is in {unfinished}.\n"
    )
