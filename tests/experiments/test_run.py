"""Settings in, rows out: what is looked up and what is computed; resuming, sharing, disks that refuse."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.data import classification, load_data
from nnopt_lib.data.catalog import MNIST_FILES
from nnopt_lib.experiments import run as running
from nnopt_lib.experiments.records import run_id
from nnopt_lib.experiments.rows import experiments_of
from nnopt_lib.experiments.run import published_rows, run_experiment
from tests.conftest import small_files
from tests.experiments.conftest import SETTINGS, Counting, Fingerprinted, Settings, other_rows, record_files
from tests.published import publish

# Rows and their settings


def test_rows_hold_settings_computed_fields_and_run_id_in_the_order_of_settings():
    rows = run_experiment("01-try", [Settings(3), Settings(1, rate=2.0)], Counting())
    assert [{**row, "run_id": None} for row in rows] == [
        {"seed": 3, "rate": 0.5, "square": 9, "run_id": None},
        {"seed": 1, "rate": 2.0, "square": 1, "run_id": None},
    ]
    assert rows[0]["run_id"] == run_id("01-try", {"rate": 0.5, "seed": 3}, "", 1) != rows[1]["run_id"]


def test_rows_know_their_experiment_whether_computed_stored_or_published():
    rows = run_experiment("01-try", SETTINGS, Counting())
    publish("01-try", [row["run_id"] for row in rows[:2]])
    stored = run_experiment("01-try", SETTINGS, Counting())
    assert [row.experiment for row in (*rows, *stored)] == ["01-try"] * 8
    other = run_experiment("01-other", SETTINGS[:1], Counting())
    assert experiments_of([other, stored]) == ["01-other", "01-try"]


def test_several_rows_of_one_setting_share_its_run_id():
    rows = run_experiment("01-try", SETTINGS[:1], lambda settings: [{"epoch": 1}, {"epoch": 2}])
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0]["run_id"] == rows[1]["run_id"]


def test_stored_rows_are_not_computed_again_and_equal_the_computed_ones():
    compute = Counting()
    first = run_experiment("01-try", SETTINGS, compute)
    assert run_experiment("01-try", SETTINGS[::-1], compute) == first[::-1]
    assert compute.seeds == [0, 1, 2, 3]


def test_recompute_replaces_what_is_stored():
    run_experiment("01-try", SETTINGS, Counting())
    rows = run_experiment("01-try", SETTINGS, lambda settings: {"square": -1}, recompute=True)
    assert [row["square"] for row in rows] == [-1] * 4
    assert run_experiment("01-try", SETTINGS, Counting()) == rows


def test_a_changed_default_is_another_run_and_a_changed_class_is_not():
    @dataclasses.dataclass(frozen=True)
    class Other:
        rate: float = 0.5
        seed: int = 0

    @dataclasses.dataclass(frozen=True)
    class Changed:
        seed: int
        rate: float = 0.6

    compute = Counting()
    run_experiment("01-try", [Settings(0)], compute)
    run_experiment("01-try", [Other()], compute)
    assert compute.seeds == [0]
    run_experiment("01-try", [Changed(0)], compute)
    assert compute.seeds == [0, 0]


def test_data_and_results_version_are_part_of_the_run():
    compute = Counting()
    for data in (Fingerprinted("a"), Fingerprinted("b"), (Fingerprinted("a"), Fingerprinted("b"))):
        run_experiment("01-try", SETTINGS[:1], compute, data=data)
    run_experiment("01-try", SETTINGS[:1], compute, data=Fingerprinted("a"), results_version=2)
    run_experiment("01-try", SETTINGS[:1], compute, data=Fingerprinted("a"))
    assert compute.seeds == [0] * 4


def test_numpy_numbers_and_divergence_come_back_as_stored():
    def compute(settings):
        return {"loss": float("nan"), "accuracy": np.float32(0.5), "counts": (np.int64(3), 4)}

    for _ in range(2):
        (row,) = run_experiment("01-try", SETTINGS[:1], compute)
        assert np.isnan(row["loss"]) and row["accuracy"] == 0.5 and row["counts"] == [3, 4]
        assert type(row["accuracy"]) is float


def test_every_record_says_where_it_comes_from(home):
    run_experiment("01-try", SETTINGS[:1], Counting(), data=Fingerprinted("abc"))
    record = json.loads(record_files(home)[0].read_text())
    assert record["data"] == "abc" and record["settings"] == {"seed": 0, "rate": 0.5}
    origin = record["provenance"]
    assert origin["versions"]["python"] == sys.version.split()[0]
    assert origin["versions"]["numpy"] == np.__version__
    assert origin["hardware"]["memory_bytes"] > 1e8 and origin["hardware"]["cores"] >= 1


def test_a_record_says_how_long_it_took_to_compute_and_when_it_was_finished(home, monkeypatch):
    watch, days = iter((100.0, 107.65432)), iter((30, 31))

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            assert tz is datetime.UTC
            return cls(2031, 12, next(days), 23, 59, 58, 7, tzinfo=tz)

    monkeypatch.setattr(running, "time", SimpleNamespace(perf_counter=lambda: next(watch)))
    monkeypatch.setattr(running, "datetime", SimpleNamespace(datetime=Clock, UTC=datetime.UTC))
    run_experiment("01-try", SETTINGS[:1], Counting())
    origin = json.loads(record_files(home)[0].read_text())["provenance"]
    assert (origin["duration_seconds"], origin["finished_at"]) == (7.654, "2031-12-30T23:59:58+00:00")


# Refusals


def test_refusals_are_whole_sentences():
    @dataclasses.dataclass
    class Loose:
        seed: int

    cases = [
        ([Loose(0)], "settings of 01-try must be frozen dataclasses; received Loose. "
         "Write @dataclass(frozen=True) above the class."),
        ([{"seed": 0}], "settings of 01-try must be frozen dataclasses; received dict. "
         "Write @dataclass(frozen=True) above the class."),
        ([Settings(0), Settings(0, rate=0.5)], "settings of 01-try must differ from each other; "
         "received {'seed': 0, 'rate': 0.5} twice."),
        ([Settings(0, rate=float("nan"))], "settings of 01-try must be finite numbers; "
         "received {'seed': 0, 'rate': nan}. Use None for a value that is not set."),
        ([Settings(0, rate=np.ones(2))], "field 'rate' of the settings of 01-try must be made of numbers, strings, "
         "booleans, None, lists and dictionaries with string keys; received a value of type ndarray. "
         "Convert it first, an array by .tolist()."),
    ]  # fmt: skip
    for wrong, sentence in cases:
        compute = Counting()
        with pytest.raises(NnoptError) as refusal:
            run_experiment("01-try", wrong, compute)
        assert str(refusal.value) == sentence
        assert compute.seeds == []


def test_what_compute_returns_is_checked():
    cases = [
        (3, "what compute returns for 01-try must be a dictionary or a list of dictionaries; "
         "received a value of type int."),
        ({"seed": 1}, "what compute returns for 01-try must not repeat the settings' fields or run_id; received seed."),
        ({"model": object()}, "what compute returns for 01-try must be made of numbers, strings, booleans, None, "
         "lists and dictionaries with string keys; received a value of type object. "
         "Convert it first, an array by .tolist()."),
    ]  # fmt: skip
    for returned, sentence in cases:
        with pytest.raises(NnoptError) as refusal:
            run_experiment("01-try", SETTINGS[:1], lambda settings, returned=returned: returned)
        assert str(refusal.value) == sentence


def test_names_and_jobs_are_checked(monkeypatch):
    with pytest.raises(NnoptError) as refusal:
        run_experiment("../x", SETTINGS, Counting())
    assert str(refusal.value) == (
        "the experiment's name must be made of letters, digits, - and _; received '../x'."
    )
    monkeypatch.setenv("NNOPT_JOBS", "many")
    with pytest.raises(NnoptError) as refusal:
        run_experiment("01-try", SETTINGS, Counting())
    assert str(refusal.value) == "NNOPT_JOBS must be a whole number other than 0; received 'many'."


def test_an_error_of_compute_keeps_its_kind_and_says_which_setting():
    def compute(settings):
        if settings.seed == 2:
            raise ZeroDivisionError("by zero")
        return {"square": 1}

    with pytest.raises(ZeroDivisionError) as error:
        run_experiment("01-try", SETTINGS, compute)
    assert error.value.__notes__ == ["while computing 01-try with {'seed': 2, 'rate': 0.5}"]
    rest = Counting()
    run_experiment("01-try", SETTINGS, rest)
    assert rest.seeds == [2, 3]


# Published rows


def test_published_rows_come_before_those_of_the_local_store(home):
    rows = run_experiment("01-try", SETTINGS, Counting())
    publish("01-try", [row["run_id"] for row in rows[:3]])
    other_rows(home)
    compute = Counting()
    new_rows = run_experiment("01-try", [*SETTINGS, Settings(4)], compute)
    assert [row["square"] for row in new_rows] == [0, 1, 4, -1, 16]  # published, then local, then computed
    assert compute.seeds == [4]


def test_recomputing_gives_the_new_rows_and_leaves_the_published_ones_to_the_next_call(home):
    rows = run_experiment("01-try", SETTINGS, Counting())
    publish("01-try", [row["run_id"] for row in rows])
    new = run_experiment("01-try", SETTINGS, lambda settings: {"square": -2}, recompute=True)
    assert [row["square"] for row in new] == [-2] * 4
    assert {json.loads(path.read_text())["rows"][0]["square"] for path in record_files(home)} == {-2}
    assert run_experiment("01-try", SETTINGS, Counting()) == rows


def test_published_rows_alone_are_read_where_the_machinery_says_so(home, monkeypatch):
    rows = run_experiment("01-try", SETTINGS, Counting())
    publish("01-try", [row["run_id"] for row in rows[:2]])
    other_rows(home)
    monkeypatch.setenv("NNOPT_ROWS", "published")
    compute = Counting()
    assert run_experiment("01-try", SETTINGS[:2], compute) == rows[:2]
    rule = "{} must take all its rows from the published ones while NNOPT_ROWS is published; received {}"
    many = (
        "2 of 4 settings that are not published, the first {'seed': 2, 'rate': 0.5}. Run nnopt run 01 --save."
    )
    cases = [
        ("01-try", SETTINGS, {}, many),
        ("01-try", SETTINGS[:1], {"recompute": True}, "recompute=True."),
        ("search", SETTINGS[:1], {}, "1 of 1 settings that are not published, the first {'seed': 0, 'rate': 0.5}. "
         "Run nnopt run NN --save."),
    ]  # fmt: skip
    for name, wanted, options, received in cases:
        with pytest.raises(NnoptError) as refusal:
            run_experiment(name, wanted, compute, **options)
        assert str(refusal.value) == rule.format(name, received)
    assert compute.seeds == []
    monkeypatch.setenv("NNOPT_ROWS", "publishd")
    with pytest.raises(NnoptError) as refusal:
        run_experiment("01-try", SETTINGS[:2], compute)
    assert str(refusal.value) == "NNOPT_ROWS must be published or not set; received 'publishd'."


def test_published_rows_on_data_that_is_not_here_are_found_and_only_computing_needs_the_data(
    home, monkeypatch
):
    monkeypatch.delenv("NNOPT_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda name: home / "no-cache")
    dead = tuple(dataclasses.replace(file, addresses=("http://127.0.0.1:9/x",)) for file in MNIST_FILES)
    read = functools.partial(classification._idx_set, dead)
    source = dataclasses.replace(classification.SOURCES["mnist"], read=read)
    monkeypatch.setitem(classification.SOURCES, "mnist", source)
    known = Fingerprinted(load_data("mnist").fingerprint)
    rows = run_experiment("01-try", SETTINGS[:2], lambda s: {"y": s.seed}, data=known)
    publish("01-try", [row["run_id"] for row in rows])
    (home / "build").rename(home / "elsewhere")

    mnist = load_data("mnist")

    def compute(setting):
        return {"y": len(mnist.x_train)}

    assert run_experiment("01-try", SETTINGS[:2], compute, data=mnist) == rows
    with pytest.raises(
        NnoptError, match="mnist/train-images-idx3-ubyte must be in the folder that NNOPT_DATA"
    ):
        run_experiment("01-try", SETTINGS, compute, data=mnist)
    assert record_files(home) == []  # nothing is stored


def test_what_is_made_and_not_committed_goes_where_nnopt_build_says(home, tmp_path, monkeypatch):
    monkeypatch.setenv("NNOPT_BUILD", str(tmp_path / "elsewhere"))
    run_experiment("01-try", SETTINGS[:1], Counting())
    assert len(list((tmp_path / "elsewhere" / "store" / "01-try").glob("*.json"))) == 1
    assert not (home / "build").exists()


# Killing, sharing, parallel

SWEEP = textwrap.dedent(
    """
    import dataclasses, json, os, signal, sys, time
    from pathlib import Path
    from nnopt_lib.experiments.run import published_rows, run_experiment

    log, gates, crash = sys.argv[1:]
    crash_at, _, crash_seed = crash.rpartition(" ")  # where, and in which setting, the process kills itself
    current = None

    def die(place):
        if place == crash_at and str(current) == crash_seed:
            os.kill(os.getpid(), signal.SIGKILL)

    plain_replace = os.replace

    def replace(source, target):  # what gives a finished record its name
        die("before naming")
        plain_replace(source, target)
        die("after naming")

    os.replace = replace

    @dataclasses.dataclass(frozen=True)
    class Settings:
        seed: int

    def compute(settings):
        global current
        current = settings.seed
        die("computing")
        with open(log, "a") as file:
            file.write(f"{settings.seed}\\n")
        while gates and not os.path.exists(f"{gates}/{settings.seed}"):
            time.sleep(0.002)  # until the test opens its gate
        return {"square": settings.seed**2}

    print(json.dumps(run_experiment("01-try", [Settings(seed) for seed in range(20)], compute)))
    """
)


def sweep(home: Path, log: Path, gates: Path | str = "", crash: str = "") -> subprocess.Popen:
    """A sweep in a process of its own; each setting is computed when there is a file of its seed in `gates`."""
    command = [sys.executable, "-c", SWEEP, str(log), str(gates), crash]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "NNOPT_HOME": str(home)}
    )


def logged(log: Path) -> list[int]:
    """The seeds that a sweep has begun to compute."""
    return [int(seed) for seed in log.read_text().split()] if log.exists() else []


def appear(what, *processes: subprocess.Popen) -> None:
    """Wait until ``what()`` is true while the processes run; pytest's own timeout is the limit."""
    while not what():
        assert all(process.poll() is None for process in processes), "a sweep ended before"
        time.sleep(0.002)


