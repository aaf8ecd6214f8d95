"""Settings in, rows out: run ids, the store, resuming, sharing, damage, disks that refuse."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.data import classification, load_data
from nnopt_lib.data.catalog import MNIST_FILES
from nnopt_lib.experiments import records as store
from nnopt_lib.experiments.provenance import provenance
from nnopt_lib.experiments.records import run_id
from nnopt_lib.experiments.run import run_experiment
from nnopt_lib.files import write_atomically
from nnopt_lib.paths import project_root
from tests.conftest import small_files


@dataclasses.dataclass(frozen=True)
class Settings:
    seed: int
    rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Fingerprinted:
    fingerprint: str


SETTINGS = [Settings(seed) for seed in range(4)]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty project, no progress bars."""
    (tmp_path / "chapters").mkdir()
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    monkeypatch.setenv("NNOPT_PROGRESS", "0")
    for name in ("NNOPT_BUILD", "NNOPT_STORE", "NNOPT_JOBS", "NNOPT_USED", "NNOPT_ROWS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


class Counting:
    """A compute function that counts its calls."""

    def __init__(self):
        self.seeds = []

    def __call__(self, settings):
        self.seeds.append(settings.seed)
        return {"square": settings.seed**2}


def record_files(home: Path) -> list[Path]:
    return sorted((home / "build" / "store" / "01-try").glob("*.json"))


# Rows and run ids


def test_rows_hold_settings_own_fields_and_run_id_in_the_order_of_settings():
    rows = run_experiment("01-try", [Settings(3), Settings(1, rate=2.0)], Counting())
    assert [{**row, "run_id": None} for row in rows] == [
        {"seed": 3, "rate": 0.5, "square": 9, "run_id": None},
        {"seed": 1, "rate": 2.0, "square": 1, "run_id": None},
    ]
    assert rows[0]["run_id"] == run_id("01-try", {"rate": 0.5, "seed": 3}, "", 1) != rows[1]["run_id"]


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


names = st.text("abcdef_", min_size=1, max_size=5)
values = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)


@settings(deadline=None)
@given(
    st.dictionaries(names, values | st.lists(values, max_size=3), max_size=5),
    st.randoms(use_true_random=False),
)
def test_run_id_ignores_the_order_of_fields(fields, shuffler):
    items = list(fields.items())
    shuffler.shuffle(items)
    assert run_id("e", dict(items), "f", 1) == run_id("e", fields, "f", 1)


@settings(deadline=None)
@given(st.dictionaries(names, st.integers(-9, 9), min_size=1, max_size=4), st.data())
def test_run_id_depends_on_every_field(fields, data):
    name = data.draw(st.sampled_from(sorted(fields)))
    other = {**fields, name: fields[name] + 1}
    ids = {run_id("e", fields, "f", 1), run_id("e", other, "f", 1), run_id("d", fields, "f", 1)}
    ids |= {run_id("e", fields, "g", 1), run_id("e", fields, "f", 2)}
    assert len(ids) == 5
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in ids)


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


def test_equal_numbers_of_different_types_are_one_run():
    assert run_id("e", {"rate": 1}, "f", 1) == run_id("e", {"rate": 1.0}, "f", 1)
    assert run_id("e", {"rate": np.float32(0.5)}, "f", 1) == run_id("e", {"rate": 0.5}, "f", 1)
    assert run_id("e", {"widths": (1, 2)}, "f", 1) == run_id("e", {"widths": [1, 2]}, "f", 1)


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
    assert 0 <= origin["duration_seconds"] < 5 and origin["finished_at"].endswith("+00:00")


