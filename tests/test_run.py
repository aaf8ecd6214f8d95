"""The runner of `make test`: what it skips and what it does not, on a tiny tree with real commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import run
from tests.run import Part, main

ROOT = Path(__file__).parents[1]


def python(*lines: str) -> tuple[str, ...]:
    """A command in Python; `ran` notes that a part ran, where no part looks."""
    return ("-c", "\n".join(["from pathlib import Path", *lines]))


def ran(name: str) -> str:
    return f"Path('build/ran').open('a').write('{name} ')"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A project of two files and what was made of them."""
    for name, text in {"source.py": "one = 1\n", "pages/a.md": "words\n", "build/store/x": "row\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    monkeypatch.delenv("FRESH", raising=False)
    monkeypatch.delenv("NNOPT_DATA", raising=False)  # its listing takes time
    return tmp_path


@pytest.fixture
def parts():
    return [
        Part("first", [python(ran("first"))]),
        Part("second", [python(ran("second"))], leaves_out=["pages"]),
    ]


def ran_in(tree: Path, parts: list[Part]) -> list[str]:
    """The parts that one successful call of the runner runs."""
    (tree / "build" / "ran").unlink(missing_ok=True)
    assert main(parts, tree) == 0
    return (tree / "build" / "ran").read_text().split() if (tree / "build" / "ran").exists() else []


def test_what_passed_is_skipped_until_something_changed_and_says_since_when(tree, parts, capfd):
    assert ran_in(tree, parts) == ["first", "second"]
    assert re.search(r"^2 parts passed, 0 skipped, in \d+ s$", capfd.readouterr().out, re.M)
    assert ran_in(tree, parts) == []
    printed = capfd.readouterr().out.splitlines()
    when = json.loads((tree / "build" / "tests" / "second.json").read_text())["passed_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d", when)
    assert printed[1] == f"second: unchanged since it passed at {when}: skipped; FRESH=1 runs it"
    assert printed[-1].startswith("0 parts passed, 2 skipped, in ")


def test_fresh_runs_everything_and_what_comes_after_is_skipped_again(tree, parts, monkeypatch):
    ran_in(tree, parts)
    monkeypatch.setenv("FRESH", "1")
    assert ran_in(tree, parts) == ["first", "second"]
    monkeypatch.setenv("FRESH", "0")
    assert ran_in(tree, parts) == []


CHANGES = {
    "a line": lambda tree: (tree / "source.py").write_text("one = 2\n"),
    "a new file": lambda tree: (tree / "new.py").write_text(""),
    "a new empty file in a folder that git would not know": lambda tree: (tree / ".hidden").touch(),
    "a removed file": lambda tree: (tree / "source.py").unlink(),
    "another name": lambda tree: (tree / "source.py").rename(tree / "other.py"),
    "the right to execute": lambda tree: (tree / "source.py").chmod(0o755),
    "a link": lambda tree: (tree / "link").symlink_to("source.py"),
    "a link to a folder": lambda tree: (tree / "link").symlink_to("build"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_a_file_counts(tree, parts, change):
    ran_in(tree, parts)
    CHANGES[change](tree)
    assert ran_in(tree, parts) == ["first", "second"]
    assert ran_in(tree, parts) == []


def test_the_time_of_a_file_and_what_was_made_do_not_count(tree, parts):
    ran_in(tree, parts)
    os.utime(tree / "source.py", (1, 1))
    for name in ("build/store/y", "book/_build/index.html", "pages/__pycache__/a.pyc", "x.egg-info/PKG-INFO"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("made")
    (tree / "env").mkdir()
    (tree / "env" / "pyvenv.cfg").touch()  # a virtual environment of any name
    assert ran_in(tree, parts) == []


def test_a_part_runs_only_for_what_it_reads(tree, parts):
    ran_in(tree, parts)
    (tree / "pages" / "a.md").write_text("other words\n")
    assert ran_in(tree, parts) == ["first"]
    (tree / "build" / "site").mkdir()
    last = Part("last", [python(ran("last"))], reads=["source.py", "build/site"])
    assert ran_in(tree, [last]) == ["last"]
    (tree / "pages" / "a.md").write_text("other words still\n")
    assert ran_in(tree, [last]) == []
    (tree / "build" / "site" / "page.html").write_text("made by an earlier part")
    assert ran_in(tree, [last]) == ["last"]


def test_other_versions_variables_commands_and_data_count(tree, parts, monkeypatch):
    def change_of(patch) -> bool:
        before = run.inputs_of(tree, parts[0])
        patch()
        return run.inputs_of(tree, parts[0]) != before

    assert not change_of(lambda: None)
    assert not change_of(lambda: monkeypatch.setenv("EDITOR", "ed"))
    assert change_of(lambda: monkeypatch.setenv("OMP_NUM_THREADS", "7"))
    assert change_of(lambda: monkeypatch.setenv("NNOPT_DATA", str(tree / "data")))
    (tree / "data").mkdir()
    assert change_of(lambda: (tree / "data" / "digits.gz").touch())
    monkeypatch.setattr(run.sysconfig, "get_path", lambda name: str(tree / "build" / "site-packages"))
    assert change_of(lambda: (tree / "build" / "site-packages" / "torch-2.dist-info").mkdir(parents=True))
    assert change_of(lambda: monkeypatch.setenv("PATH", ""))  # no git, no browser
    other = Part("first", [python(ran("first"), "1 + 1")])
    assert run.inputs_of(tree, other) != run.inputs_of(tree, parts[0])


def test_a_failure_passes_its_status_on_stops_and_leaves_no_stamp(tree, parts, capfd):
    failing = Part(
        "failing", [python("print('a word')"), python("import sys; sys.exit(3)"), python(ran("no"))]
    )
    assert main([parts[0], failing, parts[1]], tree) == 3
    printed = capfd.readouterr().out
    assert "a word\n" in printed and re.search(
        r"^failing: failed with status 3 after \d+\.\d s$", printed, re.M
    )
    assert (tree / "build" / "ran").read_text() == "first "
    assert sorted(path.name for path in (tree / "build" / "tests").iterdir()) == ["first.json"]
    assert main([parts[0], failing, parts[1]], tree) == 3  # again, although nothing changed


def test_a_part_that_fails_once_is_no_longer_held_for_passed(tree):
    moody = Part("moody", [python("import sys; sys.exit(Path('build/fail').exists())")])
    assert main([moody], tree) == 0
    (tree / "build" / "fail").touch()
    assert main([moody], tree) == 0  # nothing that it reads has changed
    (tree / "source.py").write_text("one = 2\n")
    assert main([moody], tree) == 1
    (tree / "source.py").write_text("one = 1\n")
    assert main([moody], tree) == 1


def test_a_command_killed_by_a_signal_fails_as_in_a_shell(tree):
    dying = Part("dying", [python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")])
    assert main([dying], tree) == 128 + signal.SIGKILL


def test_an_edit_during_a_part_counts(tree):
    editing = Part("editing", [python(ran("editing"), "Path('source.py').write_text('one = 3')")])
    assert ran_in(tree, [editing]) == ["editing"]
    assert ran_in(tree, [editing]) == ["editing"]
    assert ran_in(tree, [editing]) == []


def test_a_part_runs_again_when_what_it_made_is_gone_or_changed(tree):
    making = Part(
        "making", [python(ran("making"), "Path('build/page').write_text('made')")], makes=["build/page"]
    )
    assert ran_in(tree, [making]) == ["making"]
    assert ran_in(tree, [making]) == []
    (tree / "build" / "page").write_text("damaged")
    assert ran_in(tree, [making]) == ["making"]
    (tree / "build" / "page").unlink()
    assert ran_in(tree, [making]) == ["making"]


@pytest.mark.parametrize("damaged", ["", "{", "[]", "{}", '{"inputs": 1}'])
def test_a_damaged_stamp_proves_nothing(tree, parts, damaged):
    ran_in(tree, parts)
    (tree / "build" / "tests" / "first.json").write_text(damaged)
    assert ran_in(tree, parts) == ["first"]


def test_the_ten_slowest_are_listed_in_their_order(tree, capfd):
    times = {f"file {number}": 1000.0 * number for number in range(8)}  # no part here takes as long as one
    parts = [
        Part("files", [python("pass")], times=lambda root, since: times),
        Part(
            "chapters",
            [python("pass")],
            times=lambda root, since: {"one": 6500, "two": 60250.25, "three": 0.0},
        ),
        Part("whole", [python("pass")]),
    ]
    assert main(parts, tree) == 0
    printed = re.findall(r"^ *([\d.]+) s  (.+)$", capfd.readouterr().out, re.M)
    names = ["two", "file 7", "one", "file 6", "file 5", "file 4", "file 3", "file 2", "file 1", "whole"]
    assert [name for _, name in printed] == names
    assert [seconds for seconds, _ in printed[:3]] == ["60250.2", "7000.0", "6500.0"]


def test_times_come_from_pytests_report_and_the_chapters_records_of_this_run(tree):
    cases = [("tests.test_a", 1.5), ("tests.test_b", 0.25), ("tests.test_a", 2)]
    report = "".join(f'<testcase classname="{name}" name="x" time="{seconds}"/>' for name, seconds in cases)
    (tree / "build" / "tests").mkdir()
    (tree / run.UNIT_REPORT).write_text(f"<testsuites><testsuite>{report}</testsuite></testsuites>")
    runs = tree / "build" / "runs"
    runs.mkdir()
    for name in ("quick-01-first", "published-01-first", "quick-02-old"):
        (runs / f"{name}.json").write_text('{"duration_seconds": 8.5}')
    os.utime(runs / "quick-02-old.json", (1, 1))
    assert run.test_file_times(tree, 2) == {"tests/test_a.py": 3.5, "tests/test_b.py": 0.25}
    assert run.test_file_times(tree, time.time() + 60) == {}
    assert run.chapter_times(tree, 2) == {"quick profile of 01-first": 8.5}


INTERRUPTED = """
import signal, sys
from pathlib import Path
from tests.run import Part, main
for ending in (signal.SIGINT, signal.SIGTERM):  # the first is ignored where the tests run in the background
    signal.signal(ending, signal.default_int_handler)
sleeper = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}], start_new_session=True)"
inner = "from pathlib import Path; import os, time; Path('build/pid').write_text(str(os.getpid())); time.sleep(90)"
main([Part("long", [("-c", sleeper.format(inner))])], Path(sys.argv[1]))
"""


def gone(number: int) -> bool:
    """Whether a process has ended, even if the system still keeps its number."""
    try:
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_what_was_started_and_leaves_no_stamp(tree, ending):
    running = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tree)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    number, until = tree / "build" / "pid", time.monotonic() + 60
    while not (number.exists() and number.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    running.send_signal(ending)
    assert "KeyboardInterrupt" in running.communicate(timeout=60)[1].decode()
    until = time.monotonic() + 20  # it would sleep longer than that
    while not gone(int(number.read_text())) and time.monotonic() < until:
        time.sleep(0.02)
    assert gone(int(number.read_text()))
    assert not (tree / "build" / "tests" / "long.json").exists()


def test_the_parts_of_make_test_read_what_they_are_made_of():
    """Nobody but the browser leaves out what the library, a chapter or the book could read."""
    for part in run.PARTS[:-1]:
        read = {path.relative_to(ROOT).parts[0] for path in run.files_of(ROOT, part.reads, part.leaves_out)}
        assert {"nnopt_lib", "chapters", "book", "constraints.txt", "pyproject.toml"} <= read, part.name
    everything = {path.relative_to(ROOT) for path in run.files_of(ROOT, *([["."], []]))}
    assert {Path("Makefile"), Path(".ci/run"), Path("tests/conftest.py")} <= everything
    assert not [path for path in everything if {".git", ".venv", "__pycache__"} & set(path.parts)]
