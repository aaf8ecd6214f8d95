"""The sandbox: what a program in it cannot do, with bubblewrap and without, and what is said of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.sandbox import sandbox
from nnopt_lib.course.labs.sandbox.sandbox import Limits, Sandbox
from tests import labs_class
from tests.labs_class import guarded_processes

pytestmark = pytest.mark.usefixtures("private_temporary_folder")
TEACHING = Path(__file__).parents[4] / "book" / "how-to-teach.md"
needs_bwrap = pytest.mark.skipif(not sandbox.uses_bwrap(), reason="bubblewrap does not work here")


def run(code: str, limits: Limits | None = None) -> tuple[str, str, Sandbox]:
    """What Python prints and says of errors in a sandbox, and the sandbox afterwards."""
    with Sandbox(limits or Limits(seconds=20), NNOPT_STUDENT="ada") as box:
        command = box.command([sys.executable, "-c", code])
        options = {"env": box.environment, "cwd": box.folder, "text": True, "stdin": subprocess.DEVNULL}
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        box.watch(running)
        printed, errors = running.communicate()
    return printed, errors, box


@needs_bwrap
def test_a_program_sees_python_the_library_and_its_folder_alone():
    code = "import os; print(sorted(os.listdir()), os.path.exists({!r}), os.getpid() < 10, dict(os.environ))"
    printed, errors, box = run(code.format(str(TEACHING)))
    assert printed.startswith("['matplotlib', 'tmp'] False True {") or printed.startswith(
        "['tmp'] False True {"
    ), errors
    for name in ("HOME", "NNOPT_HOME"):
        assert f"'{name}': '{box.folder}'" in printed
    assert "'NNOPT_STUDENT': 'ada'" in printed
    assert set(eval_names(printed)) <= {*box.environment, "PWD", "LC_CTYPE"}
    assert not box.folder.exists()


def eval_names(printed: str) -> list[str]:
    return [part.split("'")[-2] for part in printed.partition("{")[2].split(": ")[:-1]]


@needs_bwrap
@pytest.mark.parametrize(
    "path", ["/x", "/etc/x", "/usr/x", "/dev/x", str(Path(sandbox.__file__)), sys.executable]
)
def test_a_program_writes_nowhere_else(path):
    _, errors, _ = run(f"open({path!r}, 'a')")
    assert "Read-only file system" in errors or "Permission denied" in errors


@needs_bwrap
def test_a_program_is_no_administrator_even_if_the_grader_is():
    printed, errors, _ = run("import os; print(os.getuid(), os.geteuid(), os.getgroups()); os.setuid(0)")
    uid = os.getuid() or sandbox.UIDS + os.getpid()
    assert printed.split()[:2] == [str(uid), str(uid)]
    assert "PermissionError" in errors


def test_a_file_that_is_too_large_is_an_error_of_the_program():
    printed, errors, box = run("open('a', 'wb').write(bytes(3_000_000))", Limits(file_mib=2))
    assert (printed, box.reason) == ("", "")
    assert "File too large" in errors


@needs_bwrap
def test_any_depth_of_folders_is_taken_down():
    _, errors, box = run("import os\nfor _ in range(1200):\n    os.mkdir('d')\n    os.chdir('d')")
    assert errors == ""
    assert not box.folder.exists()


LIMITS = [
    ({"seconds": 0}, "--seconds must be a finite number, above 0; received 0."),
    ({"memory_gib": float("nan")}, "--memory-gib must be a finite number, above 0; received nan."),
    ({"processes": 1.5}, "--processes must be a whole number, at least 1; received 1.5."),
    ({"file_mib": True}, "--file-mib must be a whole number, at least 1; received True."),
]


@pytest.mark.parametrize(("limits", "sentence"), LIMITS)
def test_limits_are_checked(limits, sentence):
    with pytest.raises(NnoptError) as refused:
        Limits(**limits)
    assert str(refused.value) == sentence


def test_the_page_on_teaching_tells_the_limits():
    limits = Limits()
    errors = (
        f"{limits.seconds:g} seconds, a third of them for one cell, {limits.memory_gib:g} GiB of memory, "
        f"{limits.processes} processes and threads, print 10 MiB, and write files of {limits.file_mib} MiB"
    )
    assert errors in " ".join(TEACHING.read_text(encoding="utf-8").split())


def test_a_python_that_does_not_start_is_one_sentence(monkeypatch):
    monkeypatch.setattr(sandbox, "library", lambda: Path("/nowhere"))
    with pytest.raises(NnoptError) as refused:
        sandbox.check_python()
    assert str(refused.value).startswith("Python must start inside the sandbox; it said ")
    assert str(refused.value).endswith('No such file or directory". Run make setup again.')


# Without bubblewrap


@pytest.fixture
def without_bwrap(monkeypatch):
    """A system without bubblewrap; for root with a Python and a library that other accounts can read."""
    monkeypatch.setattr(sandbox, "uses_bwrap", lambda: False)
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
            if python is None:
                pytest.skip("there is no Python that other accounts can read")
            os.chmod(folder, 0o755)
            program = Path(folder, sandbox.EXEC_LIMITED)
            program.parent.mkdir(parents=True)
            shutil.copy(Path(sandbox.__file__).with_name(program.name), program)
            monkeypatch.setattr(sys, "executable", python)
            monkeypatch.setattr(sandbox, "library", lambda: Path(folder))
        yield


HIDES = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork():\n        os._exit(0)\ntime.sleep(60)"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (labs_class.FORK_BOMB, "started more than 40 processes and threads"),
        (HIDES, "timed out after 2 s"),
        (labs_class.EATER, "used more than 0.2 GiB of memory"),
    ],
)
def test_without_bubblewrap_limits_hold_and_nothing_survives(without_bwrap, code, reason):
    with Sandbox(Limits(seconds=2, memory_gib=0.2, processes=40)) as box:
        command = box.command([sys.executable, "-c", code])
        running = subprocess.Popen(command, env=box.environment, cwd=box.folder, stderr=subprocess.DEVNULL)
        box.watch(running)
        running.wait()
    assert box.reason == reason
    assert not box.folder.exists()
    assert guarded_processes() == []


def test_without_bubblewrap_it_is_said_what_is_not_cut(without_bwrap):
    cuts = ["the network", "reading files that any account may read"]
    if os.geteuid():
        cuts = [
            cuts[0],
            "reading files that your account may read",
            "writing to files that your account may write",
        ]
    assert sandbox.not_cut() == cuts


def test_another_account_cannot_write_elsewhere_even_without_bubblewrap(without_bwrap, tmp_path):
    if os.geteuid():
        pytest.skip("only root can change to another account")
    os.chmod(tmp_path, 0o755)
    code = f"import os; print(os.getuid()); open({str(tmp_path / 'pwned')!r}, 'w')"
    with Sandbox(Limits()) as box:
        command = box.command([sys.executable, "-c", code])
        done = subprocess.run(command, env=box.environment, cwd=box.folder, capture_output=True, text=True)
    assert done.stdout == f"{box.uid}\n"
    assert "PermissionError" in done.stderr
    assert list(tmp_path.iterdir()) == []
