"""Break the library in small ways, one at a time, and see whether its tests notice.

    python tests/mutants.py                         200 mutants, drawn by seed 2026
    python tests/mutants.py --only pruning/topk     of one module, or of all whose path contains this

A mutant (``tests/mutations.py`` says which there are) lives in a copy of the working tree. First all of them meet
the file of tests that stands for their module; then those that survived it meet the rest of their room and what
`MORE_TESTS` names, which takes much longer. What came out is appended to ``build/mutants.jsonl``; another call goes
on from there. Only what could differ runs again: a mutant whose module was edited, and a survivor after an edit of
any test.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # started as a script, it is not in a package

from tests.mutations import Mutant, sample, stages  # noqa: E402

# What a mutant may take: so many times as long as the library as it is, and so much more.
SLOWER, SECONDS_MORE = 5, 30
LARGEST_BYTES = 12 * 2**30  # of a mutant's memory: a loop without end may also be one that collects


def snapshot(root: Path, target: Path) -> None:
    """Copy what git keeps or would keep."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)


def run_tests(copy: Path, files: Iterable[str], limit: float | None = None) -> tuple[int | None, str]:
    """pytest's exit status on these files in a copy, None beyond the limit; and the end of what it said."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not browser"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    path = os.pathsep.join([str(copy), *filter(None, [os.environ.get("PYTHONPATH")])])
    # No compiled files: two mutants of one second and one size would share them.
    environment |= {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    with open(copy.parent / "output", "w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            [*command, *files], cwd=copy, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        if hasattr(psutil, "RLIMIT_DATA"):
            psutil.Process(process.pid).rlimit(psutil.RLIMIT_DATA, (LARGEST_BYTES, LARGEST_BYTES))
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(limit)
        finally:
            status = process.poll()
            if status is None:  # kernels have sessions of their own
                for late in (*psutil.Process(process.pid).children(recursive=True), process):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        late.kill()
        process.wait()
        output.seek(0)
        return status, output.read()[-4000:]


class Run:
    """A working tree as it was at the start, how long its tests take, and what became of mutants."""

    def __init__(self, root: Path, tree: Path, results: Path) -> None:
        self.tree, self.results = tree, results
        snapshot(root, tree)
        tests = sorted(
            path for path in (tree / "tests").rglob("*") if path.is_file() and "muta" not in path.name
        )
        self.tests = hashlib.sha256(b"".join(path.read_bytes() for path in tests)).hexdigest()
        self.seconds: dict[str, float] = {}
        self.measuring, self.writing = threading.Lock(), threading.Lock()

    def identity(self, mutant: Mutant) -> list[Any]:
        """What a result hangs on, besides the tests."""
        module = (self.tree / mutant.file).read_bytes()
        return [mutant.file, mutant.operator, mutant.occurrence, hashlib.sha256(module).hexdigest()]

    def known(self) -> dict[str, dict[str, Any]]:
        """Results of before that hold still, by identity."""
        lines = self.results.read_text(encoding="utf-8").splitlines() if self.results.is_file() else []
        records = [json.loads(line) for line in lines]
        holding = [one for one in records if one["outcome"] == "killed" or one["tests"] == self.tests]
        return {json.dumps(one["identity"]): one for one in holding}

    def copy(self, folder: str) -> Path:
        os.chmod(folder, 0o755)  # sandboxes run as other accounts
        return Path(shutil.copytree(self.tree, Path(folder) / "tree"))

    def limit(self, files: Iterable[str]) -> float:
        """Seconds that a mutant may take; what is not known is measured on the library as it is."""
        with self.measuring:
            for file in files:
                if file not in self.seconds:
                    with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as folder:
                        began = time.monotonic()
                        status, said = run_tests(self.copy(folder), [file])
                        self.seconds[file] = time.monotonic() - began
                    if status not in (0, 5):  # 5: all of them left out
                        raise SystemExit(f"{file} fails without any mutation:\n{said}")
            return SECONDS_MORE + SLOWER * sum(self.seconds[file] for file in files)

    def judge(self, mutant: Mutant, step: int) -> dict[str, Any]:
        """Run the tests of one step on a mutant, up to the first that fails."""
        outcome, by, began = "survived", "", time.monotonic()
        files = stages(self.tree, mutant.file)[step]
        limit = self.limit(files)
        with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as folder:
            copy = self.copy(folder)
            (copy / mutant.file).write_text(mutant.source, encoding="utf-8")
            status, said = run_tests(copy, sorted(files, key=self.seconds.__getitem__), limit)
        if status not in (0, 5):
            failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
            outcome = "killed"
            by = "time limit" if status is None else (failed or [f"status {status}"])[0][:200]
        record = {"identity": self.identity(mutant), "tests": self.tests, "outcome": outcome, "by": by}
        record |= {"step": step, "line": mutant.line, "diff": mutant.diff}
        record["seconds"] = round(time.monotonic() - began, 1)
        with self.writing, open(self.results, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        return record


def judge_all(run: Run, outcomes: dict[Mutant, dict[str, Any] | None], step: int, jobs: int) -> None:
    """Run one step on all mutants that have survived so far, and put what came out into `outcomes`."""
    todo = [
        mutant
        for mutant, known in outcomes.items()
        if (known is None or (known["outcome"] == "survived" and known["step"] < step))
        and step < len(stages(run.tree, mutant.file))
    ]
    todo.sort(key=lambda mutant: "/course/" in mutant.file)  # kernels and sandboxes take longest: last
    with concurrent.futures.ThreadPoolExecutor(jobs) as workers:
        judging = {workers.submit(run.judge, mutant, step): mutant for mutant in todo}
        try:
            for number, future in enumerate(concurrent.futures.as_completed(judging), 1):
                mutant, record = judging[future], future.result()
                outcomes[mutant] = record
                where = f"{mutant.file}:{mutant.line} {mutant.operator}"
                said = f"{number}/{len(todo)} {record['outcome']} in {record['seconds']:.0f} s: {where}"
                print(said, flush=True)
        finally:
            workers.shutdown(cancel_futures=True)


def report(outcomes: Mapping[Mutant, dict[str, Any]]) -> float:
    """Print survivors and a table; the fraction that was killed."""
    table: dict[str, list[int]] = {}
    for mutant, record in outcomes.items():
        row = table.setdefault(mutant.file, [0, 0])
        row[0] += record["outcome"] == "killed"
        row[1] += 1
        if record["outcome"] == "survived":
            print(f"{mutant.file}:{mutant.line} {mutant.operator}", *mutant.diff, "", sep="\n")
    rows = [(file, killed, total, f"{killed / total:.0%}") for file, (killed, total) in sorted(table.items())]
    print(tabulate(rows, headers=("module", "killed", "of", "")))
    killed = sum(killed for killed, _ in table.values())
    print(f"\n{killed} of {len(outcomes)} sampled mutants are killed ({killed / len(outcomes):.1%})")
    return killed / len(outcomes)


def main(words: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--only", default="", metavar="MODULE", help="modules whose path contains this")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--at-least", type=float, default=0.85, help="fraction killed for exit status 0")
    chosen = parser.parse_args(words)
    results = root / "build" / "mutants.jsonl"
    results.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        run = Run(root, Path(folder) / "tree", results)
        mutants = list(sample(run.tree, chosen.count, chosen.seed, chosen.only))
        known = run.known()
        outcomes = {mutant: known.get(json.dumps(run.identity(mutant))) for mutant in mutants}
        for step in range(2):
            judge_all(run, outcomes, step, chosen.jobs)
    return int(report(outcomes) < chosen.at_least)


if __name__ == "__main__":
    sys.exit(main())
