"""Chapter 01 itself, its quick profile computed as another processor would: the check does not move."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnopt_lib.experiments.records import read_published

ROOT = Path(__file__).parents[3]


@pytest.mark.torch
@pytest.mark.keras
@pytest.mark.notebook
@pytest.mark.parametrize("threads", ["1", "2"])
def test_rows_of_another_processor_do_not_move_the_check_of_a_real_chapter(tmp_path, monkeypatch, threads):
    monkeypatch.setenv("NNOPT_HOME", str(ROOT))
    results = [path for path in (ROOT / "chapters" / "results").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in results}
    # PyTorch's routines without wide vectors, in a build folder and store of the test's own.
    slow = {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": threads, "NNOPT_BUILD": str(tmp_path)}
    slow["OMP_WAIT_POLICY"] = "passive"  # else two threads on one free core mostly wait for each other
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NNOPT_STORE", "NNOPT_ROWS")
    }

    def nnopt(*words):
        command = [sys.executable, "-m", "nnopt_lib.cli", *words]
        return subprocess.run(command, env={**environment, **slow}, cwd=ROOT, capture_output=True, text=True)

    done = nnopt("run", "01", "--profile", "quick", "-p", "recompute", "true")
    assert (done.returncode, done.stderr) == (0, "")
    computed = {path.stem for path in (tmp_path / "store" / "01-held-out").glob("*.json")}
    assert len(computed) == 12 and computed <= read_published("01-held-out").keys()
    done = nnopt("check", "01")
    assert (done.returncode, done.stdout, done.stderr) == (0, "01-source-article        ok\n", "")
    assert {path: path.read_bytes() for path in results} == before
