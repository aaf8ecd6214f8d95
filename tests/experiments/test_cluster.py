"""Runs on a Dask cluster of real processes: workers only compute; what they lose is tried again, then told."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.experiments import cluster
from nnopt_lib.experiments.run import run_experiment
from tests.dask_processes import ROOT, dask_processes
from tests.experiments.conftest import SETTINGS, Counting, record_files

SANDBOX = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--die-with-parent"]
# Over the folder of temporary files lies an empty one of the sandbox's; the code may be in there, and is not hidden.
SANDBOX += ["--tmpfs", "/tmp"]
for needed in (str(ROOT), sys.prefix):
    SANDBOX += ["--ro-bind", needed, needed]


def sandbox_works() -> bool:
    return bool(shutil.which("bwrap")) and subprocess.run([*SANDBOX, "true"]).returncode == 0


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """A scheduler without workers."""
    monkeypatch.delenv("NNOPT_CLUSTER", raising=False)
    with dask_processes(tmp_path) as started:
        yield started


def squares(rows):
    return [(row["seed"], row["square"]) for row in rows]


# Computing


def test_one_worker_of_one_thread_computes_what_the_client_would(processes, home, monkeypatch):
    def compute(settings):
        return {"square": settings.seed**2, "process": os.getpid()}

    worker = processes.add_worker()
    here = run_experiment("01-here", SETTINGS, Counting())
    rows = run_experiment("01-try", SETTINGS, compute, cluster=processes.address)
    assert squares(rows) == squares(here)
    assert {row["process"] for row in rows} == {worker.pid} != {os.getpid()}
    monkeypatch.setenv("NNOPT_CLUSTER", processes.address)
    by_variable = run_experiment("01-variable", SETTINGS, compute)
    assert {row["process"] for row in by_variable} == {worker.pid}
    again = Counting()
    assert run_experiment("01-try", SETTINGS, again) == rows and again.seeds == []
    assert {row["process"] for row in run_experiment("01-try", SETTINGS, compute, recompute=True)} == {
        worker.pid
    }
    origin = json.loads(record_files(home)[0].read_text())["provenance"]
    assert origin["versions"]["python"] == sys.version.split()[0] and origin["duration_seconds"] < 5


@pytest.mark.skipif(not sandbox_works(), reason="bubblewrap does not work here")
def test_workers_that_share_no_disk_send_rows_that_the_client_stores(processes, home):
    def compute(settings):
        with contextlib.suppress(OSError):
            (home / "a-try").touch()
        return {"square": settings.seed**2, "files": sorted(path.name for path in home.iterdir())}

    local = ["--local-directory", "/tmp/worker"]
    processes.add_worker(*local, inside=[*SANDBOX, "--tmpfs", str(home)])
    rows = run_experiment("01-try", SETTINGS, compute, cluster=processes.address)
    assert squares(rows) == [(seed, seed**2) for seed in range(4)]
    assert {file for row in rows for file in row["files"]} <= {
        "a-try"
    }  # the worker saw nothing of the project
    assert len(record_files(home)) == 4 and not (home / "a-try").exists()


def test_records_are_written_as_they_come(processes, home):
    folder = home / "build" / "store" / "01-try"

    def compute(settings):
        until = time.monotonic() + 20
        while len(list(folder.glob("*.json"))) < settings.seed and time.monotonic() < until:
            time.sleep(0.01)
        return {"stored": len(list(folder.glob("*.json")))}

    processes.add_worker()
    rows = run_experiment("01-try", SETTINGS, compute, cluster=processes.address)
    assert [row["stored"] for row in rows] == [0, 1, 2, 3]


SWEEP = """
import dataclasses, json, sys, time
from nnopt_lib.experiments.run import run_experiment

@dataclasses.dataclass(frozen=True)
class Setting:
    seed: int
    widths: tuple = (1, 2)

def compute(setting, log=sys.argv[1]):
    assert isinstance(setting, Setting) and setting.widths == (1, 2)
    time.sleep(0.02)
    with open(log, "a") as file:
        file.write(f"{setting.seed}\\n")
    return {"square": setting.seed**2}

print(json.dumps(run_experiment("01-try", [Setting(seed) for seed in range(20)], compute)))
"""


def test_two_programs_on_one_store_share_the_work_on_a_cluster(processes, home):
    """Their settings and functions are of no module, as a notebook's, and travel by value."""
    environment = {**os.environ, "NNOPT_CLUSTER": processes.address}
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", SWEEP, str(home / "log")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    processes.add_worker()  # last, so that both programs wait for it
    processes.add_worker()
    (first, first_errors), (second, second_errors) = (program.communicate() for program in programs)
    assert first_errors == second_errors == "" and first == second
    assert squares(json.loads(first)) == [(seed, seed**2) for seed in range(20)]
    assert sorted((home / "log").read_text().split(), key=int) == [str(seed) for seed in range(20)]


def test_an_error_on_a_worker_keeps_its_kind_and_says_which_setting_and_others_are_kept(processes, home):
    def compute(settings):
        if settings.seed == 2:
            raise ZeroDivisionError("by zero")
        return {"square": 1}

    processes.add_worker()
    with pytest.raises(ZeroDivisionError, match="by zero") as error:
        run_experiment("01-try", SETTINGS, compute, cluster=processes.address)
    assert error.value.__notes__ == ["while computing 01-try with {'seed': 2, 'rate': 0.5}"]
    rest = Counting()
    run_experiment("01-try", SETTINGS, rest)
    assert rest.seeds == [2, 3]  # one thread: the last had not begun


# Losing workers