def test_provenance_names_the_commit_and_loads_no_framework(home):
    code = (
        "import sys; from nnopt_lib.experiments.provenance import provenance; print(provenance()['commit']);"
    )
    code += "assert not {'torch', 'tensorflow', 'keras'} & set(sys.modules)"
    git = ["git", "-C", str(home), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    made = home / "chapters" / "results" / "01-try.jsonl"  # what a run writes does not count as an edit
    made.parent.mkdir(parents=True)
    for file in (home / "file", made, home / "chapters" / "01-try.ipynb"):
        file.write_text("1")

    def commit_seen() -> str:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()

    assert commit_seen() == "None"
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert commit_seen() == head
    made.write_text("2")
    (home / "chapters" / "01-try.ipynb").write_text("2")
    assert commit_seen() == head
    (home / "file").write_text("2")
    assert commit_seen() == head + "+changes"


def test_provenance_is_a_copy():
    provenance()["versions"]["python"] = "0"
    assert provenance()["versions"]["python"] != "0"


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


def test_published_rows_are_found_and_the_store_can_be_pruned(home):
    compute = Counting()
    rows = run_experiment("01-try", SETTINGS, compute)
    ids = [row["run_id"] for row in rows]
    path = store.publish("01-try", ids[:3])
    assert [json.loads(line)["run_id"] for line in path.read_text().splitlines()] == sorted(ids[:3])
    assert store.count_records() == {"01-try": (4, 3)}
    kept = record_files(home)
    assert {file.stem for file in store.prune(dry_run=True)} == set(ids[:3]) and record_files(home) == kept
    store.prune()
    assert [file.stem for file in record_files(home)] == [ids[3]]
    assert run_experiment("01-try", SETTINGS, compute) == rows
    assert compute.seeds == [0, 1, 2, 3]


def test_publishing_an_unknown_run_is_refused():
    with pytest.raises(NnoptError) as refusal:
        store.publish("01-try", ["0" * 16])
    assert str(refusal.value) == "run 0000000000000000 of 01-try must be in the store. Run its chapter again."


def test_a_damaged_published_line_is_named_and_computed_again():
    rows = run_experiment("01-try", SETTINGS, Counting())
    path = store.publish("01-try", [row["run_id"] for row in rows])
    store.prune()
    path.write_text(path.read_text().replace('"square": 4', '"square": 5'))
    compute = Counting()
    with pytest.warns(UserWarning) as told:
        assert run_experiment("01-try", SETTINGS, compute) == rows
    (line,) = [n for n, row in enumerate(sorted(rows, key=lambda row: row["run_id"]), 1) if row["seed"] == 2]
    assert str(told[0].message) == f"{path} line {line} does not match its own sha256; left out."
    assert store.damaged_lines("01-try") == [f"{path} line {line} does not match its own sha256"]
    assert compute.seeds == [2]


def other_rows(home, value=-1):
    """Put other rows under the same run ids into the local store, as another processor would."""
    for path in record_files(home):
        store.write_record(path, {**json.loads(path.read_text()), "rows": [{"square": value}]})


def test_published_rows_come_before_those_of_the_local_store(home):
    rows = run_experiment("01-try", SETTINGS, Counting())
    store.publish("01-try", [row["run_id"] for row in rows[:3]])
    other_rows(home)
    compute = Counting()
    found = run_experiment("01-try", [*SETTINGS, Settings(4)], compute)
    assert [row["square"] for row in found] == [0, 1, 4, -1, 16]  # published, then local, then computed
    assert compute.seeds == [4]


def test_recomputing_gives_the_new_rows_and_leaves_the_published_ones_to_the_next_call(home):
    rows = run_experiment("01-try", SETTINGS, Counting())
    store.publish("01-try", [row["run_id"] for row in rows])
    new = run_experiment("01-try", SETTINGS, lambda settings: {"square": -2}, recompute=True)
    assert [row["square"] for row in new] == [-2] * 4
    assert {json.loads(path.read_text())["rows"][0]["square"] for path in record_files(home)} == {-2}
    assert run_experiment("01-try", SETTINGS, Counting()) == rows


def test_publishing_keeps_what_is_published_unless_recomputed_rows_are_named(home, tmp_path):
    rows = run_experiment("01-try", SETTINGS, Counting())
    ids = [row["run_id"] for row in rows]
    path = store.publish("01-try", ids[:3])
    before = path.read_text()
    other_rows(home)
    assert store.publish("01-try", ids[:3]).read_text() == before
    store.publish("01-try", ids)  # the unknown one comes from the store
    assert [row["square"] for row in run_experiment("01-try", SETTINGS, Counting())] == [0, 1, 4, -1]
    run_experiment("01-try", SETTINGS[:2], lambda s: {"square": -5}, recompute=True, store=tmp_path / "new")
    store.publish("01-try", ids, recomputed=tmp_path / "new")
    assert [row["square"] for row in run_experiment("01-try", SETTINGS, Counting())] == [-5, -5, 4, -1]


def test_published_rows_alone_are_read_where_the_machinery_says_so(home, monkeypatch):
    rows = run_experiment("01-try", SETTINGS, Counting())
    store.publish("01-try", [row["run_id"] for row in rows[:2]])
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
    store.publish("01-try", [row["run_id"] for row in rows])
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


# Damage


def _cut(text: str) -> str:
    return text[: len(text) // 2]


def _renamed_setting(text: str) -> str:
    record = json.loads(text) | {"settings": {"seed": 77, "rate": 0.5}}
    return store._line(record)  # the seal is right, the name is not


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut, "is not a whole JSON record"),
        (lambda text: "", "is not a whole JSON record"),
        (lambda text: "[1, 2]", "is not a whole JSON record"),
        (lambda text: text.replace('"square": 1', '"square": 2'), "does not match its own sha256"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "has format 9 where 1 is read"),
        (_renamed_setting, "does not hold the result that its name promises"),
    ],
)
def test_a_damaged_record_is_named_set_aside_and_computed_again(home, damage, reason):
    rows = run_experiment("01-try", SETTINGS, Counting())
    victim = home / "build" / "store" / "01-try" / f"{rows[1]['run_id']}.json"
    damaged = damage(victim.read_text())
    assert damaged != victim.read_text()
    victim.write_text(damaged)
    compute = Counting()
    with pytest.warns(UserWarning) as told:
        assert run_experiment("01-try", SETTINGS, compute) == rows
    aside = victim.with_name(f"{victim.name}.damaged-1")
    assert str(told[0].message) == f"{victim} {reason}; set aside as {aside.name}, computed again."
    assert compute.seeds == [1] and aside.read_text() == damaged
    assert run_experiment("01-try", SETTINGS, compute) == rows and compute.seeds == [1]