def seeds_stored(home: Path) -> set[int]:
    return {json.loads(path.read_text())["settings"]["seed"] for path in record_files(home)}


def test_a_sweep_killed_at_every_point_resumes_and_ends_with_the_same_rows(home):
    undisturbed, log = home / "undisturbed", home / "log"
    undisturbed.mkdir()
    expected = json.loads(sweep(undisturbed, home / "other").communicate()[0])
    for place, seed, stored in (
        ("computing", 0, 0),
        ("before naming", 0, 0),
        ("after naming", 0, 1),
        ("computing", 5, 5),
        ("before naming", 7, 7),
        ("before naming", 7, 7),  # twice at the same point
        ("after naming", 12, 13),
        ("computing", 19, 19),
        ("after naming", 19, 20),
    ):
        killed = sweep(home, log, crash=f"{place} {seed}")
        killed.communicate()
        assert killed.returncode == -signal.SIGKILL
        assert seeds_stored(home) == set(range(stored))  # whole records, all that was finished
    finished = sweep(home, log)
    assert json.loads(finished.communicate()[0]) == expected and finished.returncode == 0
    # Begun again are only those that were computed and not yet named when the kill came.
    assert sorted(logged(log)) == sorted([*range(20), 0, 7, 7])
    assert not [path for path in record_files(home)[0].parent.iterdir() if ".damaged" in path.name]


