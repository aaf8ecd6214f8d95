"""A result is data: frozen settings in, rows out, stored under the hash of the settings."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnopt_lib.checks import check_int, refuse
from nnopt_lib.experiments.cluster import on_cluster
from nnopt_lib.experiments.provenance import provenance
from nnopt_lib.experiments.records import (
    FORMAT,
    plain,
    published_rows_only,
    read_published,
    read_record,
    run_id,
    write_record,
)
from nnopt_lib.experiments.rows import Row
from nnopt_lib.files import lock, writing
from nnopt_lib.paths import store_folder

Task = tuple[dict[str, Any], Any]  # the record without its rows, and the setting to compute it from


def run_experiment(
    experiment: str,
    settings: Sequence[Any],
    compute: Callable[[Any], dict[str, Any] | list[dict[str, Any]]],
    *,
    data: Any = (),
    results_version: int = 1,
    jobs: int | None = None,
    cluster: str | None = None,
    recompute: bool = False,
    store: Path | None = None,
) -> list[Row]:
    """Rows for every setting: the published ones, else those in the local store, else computed.

    - experiment: its name, beginning with the chapter: ``"01-held-out"``.
    - settings: frozen dataclasses, all different; every field counts for the run id.
    - compute: function from one setting to its row (a dictionary) or rows; must not depend on anything else.
    - data: the `Data` that was used, or several; anything with a `fingerprint`.
    - results_version: raise it when `compute` changes what its numbers mean.
    - jobs: processes; None leaves it to NNOPT_JOBS or to ``joblib.parallel_config(...)``.
    - cluster: address of a Dask scheduler, as ``"tcp://host:8786"``; None leaves it to NNOPT_CLUSTER.
    - recompute: compute all again and replace what is stored; what is published stays for the next call.
    - store: folder of the records, ``build/store`` by default.

    Returns new rows in the order of `settings`: dictionaries of the settings' fields, the row's own fields
    and `run_id`, which also know their `experiment`, so that a claim or a figure can say on what it rests.
    Each record is written the moment it is finished, so a killed run goes on where it stopped, and two runs
    at once share the work. Refuses settings that are not frozen, equal each other, or are no JSON; with
    NNOPT_ROWS=published, which checks and the book set, all that is not published, and `recompute`.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Setting:
        ...     seed: int
        >>> rows = run_experiment("00-demo", [Setting(2), Setting(3)], lambda s: {"square": s.seed**2})
        >>> [(row["seed"], row["square"]) for row in rows]
        [(2, 4), (3, 9)]
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", experiment):
        refuse("the experiment's name must be made of letters, digits, - and _", repr(experiment))
    check_int("results_version", results_version, at_least=1)
    folder = Path(store or store_folder()) / experiment
    runs = _plan(experiment, settings, _fingerprint(data), results_version)
    if published_rows_only():
        records = _published_alone(experiment, runs, recompute)
    else:
        records = {} if recompute else _look_up(experiment, runs, folder)
    tasks = {folder / f"{identity}.json": run for identity, run in runs.items() if identity not in records}
    for record in _compute_all(tasks, compute, jobs, recompute, cluster):
        records[record["run_id"]] = record
    _note_use(experiment, list(runs))
    return [row for identity in runs for row in _rows_of(records[identity])]


def published_rows(experiment: str) -> list[Row]:
    """The published rows of an experiment of another chapter, for one that quotes its numbers.

    Two chapters that speak of the same network and setting then print the same number, from the same rows.

    Parameters:
        experiment: its name, beginning with the chapter that owns it: ``"09-choices"``.

    Returns new rows as `run_experiment` does: dictionaries of the settings' fields, the row's own fields and
    `run_id`, which know their experiment; ordered by run id, since what is published has no other order.
    Nothing is computed. A chapter that is saved notes the file they came from, and is stale once that
    changes. Refuses an experiment that has no published rows.

    Example:
        >>> rows = published_rows("09-choices")  # doctest: +SKIP
        >>> [row["test"] for row in rows if row["method"] == "dense"]  # doctest: +SKIP
    """
    records = read_published(experiment)
    if not records:
        number = experiment[:2] if re.match(r"\d\d-", experiment) else "NN"
        rule = f"{experiment} must have published rows to quote"
        refuse(rule, "none", f"Run nnopt run {number} --save.")
    # No run ids: they are read here and not asked for, so they are not this chapter's to publish or verify.
    _note_use(experiment, [])
    return [row for identity in sorted(records) for row in _rows_of(records[identity])]