@settings(deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(1, 255))
def test_any_changed_byte_of_a_record_is_noticed_or_harmless(position, byte):
    base = {"format": 1, "experiment": "e", "settings": {"seed": 1}, "data": "", "results_version": 1}
    record = {**base, "run_id": run_id("e", {"seed": 1}, "", 1), "rows": [{"y": 0.25}], "provenance": {}}
    text = store._line(record)
    spot = int(position * len(text))
    changed = text[:spot] + chr((ord(text[spot]) + byte) % 256) + text[spot + 1 :]
    read, damage = store._parse(changed, "e")
    assert damage or {key: read[key] for key in record} == record  # white space does not matter


# Killing, sharing, parallel

SWEEP = textwrap.dedent(
    """
    import dataclasses, json, os, sys, time
    from nnopt_lib.experiments.run import run_experiment

    @dataclasses.dataclass(frozen=True)
    class Settings:
        seed: int

    def compute(settings):
        time.sleep(float(sys.argv[2]))
        with open(sys.argv[1], "a") as log:
            log.write(f"{settings.seed}\\n")
        return {"square": settings.seed**2}

    open(sys.argv[1] + ".ready", "w").close()
    while not all(map(os.path.exists, sys.argv[3:])):
        time.sleep(0.002)
    print(json.dumps(run_experiment("01-try", [Settings(seed) for seed in range(20)], compute)))
    """
)


def sweep(home: Path, log: Path, seconds: float, *wait_for: Path, **environment: str) -> subprocess.Popen:
    """A sweep in a process of its own, which begins when the files in `wait_for` are there."""
    command = [sys.executable, "-c", SWEEP, str(log), str(seconds), *map(str, wait_for)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "NNOPT_HOME": str(home), **environment}
    )