def test_finished_rows_are_never_computed_again_after_a_kill_from_outside(home):
    log, gates = home / "log", home / "gates"
    gates.mkdir()
    for seed in range(5):
        (gates / str(seed)).touch()
    process = sweep(home, log, gates)
    appear(lambda: 5 in logged(log), process)  # it waits in the sixth
    process.kill()
    process.communicate()
    assert seeds_stored(home) == set(range(5))
    sweep(home, log).communicate()
    assert seeds_stored(home) == set(range(20))
    assert logged(log) == [*range(6), *range(5, 20)]


@pytest.mark.timeout(120)
def test_two_runs_on_one_store_share_the_work(home):
    """One moves at a time, past the setting in which the other is at that moment."""
    logs, gates = (home / "first", home / "second"), home / "gates"
    gates.mkdir()
    runs = [sweep(home, logs[0], gates)]
    appear(lambda: logged(logs[0]) == [0], *runs)
    runs.append(sweep(home, logs[1], gates))
    appear(lambda: logged(logs[1]) == [1], *runs)
    begun = ([0], [1])
    for turn, seed in ((0, 2), (0, 3), (1, 4), (0, 5), (1, 6), (1, 7)):
        (gates / str(begun[turn][-1])).touch()
        begun[turn].append(seed)
        appear(lambda turn=turn: len(logged(logs[turn])) == len(begun[turn]), *runs)
        assert [logged(log) for log in logs] == list(begun)
    for seed in range(20):
        (gates / str(seed)).touch()
    rows = [json.loads(run.communicate()[0]) for run in runs]
    assert rows[0] == rows[1] and [row["square"] for row in rows[0]] == [seed**2 for seed in range(20)]
    assert sorted(logged(logs[0]) + logged(logs[1])) == list(range(20))