def _rows_of(record: Mapping[str, Any]) -> list[Row]:
    """The rows of one record, each with its settings and its run id."""
    settings, identity = record["settings"], record["run_id"]
    return [
        Row({**settings, **row, "run_id": identity}, experiment=record["experiment"])
        for row in record["rows"]
    ]


def _look_up(experiment: str, runs: Mapping[str, Task], folder: Path) -> dict[str, dict[str, Any]]:
    """The records of `runs` so far. Published ones win, so that a chapter says the same everywhere."""
    published, records = read_published(experiment), {}
    for identity in runs:
        record = published.get(identity) or read_record(folder / f"{identity}.json")
        if record is not None:
            records[identity] = record
    return records


def _published_alone(experiment: str, runs: Mapping[str, Task], recompute: bool) -> dict[str, dict[str, Any]]:
    """The published records of `runs`, all of them or a refusal: what rests on them must not take hours."""
    published = read_published(experiment)
    rule = f"{experiment} must take all its rows from the published ones while NNOPT_ROWS is published"
    if recompute:
        refuse(rule, "recompute=True")
    missing = [task[0]["settings"] for identity, task in runs.items() if identity not in published]
    if missing:
        count = f"{len(missing)} of {len(runs)} settings that are not published, the first {missing[0]}"
        number = experiment[:2] if re.match(r"\d\d-", experiment) else "NN"
        refuse(rule, count, f"Run nnopt run {number} --save.")
    return {identity: published[identity] for identity in runs}


def _plan(
    experiment: str, settings: Sequence[Any], fingerprint: str, results_version: int
) -> dict[str, Task]:
    runs: dict[str, Task] = {}
    for setting in settings:
        fields = _fields(setting, experiment)
        identity = run_id(experiment, fields, fingerprint, results_version)
        if identity in runs:
            refuse(f"settings of {experiment} must differ from each other", f"{fields} twice")
        base = {"format": FORMAT, "experiment": experiment, "run_id": identity, "settings": fields}
        runs[identity] = ({**base, "data": fingerprint, "results_version": results_version}, setting)
    return runs


def _fingerprint(data: Any) -> str:
    several = data if isinstance(data, (list, tuple)) else (data,)
    return "+".join(str(item.fingerprint) for item in several)


def _fields(setting: Any, experiment: str) -> dict[str, Any]:
    frozen = dataclasses.is_dataclass(setting) and not isinstance(setting, type)
    if not frozen or not setting.__dataclass_params__.frozen:
        remedy = "Write @dataclass(frozen=True) above the class."
        refuse(f"settings of {experiment} must be frozen dataclasses", type(setting).__name__, remedy)
    fields = dataclasses.asdict(setting)
    return {
        name: plain(value, f"field {name!r} of the settings of {experiment}")
        for name, value in fields.items()
    }


def _compute_all(
    tasks: Mapping[Path, Task],
    compute: Callable[[Any], Any],
    jobs: int | None,
    recompute: bool,
    cluster: str | None,
) -> Iterator[dict[str, Any]]:
    """Finished records as they come; every one is on disk before it is yielded."""
    if not tasks:
        return
    address = cluster or os.environ.get("NNOPT_CLUSTER")
    if address:
        call = functools.partial(_computed, compute=compute)
        records = on_cluster(address, tasks, call, recompute=recompute)
    else:
        records = _in_processes(tasks, compute, jobs, recompute)
    yield from _with_progress(records, tasks)


