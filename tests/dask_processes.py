"""Dask schedulers and workers in processes of their own, at ports that the system chooses."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

WORKER = ["--nthreads", "1", "--no-dashboard"]
ROOT = Path(__file__).parents[1]


def _start(module: str, *arguments: str, inside: Sequence[str] = ()) -> subprocess.Popen:
    return subprocess.Popen(
        [*inside, sys.executable, "-m", f"distributed.cli.{module}", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


class DaskProcesses:
    """A scheduler, its `address`, and the `workers` that were started; `folder` is for what they write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[subprocess.Popen] = []
        note = folder / "scheduler.json"
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(note)]
        self.scheduler = _start("dask_scheduler", *options)
        self.address = self._read_address(note)

    def _read_address(self, note: Path) -> str:
        until = time.monotonic() + 60
        while time.monotonic() < until and self.scheduler.poll() is None:
            with contextlib.suppress(FileNotFoundError, ValueError):  # not there yet, or half written
                return json.loads(note.read_text())["address"]
            time.sleep(0.05)
        raise RuntimeError("the scheduler did not start")

    def add_worker(self, *options: str, nanny: bool = False, inside: Sequence[str] = ()) -> subprocess.Popen:
        """A worker of one thread; `inside`: the words of a command that runs it."""
        options = (*WORKER, "--nanny" if nanny else "--no-nanny", *options)
        if "--local-directory" not in options:
            options = (*options, "--local-directory", str(self.folder))
        self.workers.append(_start("dask_worker", self.address, *options, inside=inside))
        return self.workers[-1]

    def stop(self) -> None:
        for process in self.workers:
            process.terminate()  # a nanny takes its worker along
        for process in self.workers:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.scheduler.kill()
        self.scheduler.wait()


@contextlib.contextmanager
def dask_processes(folder: Path) -> Iterator[DaskProcesses]:
    processes = DaskProcesses(folder)
    try:
        yield processes
    finally:
        processes.stop()
