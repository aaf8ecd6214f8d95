"""Run all tests, part after part; what a stamp proves unchanged since it passed is skipped.

    python tests/run.py             the parts of which anything changed
    FRESH=1 python tests/run.py     all parts

A stamp, ``build/tests/<part>.json``, is written after a part has passed. It holds a hash of all that the part
could read: files (found by walking, since a copy without git must work too), commands, installed versions, the
environment, the machine. The hash is older than the run, so an edit made meanwhile counts.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil

ROOT = Path(__file__).resolve().parents[1]
STAMPS = Path("build") / "tests"
UNIT_REPORT = STAMPS / "unit.xml"
# Made, not written: nothing that a part reads, except what it names in `reads`.
MADE_FOLDERS = {".git", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"}
MADE_FOLDERS |= {".ipynb_checkpoints"}
MADE_PATHS = {"build", "book/_build"}
VARIABLES = ("NNOPT_", "OMP_", "MKL_", "OPENBLAS_", "ATEN_", "TF_", "KERAS_", "CUDA_", "JOBLIB_", "PY", "LC_")
OTHER_VARIABLES = {"LANG", "TZ", "HOME", "TMPDIR", "MPLBACKEND", "JUPYTER_PATH"}
IN_EVERY_RUN = ("PYTEST_CURRENT_TEST", "PYTEST_XDIST", "PYTEST_VERSION")  # the runner's own tests set these
PROGRAMS = ("bwrap", "chromium", "chromium-browser", "git", "unshare", "nvidia-smi")
PATIENCE_SECONDS = 10  # for a part that was interrupted to end by itself
SLOWEST = 10


@dataclasses.dataclass(frozen=True)
class Part:
    """Commands that pass or fail together; words after the interpreter's own name, run in the project's root.

    `reads` less `leaves_out` are the files and folders that can make a difference; `makes` must still be there,
    as it was made, for the part to be skipped. `times` finds out where the time went inside of it.
    """

    name: str
    commands: Sequence[Sequence[str]]
    reads: Sequence[str] = (".",)
    leaves_out: Sequence[str] = ()
    makes: Sequence[str] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    times: Callable[[Path, float], Mapping[str, float]] = lambda root, since: {}


# Where the time went


def test_file_times(root: Path, since: float) -> dict[str, float]:
    """Seconds of each file of unit tests, fixtures included, from pytest's own report."""
    seconds: dict[str, float] = collections.defaultdict(float)
    report = root / UNIT_REPORT
    if report.is_file() and report.stat().st_mtime >= since:
        for case in ElementTree.parse(report).iter("testcase"):
            seconds[case.get("classname", "").replace(".", "/") + ".py"] += float(case.get("time", 0))
    return dict(seconds)


def chapter_times(root: Path, since: float) -> dict[str, float]:
    """Seconds of each chapter in its quick profile, from the records that running them leaves."""
    records = [file for file in root.glob("build/runs/quick-*.json") if file.stat().st_mtime >= since]
    return {
        f"quick profile of {file.stem.removeprefix('quick-')}": json.loads(file.read_text(encoding="utf-8"))[
            "duration_seconds"
        ]
        for file in records
    }


# The parts of `make test`

