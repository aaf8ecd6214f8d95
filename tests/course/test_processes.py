"""A signal ends a command with all that it started, after one line; real processes, kernels among them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from nnopt_lib.course.processes import ended_whole
from tests.tiny_course import committed_bytes, edit, write_course

WAITING = (
    'import os, pathlib; pathlib.Path("begun").write_text(str(os.getpid())); import time; time.sleep(600)'
)


def eventually(condition, seconds=60):
    """Wait until `condition` gives something true; returns it, or fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)
    return value


def start(*words, **options):
    """The command as a process in a session of its own, as a terminal starts it."""
    command = [sys.executable, "-m", "nnopt_lib.cli", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **pipes, **options)


def below(process):
    return psutil.Process(process.pid).children(recursive=True)


def runs(process):
    """Whether a process is more than an entry that its new parent has not looked at yet."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """A course whose first chapter waits in its third cell for ever."""
    write_course(tmp_path, monkeypatch)
    edit(tmp_path / "chapters" / "01-first.md", 'print(f"accuracy {0.91234:.3f}")', WAITING)
    return tmp_path


@pytest.mark.notebook
@pytest.mark.parametrize(
    ("number", "word", "words"),
    [
        (signal.SIGINT, "interrupted", ("run", "1")),
        (signal.SIGINT, "interrupted", ("run", "--jobs", "2")),
        (signal.SIGTERM, "terminated", ("run", "1", "--save")),
        (signal.SIGHUP, "terminated", ("results", "verify", "1")),
    ],
)
def test_a_signal_in_a_cell_is_one_line_and_leaves_no_process(waiting, number, word, words):
    before = committed_bytes(waiting)
    process = start(*words)
    eventually((waiting / "chapters" / "begun").is_file)
    descendants = below(process)
    kernel = int(eventually((waiting / "chapters" / "begun").read_text))
    assert kernel in [one.pid for one in descendants]
    # A terminal sends Ctrl-C to the whole group, everybody else a signal to one process.
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (128 + number, f"nnopt: {word}; finished rows are kept\n")
    assert out == ""
    eventually(lambda: not any(map(runs, descendants)), seconds=10)
    (waiting / "chapters" / "begun").unlink()
    assert committed_bytes(waiting) == before
    assert not list((waiting / "build").rglob("*.tmp"))


@pytest.mark.notebook
def test_a_signal_ends_a_check_with_pytest_and_its_kernel(waiting):
    edit(waiting / "chapters" / "01-first.md", WAITING, 'print("accuracy 0.912")')
    assert start("run", "1", "--save").wait(120) == 0
    for name in ("01-first.md", "01-first.ipynb"):
        text = (waiting / "chapters" / name).read_text()
        escaped = WAITING if name.endswith("md") else WAITING.replace('"', '\\"')
        old = 'print("accuracy 0.912")'
        old = old if name.endswith("md") else old.replace('"', '\\"')
        assert old in text
        (waiting / "chapters" / name).write_text(text.replace(old, escaped))
    process = start("check", "1")
    eventually((waiting / "chapters" / "begun").is_file)
    descendants = below(process)
    assert len(descendants) >= 2  # pytest and the kernel
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (143, "", "nnopt: terminated; finished rows are kept\n")
    eventually(lambda: not any(map(runs, descendants)), seconds=10)


@pytest.fixture
def adopting():
    """Orphans of this process's children become its own, as they do below the first process of many containers."""
    prctl, child_subreaper = ctypes.CDLL(None).prctl, 36
    assert prctl(child_subreaper, 1) == 0
    yield
    prctl(child_subreaper, 0)


@pytest.mark.notebook
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt orphans")
@pytest.mark.usefixtures("adopting")
def test_a_kernel_does_not_outlive_a_command_that_is_killed_while_it_starts(waiting):
    process = start("run", "1")
    (kernel, *_) = eventually(
        lambda: [one for one in below(process) if any(word.endswith(".json") for word in one.cmdline())]
    )
    process.kill()  # before ipykernel looks for its parent
    process.communicate(timeout=30)
    eventually(lambda: not runs(kernel), seconds=30)
    assert not (waiting / "chapters" / "begun").exists()


STUBBORN = """
import signal, subprocess, sys
from nnopt_lib.course.processes import ended_whole
program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
with ended_whole() as ending:
    child = subprocess.Popen([sys.executable, "-c", program])
    child.wait()
sys.exit(ending.status)
"""


def test_a_child_that_does_not_listen_is_killed():
    command = [sys.executable, "-c", STUBBORN]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "deaf\n"
    (child,) = below(process)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, "nnopt: terminated; finished rows are kept\n")
    eventually(lambda: not runs(child), seconds=10)


def test_without_a_signal_nothing_is_left_changed():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with ended_whole() as ending:
        assert signal.getsignal(signal.SIGTERM) not in handlers
    assert ending.status == 0
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


def test_what_the_caller_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with ended_whole():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
