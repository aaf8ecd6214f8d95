"""Runs on a Dask cluster: workers compute and need not share a disk, and the client writes what they return.

Runs are handed to workers one by one, by name, so that it is known which of them a lost worker was at.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import queue
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nnopt_lib.checks import refuse
from nnopt_lib.experiments.connection import connected
from nnopt_lib.experiments.records import read_record, write_record
from nnopt_lib.files import lock

WORKER_SECONDS = 60  # without any worker: those that wait in the queue of SLURM may still be starting
ATTEMPTS = 3  # of a run whose worker is lost each time
POLL_SECONDS = 1.0  # between two looks at which workers there are
GATHER_SECONDS = 60  # for a finished record to travel

Record = dict[str, Any]
Workers = dict[str, tuple[str, int]]  # address and free threads, by an id that no two processes share


def on_cluster(
    address: str,
    tasks: Mapping[Path, tuple[Record, Any]],
    call: Callable[[Record, Any], Record],
    *,
    recompute: bool = False,
) -> Iterator[Record]:
    """Records as they come from the Dask scheduler at `address`; every one is on disk before it is yielded.

    - tasks: what to hand to `call`, by the path of its record: the record without rows, and the setting.
    - call: makes the whole record; the only thing that runs on workers.
    - recompute: do not read what another process has stored meanwhile.

    An error of `call` comes as it is. A run whose worker is lost is tried three times in all, and refused
    after the others have finished. Refuses an address at which no scheduler answers within 5 seconds, and a
    cluster without workers for 60 seconds.
    """
    client = connected(address)
    try:
        runs = _Runs(client, address, tasks, call, recompute)
        try:
            yield from runs.records()
        finally:
            runs.release_locks()
    finally:
        client.close()


@dataclasses.dataclass(frozen=True)
class _Attempt:
    """One run on one worker."""

    path: Path
    worker: str
    future: Any
    held: Any  # the lock of the record: another process on this store computes something else meanwhile


class _Runs:
    def __init__(
        self,
        client: Any,
        address: str,
        tasks: Mapping[Path, tuple[Record, Any]],
        call: Callable[[Record, Any], Record],
        recompute: bool,
    ) -> None:
        from distributed.protocol.pickle import dumps

        self.client, self.address, self.tasks, self.recompute = client, address, tasks, recompute
        self.call = dumps(call)  # type: ignore[no-untyped-call]
        self.waiting = dict.fromkeys(tasks)
        self.running: dict[str, _Attempt] = {}  # by the key of its future
        self.ended: queue.SimpleQueue[Any] = queue.SimpleQueue()  # futures, in the order of their ends
        self.losses: collections.Counter[Path] = collections.Counter()
        self.given_up: list[Path] = []
        self.workers_seen_at = time.monotonic()

    def records(self) -> Iterator[Record]:
        while self.waiting or self.running:
            workers = self._workers()
            for attempt in [each for each in self.running.values() if each.worker not in workers]:
                self._count_loss(attempt)
            yield from self._hand_out(workers)
            yield from self._take_in()
        if self.given_up:
            base = self.tasks[self.given_up[0]][0]
            count = "" if len(self.given_up) == 1 else f", the first of {len(self.given_up)} such runs"
            what = (
                f"{base['experiment']} with {base['settings']}, which lost its worker {ATTEMPTS} times{count}"
            )
            remedy = "The worker's log says why, often too little memory; all other runs are stored."
            refuse("a run must not end the worker that computes it", what, remedy)

    def _workers(self) -> Workers:
        to_go = f"{len(self.waiting) + len(self.running)} runs to go"
        workers: Workers | None = None
        if self.client.status != "closed":  # as it is some seconds after its scheduler has ended
            with contextlib.suppress(OSError):
                workers = self.client.run_on_scheduler(_worker_processes)
        if workers is None:
            remedy = "Start one with `dask scheduler` and run again: what has finished is stored."
            rule = "a cluster's scheduler must stay until all runs have finished"
            refuse(rule, f"none at {self.address!r} any more, with {to_go}", remedy)
        if workers:
            self.workers_seen_at = time.monotonic()
        elif time.monotonic() - self.workers_seen_at > WORKER_SECONDS:
            remedy = (
                f"Start one with `dask worker {self.address}` and run again: what has finished is stored."
            )
            what = f"none at {self.address!r} for {WORKER_SECONDS} seconds, with {to_go}"
            refuse("a cluster must have a worker", what, remedy)
        return workers

    def _hand_out(self, workers: Workers) -> Iterator[Record]:
        """Give free workers runs; what another process has finished meanwhile is read and yielded."""
        for path in list(self.waiting):
            worker = self._free_worker(workers, alone=self.losses[path] > 0)
            if worker is None:
                if self.losses[path]:
                    continue
                return
            held = lock(path, timeout=0)
            if held is None:
                continue
            del self.waiting[path]
            record = None if self.recompute else read_record(path)
            if record is None:
                self._submit(path, worker, workers[worker][0], held)
            else:
                held.lock.release()
                yield record

    def _free_worker(self, workers: Workers, alone: bool) -> str | None:
        """The worker with the least to do. A run that has lost one gets one alone, and takes no run along."""
        busy = collections.Counter(attempt.worker for attempt in self.running.values())
        free = [
            worker
            for worker, (_, threads) in workers.items()
            if busy[worker] < (min(1, threads) if alone else threads)
        ]
        return min(free, key=lambda worker: busy[worker], default=None)

    def _submit(self, path: Path, worker: str, address: str, held: Any) -> None:
        from distributed.protocol.pickle import dumps

        key = f"{path.parent.name}-{uuid.uuid4().hex}"
        task = dumps(self.tasks[path])  # type: ignore[no-untyped-call]
        # To this worker alone: Dask itself would count what had only waited on a lost worker as lost, too.
        where = {"workers": [address], "allow_other_workers": False}
        future = self.client.submit(_attempt, worker, self.call, task, key=key, pure=False, **where)
        self.running[key] = _Attempt(path, worker, future, held)
        future.add_done_callback(self.ended.put)

    def _take_in(self) -> Iterator[Record]:
        """Write and yield what has ended, waiting for the first; then raise the error of a run, if any."""
        failure, seconds = None, POLL_SECONDS
        with contextlib.suppress(queue.Empty):
            while True:
                future = self.ended.get(timeout=seconds)
                seconds = 0
                attempt = self.running.get(future.key)
                if attempt is None:  # its worker was lost before
                    continue
                outcome = _outcome(future)
                if outcome is None:
                    self._count_loss(attempt)
                    continue
                if isinstance(outcome, dict):
                    write_record(attempt.path, outcome)
                    self._close(attempt)
                    yield outcome
                else:
                    failure = failure or outcome
                    self._close(attempt)
        if failure is not None:
            raise failure

    def _count_loss(self, attempt: _Attempt) -> None:
        self._close(attempt)
        if not attempt.future.done():
            with contextlib.suppress(OSError):  # the next look at the workers says that there is no scheduler
                attempt.future.cancel()
        self.losses[attempt.path] += 1
        if self.losses[attempt.path] < ATTEMPTS:
            self.waiting[attempt.path] = None
        else:
            self.given_up.append(attempt.path)

    def _close(self, attempt: _Attempt) -> None:
        del self.running[attempt.future.key]
        attempt.held.lock.release()

    def release_locks(self) -> None:
        for attempt in self.running.values():
            attempt.held.lock.release()


def _attempt(worker: str, call: bytes, task: bytes) -> Record | None:
    """On a worker: the record. None in another process than was meant: that one is lost."""
    from distributed import get_worker
    from distributed.protocol.pickle import loads

    if get_worker().id != worker:
        return None
    base, setting = loads(task)  # type: ignore[no-untyped-call]
    record: Record = loads(call)(base, setting)  # type: ignore[no-untyped-call]
    return record


def _outcome(future: Any) -> Record | Exception | None:
    """The record, the error that computing it ended in, or None where the worker was lost."""
    from distributed import KilledWorker

    try:
        record: Record | None = future.result(timeout=GATHER_SECONDS)
        return record
    except Exception as error:
        return error if future.status == "error" and not isinstance(error, KilledWorker) else None


def _worker_processes(dask_scheduler: Any) -> Workers:
    """On the scheduler: its workers. One that is paused or about to leave is there, and has nothing free."""
    return {
        worker.server_id: (worker.address, worker.nthreads if worker.status.name == "running" else 0)
        for worker in dask_scheduler.workers.values()
    }