NNOPT = ("-m", "nnopt_lib.cli")
PYTEST = ("-m", "pytest", "-n", "2")
# What neither the library nor a chapter nor the book is made of. Anything else may make a difference to them.
PAPERS = (
    "tests",
    ".ci",
    ".github",
    ".pre-commit-config.yaml",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
PARTS = (
    Part("style", [("-m", "ruff", "check", "."), ("-m", "ruff", "format", "--check", "--quiet", ".")]),
    Part("types", [("-m", "mypy")]),
    Part(
        "unit tests",
        [(*PYTEST, "-m", "not browser", f"--junitxml={UNIT_REPORT}")],
        times=test_file_times,
    ),
    Part(
        "quick profiles",
        [(*NNOPT, "run", "--profile", "quick", "-p", "recompute", "true", "--jobs", "2")],
        leaves_out=PAPERS,
        times=chapter_times,
    ),
    # On one thread and with plain instructions, as on the slowest machine: other sums than the quick profile's.
    Part(
        "check",
        [(*NNOPT, "check", "--jobs", "2")],
        leaves_out=PAPERS,
        environment={"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default"},
    ),
    Part("book", [(*NNOPT, "book", "--jobs", "2")], leaves_out=PAPERS, makes=["book/_build/html"]),
    Part(
        "browser tests",
        [(*PYTEST, "-m", "browser", "tests/test_browser.py")],
        reads=["tests/test_browser.py", "tests/conftest.py", "pyproject.toml", "book/_build/html"],
    ),
)


# What a part could read


def files_of(root: Path, reads: Sequence[str], leaves_out: Sequence[str]) -> Iterator[Path]:
    """Files to hash, each once, in an order that depends on their names alone."""
    files: set[Path] = set()
    for name in reads:
        start = root / name
        if start.is_dir():
            files |= set(_walk(root, start, {*MADE_PATHS, *leaves_out} - {name}))
        elif start.exists():
            files.add(start)
    yield from sorted(files)


def _walk(root: Path, start: Path, left_out: set[str]) -> Iterator[Path]:
    for folder, folders, files in os.walk(start):
        here = Path(folder)
        inside = here.relative_to(root)
        folders[:] = [
            name
            for name in folders
            if name not in MADE_FOLDERS
            and not name.endswith(".egg-info")
            and (inside / name).as_posix() not in left_out
            and not (here / name / "pyvenv.cfg").is_file()  # a virtual environment, .venv or another
        ]
        links = [name for name in folders if (here / name).is_symlink()]  # os.walk does not follow them
        yield from (here / name for name in [*files, *links] if (inside / name).as_posix() not in left_out)


def hash_of(root: Path, reads: Sequence[str], leaves_out: Sequence[str] = ()) -> str:
    """One hash over names, contents, links and the right to execute."""
    digest = hashlib.sha256()
    for path in files_of(root, reads, leaves_out):
        if path.is_symlink():
            kind, content = "link", os.readlink(path).encode()
        elif path.is_file():
            kind, content = str(path.stat().st_mode & 0o111), path.read_bytes()
        else:
            continue  # a pipe or a socket
        inner = hashlib.sha256(content).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()}\0{kind}\0{inner}\n".encode())
    return digest.hexdigest()


def surroundings(root: Path) -> dict[str, Any]:
    """All but files that decides how a part ends: versions, environment, machine, data, the commit."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if (name.startswith(VARIABLES) or name in OTHER_VARIABLES) and not name.startswith(IN_EVERY_RUN)
    }
    installed = Path(sysconfig.get_path("purelib")).glob("*.dist-info")  # names say the versions
    return {
        "variables": dict(sorted(variables.items())),
        "installed": sorted(path.name for path in installed),
        "python": [sys.version, sys.prefix],
        "machine": [platform.platform(), os.cpu_count(), os.geteuid(), str(root)],
        "programs": [_state_of(shutil.which(name)) for name in PROGRAMS],
        "data": _listing(os.environ.get("NNOPT_DATA")),
        "commit": _commit(root),
    }


def _state_of(path: str | None) -> list[Any]:
    """A file's name, size and time: enough to notice another version, without reading it."""
    if path is None:
        return []
    status = os.stat(path) if os.path.exists(path) else os.lstat(path)  # a link may lead nowhere
    return [path, status.st_size, status.st_mtime_ns]


def _listing(folder: str | None) -> list[Any]:
    return [_state_of(str(path)) for path in sorted(Path(folder).rglob("*"))] if folder else []


def _commit(root: Path) -> str:
    """The commit that is checked out, since some tests clone it; empty without git."""
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return ""