def test_processes_and_joblibs_own_configuration_give_the_same_rows(home, monkeypatch):
    expected = [row["square"] for row in run_experiment("01-try", SETTINGS, Counting())]

    def compute(settings):
        return {"square": settings.seed**2, "process": os.getpid()}

    by_jobs = run_experiment("01-jobs", SETTINGS, compute, jobs=2)
    with joblib.parallel_config("threading", n_jobs=2):
        by_configuration = run_experiment("01-threads", SETTINGS, compute)
    monkeypatch.setenv("NNOPT_JOBS", "2")
    by_variable = run_experiment("01-variable", SETTINGS, compute)
    for rows in (by_jobs, by_configuration, by_variable):
        assert [row["square"] for row in rows] == expected
    assert os.getpid() not in {row["process"] for row in by_jobs + by_variable}
    assert {row["process"] for row in by_configuration} == {os.getpid()}


def test_a_process_may_write_to_large_arrays_as_the_caller_may(home):
    large = np.zeros(300_000)  # above joblib's limit for memory maps

    def compute(settings):
        large[0] = settings.seed
        return {"first": float(large[0])}

    rows = run_experiment("01-large", SETTINGS, compute, jobs=2)
    assert [row["first"] for row in rows] == [setting.seed for setting in SETTINGS] and large[0] == 0


