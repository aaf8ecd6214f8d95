"""The commands `nnopt results`: what is stored and published, listed and cleared away."""

from __future__ import annotations

import dataclasses

import pytest

from nnopt_lib.cli import main
from nnopt_lib.experiments.run import run_experiment
from tests.published import publish

pytestmark = pytest.mark.usefixtures("project")


@dataclasses.dataclass(frozen=True)
class Settings:
    seed: int


def run(capsys, *words):
    """Exit status, stdout and stderr of ``nnopt results *words``."""
    status = main(["results", *words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_results_are_listed_and_pruned(capsys, project):
    rows = run_experiment("01-try", [Settings(seed) for seed in range(4)], lambda settings: {"y": 1})
    publish("01-try", [rows[0]["run_id"]])
    table = "01-try                                4 stored      1 published\n"
    assert run(capsys, "list") == (0, table, "")
    folder = project / "build" / "store" / "01-try"
    file = folder / f"{rows[0]['run_id']}.json"
    needless = sorted([file, *folder.glob("*.lock")])
    assert len(needless) == 5  # a lock for each run
    lines = "".join(f"{path}\n" for path in needless)
    assert run(capsys, "prune", "--dry-run") == (0, f"{lines}5 files would be removed\n", "")
    assert file.exists()
    assert run(capsys, "prune") == (0, f"{lines}5 files removed\n", "")
    assert not any(path.exists() for path in needless)
    assert run(capsys, "prune", "--older-than-days", "0")[1].endswith("3 files removed\n")
    assert not list(folder.iterdir())