def _in_processes(
    tasks: Mapping[Path, Task], compute: Callable[[Any], Any], jobs: int | None, recompute: bool
) -> Iterator[dict[str, Any]]:
    import joblib  # here, since rows that are stored need neither processes nor the time to load it

    calls = (
        joblib.delayed(_compute_one)(path, *tasks[path], compute, recompute) for path in _free_first(tasks)
    )
    # max_nbytes=None: joblib would hand large arrays over as read-only memory maps, which PyTorch warns of.
    parallel = joblib.Parallel(n_jobs=_jobs(jobs), return_as="generator_unordered", max_nbytes=None)
    yield from parallel(calls)


def _with_progress(records: Iterable[Any], tasks: Mapping[Path, Task]) -> Iterable[Any]:
    """`records`, with a progress bar as it comes, unless NNOPT_PROGRESS is 0."""
    with warnings.catch_warnings():
        # It warns inside a notebook when there is no ipywidgets: text will do.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    quiet = os.environ.get("NNOPT_PROGRESS") == "0"
    experiment = next(iter(tasks)).parent.name
    return tqdm(records, desc=experiment, total=len(tasks), disable=quiet, leave=False)


def _jobs(jobs: int | None) -> int | None:
    count = os.environ.get("NNOPT_JOBS")
    if jobs is None and count:
        if not re.fullmatch(r"-?[1-9]\d*", count):
            refuse("NNOPT_JOBS must be a whole number other than 0", repr(count))
        return int(count)
    return jobs


def _free_first(tasks: Mapping[Path, Task]) -> Iterator[Path]:
    """Records nobody is computing, then the others; asked at the last moment, so two runs share the work."""
    taken = []
    for path in tasks:
        free = lock(path, timeout=0)
        if free is None:
            taken.append(path)
        else:
            with free:  # let go again: the worker takes it
                pass
            yield path
    yield from taken


def _compute_one(
    path: Path, base: dict[str, Any], setting: Any, compute: Callable[[Any], Any], recompute: bool
) -> dict[str, Any]:
    # Two runs of one setting: the second waits here, and then reads what the first has finished.
    with lock(path):
        record = None if recompute else read_record(path)
        if record is None:
            record = _computed(base, setting, compute)
            write_record(path, record)
    return record


def _computed(base: dict[str, Any], setting: Any, compute: Callable[[Any], Any]) -> dict[str, Any]:
    """The whole record, with the provenance of the process that computes it."""
    started = time.perf_counter()
    try:
        rows = compute(setting)
    except Exception as error:  # keeps its kind, unlike one that is wrapped
        error.add_note(f"while computing {base['experiment']} with {base['settings']}")
        raise
    origin = provenance()
    origin["duration_seconds"] = round(time.perf_counter() - started, 3)
    origin["finished_at"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {**base, "rows": _rows(rows, base), "provenance": origin}
    return dict(json.loads(json.dumps(record)))  # the same types whether computed now or read later


def _rows(rows: Any, base: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [rows] if isinstance(rows, dict) else rows
    what = f"what compute returns for {base['experiment']}"
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        refuse(
            f"{what} must be a dictionary or a list of dictionaries", f"a value of type {type(rows).__name__}"
        )
    # Settings and rows become one dictionary, in which one of two equal names would be lost.
    taken = sorted({"run_id", *base["settings"]} & {name for row in rows for name in row})
    if taken:
        refuse(f"{what} must not repeat the settings' fields or run_id", ", ".join(taken))
    return list(plain(rows, what))


def _note_use(experiment: str, run_ids: list[str]) -> None:
    """Tell `nnopt run`, which names a file in NNOPT_USED, what a chapter used: this is what it publishes."""
    # Through a file, since the chapter runs in the process of its kernel and what publishes it does not.
    note = os.environ.get("NNOPT_USED")
    if note:
        with writing(Path(note)), open(note, "a", encoding="utf-8") as file:
            file.write(json.dumps({"experiment": experiment, "run_ids": run_ids}) + "\n")
