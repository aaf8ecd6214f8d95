"""Versions, hardware and commit, in rows and in words."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

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