def test_a_sweep_killed_ten_times_resumes_and_ends_with_the_same_rows(home):
    undisturbed, log = home / "undisturbed", home / "log"
    undisturbed.mkdir()
    expected = json.loads(sweep(undisturbed, home / "other", 0).communicate()[0])
    chance, done_before, kills_in_the_sweep = random.Random(7), set(), 0
    for _ in range(10):
        process = sweep(home, log, 0.02)
        deadline = time.monotonic() + 20
        while (
            not record_files(home)[len(done_before) :]
            and time.monotonic() < deadline
            and process.poll() is None
        ):
            time.sleep(0.002)  # the sweep has begun; kill it at a random moment from here
        time.sleep(chance.uniform(0, 0.03))
        kills_in_the_sweep += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done_before = {path.stem for path in record_files(home)}
    assert kills_in_the_sweep >= 6
    finished = sweep(home, log, 0)
    rows = json.loads(finished.communicate()[0])
    assert finished.returncode == 0 and rows == expected
    computed = log.read_text().split()
    # Logged before it is stored: a kill between the two repeats that one row, at most one per kill.
    assert set(computed) == {str(seed) for seed in range(20)}
    assert len(computed) - 20 <= 10
    assert not [path for path in record_files(home) if path.suffix == ".damaged-1"]


def test_finished_rows_are_never_computed_again_after_a_kill(home):
    log = home / "log"
    process = sweep(home, log, 0.03)
    while len(record_files(home)) < 5 and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    finished = {str(json.loads(path.read_text())["settings"]["seed"]) for path in record_files(home)}
    before = len(log.read_text().split())
    assert 5 <= len(finished) < 20
    sweep(home, log, 0).communicate()
    assert len(record_files(home)) == 20
    assert not finished & set(log.read_text().split()[before:])


def test_two_runs_on_one_store_share_the_work(home):
    logs = home / "first", home / "second"
    ready = [home / f"{log.name}.ready" for log in logs]
    runs = [sweep(home, log, 0.03, *ready) for log in logs]
    rows = [json.loads(run.communicate()[0]) for run in runs]
    computed = [log.read_text().split() if log.exists() else [] for log in logs]
    assert rows[0] == rows[1]
    assert sorted(computed[0] + computed[1], key=int) == [str(seed) for seed in range(20)]
    assert min(map(len, computed)) >= 4  # neither only waits for the other


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


# Files and folders


def test_project_root_is_the_variable_else_the_checkout_else_here(tmp_path, monkeypatch):
    assert project_root() == tmp_path
    monkeypatch.delenv("NNOPT_HOME")
    deep = tmp_path / "chapters" / "deep"
    deep.mkdir()
    monkeypatch.chdir(deep)
    assert project_root() == deep
    (tmp_path / "pyproject.toml").touch()
    assert project_root() == tmp_path
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(NnoptError) as refusal:
        project_root()
    assert (
        str(refusal.value) == f"NNOPT_HOME must name a folder that exists; received '{tmp_path / 'nowhere'}'."
    )


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_what_is_written_is_read_again(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "new" / "file"
    write_atomically(path, content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_a_full_disk_is_one_sentence_and_the_old_file_stays_whole(home):
    path = home / "file"
    write_atomically(path, "old")
    with pytest.raises(NnoptError) as refusal, small_files():
        write_atomically(path, "new" * 100)
    assert str(refusal.value) == (
        f"{path} could not be written: File too large. Free some space and run again; "
        "what was there before is untouched."
    )
    assert path.read_text() == "old" and [file.name for file in home.glob("*file*")] == ["file"]


def test_no_space_left_reads_the_same(home, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NnoptError) as refusal:
        write_atomically(home / "file", "new")
    assert str(refusal.value) == (
        f"{home / 'file'} could not be written: No space left on device. Free some space and run again; "
        "what was there before is untouched."
    )
    assert not list(home.glob("*file*"))


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
    where = (
        home
        / "build"
        / "store"
        / "01-try"
        / f"{run_id('01-try', dataclasses.asdict(SETTINGS[0]), '', 1)}.json"
    )
    assert str(refusal.value) == (
        f"{where} could not be written: Not a directory. Make that folder writable and run again; "
        "what was there before is untouched."
    )
    assert compute.seeds == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that refuses even root")
def test_a_read_only_folder_is_one_sentence():
    with pytest.raises(NnoptError) as refusal:
        write_atomically(Path("/proc/nnopt"), "x")
    assert str(refusal.value).startswith("/proc/nnopt could not be written: ")
