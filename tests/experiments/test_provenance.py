"""Versions, hardware and commit, in rows and in words."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from nnopt_lib.experiments import provenance as provenance_module
from nnopt_lib.experiments.provenance import PACKAGES, TOOLS, describe_environment, provenance


def test_provenance_names_the_commit_and_loads_no_framework(home):
    code = (
        "import sys; from nnopt_lib.experiments.provenance import provenance; print(provenance()['commit']);"
    )
    code += "assert not {'torch', 'tensorflow', 'keras'} & set(sys.modules)"
    git = ["git", "-C", str(home), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    written_by_a_run = (
        home / "chapters" / "results" / "01-try.jsonl"
    )  # what a run writes does not count as an edit
    written_by_a_run.parent.mkdir(parents=True)
    for file in (home / "file", written_by_a_run, home / "chapters" / "01-try.ipynb"):
        file.write_text("1")

    def commit_seen() -> str:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()

    assert commit_seen() == "None"
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert commit_seen() == head
    written_by_a_run.write_text("2")
    (home / "chapters" / "01-try.ipynb").write_text("2")
    assert commit_seen() == head
    (home / "file").write_text("2")
    assert commit_seen() == head + "+changes"


GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C"]


def commit(folder) -> str:
    """Make `folder` a repository with all that it holds in one commit, and return this."""
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one", "--allow-empty"]):
        subprocess.run([*GIT, str(folder), *command], check=True)
    command = [*GIT, str(folder), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_variables_of_git_change_nothing(home, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    commit(other)
    head = commit(home)
    (other / "config").write_text("[status]\n\tshowUntrackedFiles = all\n[core]\n\tbare = true\n")
    variables = {
        "GIT_DIR": other / ".git",
        "GIT_WORK_TREE": other,
        "GIT_INDEX_FILE": other / "nowhere",
        "GIT_OBJECT_DIRECTORY": other,
        "GIT_CONFIG_GLOBAL": other / "config",
        "GIT_CEILING_DIRECTORIES": home.parent,
        "GIT_TRACE": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
        assert provenance_module._commit() == head, name


def test_an_outer_repository_is_not_the_projects(home, monkeypatch):
    commit(home)
    inner = home / "copied" / "course"
    inner.mkdir(parents=True)
    monkeypatch.setenv("NNOPT_HOME", str(inner))
    assert provenance_module._commit() is None
    head = commit(inner)
    assert provenance_module._commit() == head


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("nnopt_lib/new.py", True),
        ("nnopt_lib/pruning/new.py", True),
        ("nnopt_lib/data/samples/new.npz", True),
        ("chapters/16-new.md", True),
        ("chapters/helper.py", True),
        ("chapters/labs/new.md", True),
        ("pyproject.toml", True),
        ("constraints.txt", True),
        ("notes.md", False),
        ("chapters/16-new.ipynb", False),
        ("chapters/labs/new.ipynb", False),
        ("chapters/results/16-new.jsonl", False),
        ("build/nnopt_lib/new.py", False),
        ("nnopt_lib/__pycache__/new.py", False),
    ],
)
def test_new_sources_are_changes_and_notes_are_not(home, file, counts):
    (home / ".gitignore").write_text("__pycache__/\n")
    head = commit(home)
    (home / ".git" / "info" / "exclude").write_text("*.py\n*.md\n")  # of this user alone
    (home / file).parent.mkdir(parents=True, exist_ok=True)
    (home / file).write_text("new")
    assert provenance_module._commit() == head + ("+changes" if counts else "")


def test_provenance_is_a_copy():
    provenance()["versions"]["python"] = "0"
    assert provenance()["versions"]["python"] != "0"


def test_the_environment_in_words_says_what_is_missing(monkeypatch, home):
    origin = provenance()
    missing = {**origin, "versions": {**origin["versions"], "keras": None}, "commit": None}
    missing["hardware"] = {"cpu": "Model 7", "cores": 3, "memory_bytes": 5 * 10**9, "accelerator": None}
    monkeypatch.setattr(provenance_module, "provenance", lambda: missing)
    monkeypatch.setattr(provenance_module, "backend", lambda name: None)  # loading PyTorch takes seconds
    words = describe_environment()
    assert words["keras"] == words["commit"] == "not found"
    assert words["numpy"] == np.__version__ and set(PACKAGES) | set(TOOLS) < set(words)
    assert words["processor"] == "Model 7, 3 cores, 5 GB" and words["project"] == str(home)
    assert words["accelerator"] == "not found; everything runs on the processor"


def test_a_data_set_is_said_to_be_here_or_how_it_gets_here(monkeypatch, tmp_path):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "no-cache")
    monkeypatch.setenv("NNOPT_DATA", str(tmp_path))
    absent = "not found; downloaded on first use, or name its folder by NNOPT_DATA"
    assert describe_environment()["mnist"] == absent