def killing(log: Path, seed: int):
    """A compute function that notes every attempt, and ends its process at this seed."""

    def compute(settings):
        with open(log, "a") as file:
            file.write(f"{settings.seed}\n")
        if settings.seed == seed:
            os._exit(1)
        return {"square": settings.seed**2}

    return compute


def test_a_run_that_ends_its_worker_is_tried_three_times_and_told_after_the_others(processes, home):
    processes.add_worker(nanny=True)
    with pytest.raises(NnoptError) as refusal:
        run_experiment("01-try", SETTINGS, killing(home / "log", seed=1), cluster=processes.address)
    assert str(refusal.value) == (
        "a run must not end the worker that computes it; received 01-try with {'seed': 1, 'rate': 0.5}, "
        "which lost its worker 3 times. The worker's log says why, often too little memory; "
        "all other runs are stored."
    )
    assert sorted((home / "log").read_text().split()) == ["0", "1", "1", "1", "2", "3"]
    stored = [json.loads(path.read_text())["settings"]["seed"] for path in record_files(home)]
    assert sorted(stored) == [0, 2, 3]


def test_runs_beside_one_that_ends_their_worker_are_lost_once(processes, home):
    log = home / "log"

    def compute(settings):
        with open(log, "a") as file:
            file.write(f"{settings.seed}\n")
        until = time.monotonic() + 60
        while settings.seed == 1 and len(log.read_text().split()) < 4 and time.monotonic() < until:
            time.sleep(0.01)  # all four have begun
        if settings.seed == 1:
            os._exit(1)
        time.sleep(1)  # longer than the other takes, were it beside this one again
        return {"square": settings.seed**2}

    processes.add_worker("--nthreads", "4", nanny=True)
    with pytest.raises(
        NnoptError, match="01-try with {'seed': 1, 'rate': 0.5}, which lost its worker 3 times"
    ):
        run_experiment("01-try", SETTINGS, compute, cluster=processes.address)
    assert sorted(log.read_text().split()) == [*"00", *"111", *"22", *"33"]
    assert len(record_files(home)) == 3


def test_a_process_at_the_address_of_the_lost_worker_is_another_worker(processes, home, monkeypatch):
    """Dask would hand it the lost run by itself, an attempt that nobody counts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    processes.add_worker("--worker-port", port, "--host", "127.0.0.1", nanny=True)
    run_experiment("01-warm", SETTINGS[:1], lambda settings: {"square": 0}, cluster=processes.address)
    monkeypatch.setattr(cluster, "POLL_SECONDS", 40)  # the loss is not seen before that process is there
    with pytest.raises(NnoptError, match="which lost its worker 3 times"):
        run_experiment("01-try", SETTINGS[1:2], killing(home / "log", seed=1), cluster=processes.address)
    assert (home / "log").read_text().split() == ["1"] * 3


def test_several_runs_that_end_their_workers_are_told_in_one_sentence(processes, home):
    processes.add_worker(nanny=True)
    processes.add_worker(nanny=True)
    with pytest.raises(NnoptError) as refusal:
        run_experiment("01-try", SETTINGS[:2], lambda settings: os._exit(1), cluster=processes.address)
    assert "which lost its worker 3 times, the first of 2 such runs. The worker's log" in str(refusal.value)


def test_a_worker_lost_once_loses_nothing(processes, home):
    def compute(settings):
        if settings.seed == 2 and not (home / "killed").exists():
            (home / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"square": settings.seed**2}

    processes.add_worker()
    processes.add_worker()
    rows = run_experiment("01-try", SETTINGS, compute, cluster=processes.address)
    assert squares(rows) == [(seed, seed**2) for seed in range(4)] and (home / "killed").exists()


def no_worker(address: str, runs: int) -> str:
    return (
        f"a cluster must have a worker; received none at {address!r} for 3 seconds, with {runs} runs to go. "
        f"Start one with `dask worker {address}` and run again: what has finished is stored."
    )


def test_a_cluster_whose_only_worker_ended_is_refused(processes, home, monkeypatch):
    processes.add_worker()
    run_experiment("01-warm", SETTINGS[:1], Counting(), cluster=processes.address)
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 3)
    with pytest.raises(NnoptError) as refusal:
        run_experiment("01-try", SETTINGS, killing(home / "log", seed=1), cluster=processes.address)
    assert str(refusal.value) == no_worker(processes.address, 3)
    assert (home / "log").read_text().split() == ["0", "1"] and len(record_files(home)) == 1


def test_workers_are_waited_for_and_a_cluster_without_any_is_refused(processes, home, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(NnoptError) as refusal:
        patch.setattr(cluster, "WORKER_SECONDS", 3)
        run_experiment("01-try", SETTINGS, Counting(), cluster=processes.address)
    assert str(refusal.value) == no_worker(processes.address, 4)
    starting = threading.Timer(2, processes.add_worker)
    starting.start()
    rows = run_experiment("01-try", SETTINGS, lambda s: {"square": s.seed**2}, cluster=processes.address)
    starting.join()
    assert squares(rows) == [(seed, seed**2) for seed in range(4)]


def test_a_scheduler_that_ends_is_told_and_what_has_finished_is_stored(processes, home):
    scheduler = processes.scheduler.pid

    def compute(settings):
        if settings.seed == 2:
            os.kill(scheduler, signal.SIGKILL)
            time.sleep(60)
        return {"square": settings.seed**2}

    processes.add_worker()
    with pytest.raises(NnoptError) as refusal:
        run_experiment("01-try", SETTINGS, compute, cluster=processes.address)
    assert str(refusal.value) == (
        f"a cluster's scheduler must stay until all runs have finished; received none at {processes.address!r} "
        "any more, with 2 runs to go. Start one with `dask scheduler` and run again: what has finished is stored."
    )
    assert len(record_files(home)) == 2