def inputs_of(root: Path, part: Part) -> str:
    """One hash over all that can make `part` end differently."""
    settings = [part.name, list(map(list, part.commands)), dict(part.environment), surroundings(root)]
    files = hash_of(root, part.reads, part.leaves_out)
    return hashlib.sha256(json.dumps([settings, files]).encode()).hexdigest()


# Stamps


def stamp_file(root: Path, part: Part) -> Path:
    return root / STAMPS / f"{part.name.replace(' ', '-')}.json"


def passed_at(root: Path, part: Part, inputs: str) -> str:
    """When `part` passed with these very inputs, if what it made is still there; else an empty string."""
    try:
        stamp = json.loads(stamp_file(root, part).read_text(encoding="utf-8"))
        same = stamp["inputs"] == inputs and stamp["made"] == hash_of(root, part.makes)
        return str(stamp["passed_at"]) if same else ""
    except (OSError, ValueError, KeyError, TypeError):  # none, or damaged
        return ""


def write_stamp(root: Path, part: Part, inputs: str) -> None:
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    stamp = {"inputs": inputs, "made": hash_of(root, part.makes), "passed_at": now}
    file = stamp_file(root, part)
    file.with_suffix(".new").write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".new").replace(file)


# Running


def say(words: str) -> None:
    print(words, flush=True)


def run_command(root: Path, part: Part, words: Sequence[str]) -> int:
    """The status of one command; what it prints goes where the runner's own words go."""
    environment = {**os.environ, **part.environment}
    environment.pop("FRESH", None)
    process = subprocess.Popen([sys.executable, *words], cwd=root, env=environment, stdin=subprocess.DEVNULL)
    try:
        return process.wait()
    except BaseException:
        stop(process)
        raise


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a command, give it time to end by itself, and leave nothing of it behind."""
    started: list[psutil.Process] = []
    try:
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_SECONDS)
    except (psutil.NoSuchProcess, subprocess.TimeoutExpired):
        pass
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            started += psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for one in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()


def run_part(root: Path, part: Part) -> tuple[int, float]:
    """Status and seconds of `part`; it ends at its first command that fails."""
    begin = time.monotonic()
    for words in part.commands:
        status = run_command(root, part, words)
        if status:
            return status if status > 0 else 128 - status, time.monotonic() - begin
    return 0, time.monotonic() - begin


def say_slowest(seconds: Mapping[str, float]) -> None:
    slowest = sorted(seconds.items(), key=lambda item: -item[1])[:SLOWEST]
    if slowest:
        say("\nWhere the time went (test files and chapters ran two at once):")
    for name, value in slowest:
        say(f"{value:8.1f} s  {name}")


def main(parts: Sequence[Part] = PARTS, root: Path = ROOT) -> int:
    """Run what is not proved unchanged, up to the first failure; returns its status, or 0."""
    fresh = os.environ.get("FRESH", "") not in ("", "0")
    (root / STAMPS).mkdir(parents=True, exist_ok=True)
    begin, seconds, skipped = time.monotonic(), dict[str, float](), 0
    for part in parts:
        inputs = inputs_of(root, part)  # before the part runs
        before = "" if fresh else passed_at(root, part, inputs)
        if before:
            say(f"{part.name}: unchanged since it passed at {before}: skipped; FRESH=1 runs it")
            skipped += 1
            continue
        say(f"\n{part.name}")
        stamp_file(root, part).unlink(missing_ok=True)
        since = time.time()
        status, took = run_part(root, part)
        if status:
            say(f"{part.name}: failed with status {status} after {took:.1f} s")
            return status
        write_stamp(root, part, inputs)
        say(f"{part.name}: passed in {took:.1f} s")
        seconds |= part.times(root, since) or {part.name: took}
    say_slowest(seconds)
    say(f"\n{len(parts) - skipped} parts passed, {skipped} skipped, in {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGHUP):  # then what was started is ended as after Ctrl-C
        signal.signal(ending, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