def test_a_quiet_run_prints_nothing_and_a_loud_one_shows_a_bar(capfd, monkeypatch):
    run_experiment("01-try", SETTINGS, Counting())
    assert capfd.readouterr() == ("", "")
    monkeypatch.delenv("NNOPT_PROGRESS")
    run_experiment("01-try", SETTINGS, Counting())
    assert capfd.readouterr() == ("", "")  # nothing to compute, nothing to show
    run_experiment("01-loud", SETTINGS, Counting())
    assert "01-loud" in capfd.readouterr().err


def test_what_was_used_is_noted_for_the_runner(home, monkeypatch):
    monkeypatch.setenv("NNOPT_USED", str(home / "used"))
    rows = run_experiment("01-try", SETTINGS[:2], Counting())
    note = json.loads((home / "used").read_text())
    assert note == {"experiment": "01-try", "run_ids": [row["run_id"] for row in rows]}


# Rows that another chapter quotes


def test_published_rows_are_those_of_the_experiment_whatever_the_store_holds(home):
    rows = run_experiment("01-try", SETTINGS, Counting())
    publish("01-try", [row["run_id"] for row in rows[:3]])
    other_rows(home)
    quoted = published_rows("01-try")
    assert sorted(quoted, key=lambda row: row["seed"]) == rows[:3]
    assert [row["run_id"] for row in quoted] == sorted(row["run_id"] for row in rows[:3])
    assert experiments_of(quoted) == ["01-try"]


def test_quoting_is_noted_without_runs_to_publish(home, monkeypatch):
    rows = run_experiment("01-try", SETTINGS[:2], Counting())
    publish("01-try", [row["run_id"] for row in rows])
    monkeypatch.setenv("NNOPT_USED", str(home / "used"))
    published_rows("01-try")
    assert json.loads((home / "used").read_text()) == {"experiment": "01-try", "run_ids": []}


@pytest.mark.parametrize(("experiment", "number"), [("09-choices", "09"), ("choices", "NN")])
def test_an_experiment_without_published_rows_cannot_be_quoted(experiment, number):
    with pytest.raises(NnoptError) as error:
        published_rows(experiment)
    rule = f"{experiment} must have published rows to quote; received none."
    assert str(error.value) == f"{rule} Run nnopt run {number} --save."


# Disks that refuse


def test_a_full_disk_in_a_sweep_keeps_the_records_before_it(home):
    with pytest.raises(NnoptError) as refusal, small_files():
        run_experiment("01-try", SETTINGS[:1], Counting())
    assert "could not be written: File too large. Free some space and run again" in str(refusal.value)
    assert record_files(home) == []


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(home):
    (home / "build").write_text("a file where the store should be")  # refuses root as well
    compute = Counting()
    with pytest.raises(NnoptError) as refusal:
        run_experiment("01-try", SETTINGS, compute)
    identity = run_id("01-try", dataclasses.asdict(SETTINGS[0]), "", 1)
    record_file = home / "build" / "store" / "01-try" / f"{identity}.json"
    assert str(refusal.value) == (
        f"{record_file} could not be written: Not a directory. Make that folder writable and run again; "
        "what was there before is untouched."
    )
    assert compute.seeds == []
