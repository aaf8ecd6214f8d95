"""Run ids, records that are sealed and checked, publishing, cleaning the store."""

from __future__ import annotations

import json
import math
import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.experiments import records
from nnopt_lib.experiments.records import run_id
from nnopt_lib.experiments.run import run_experiment
from nnopt_lib.files import lock
from tests.experiments.conftest import SETTINGS, Counting, other_rows, record_files
from tests.published import publish

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
    assert all(len(identity) == 16 and int(identity, 16) >= 0 for identity in ids)


def test_equal_numbers_of_different_types_are_one_run():
    assert run_id("e", {"rate": 1}, "f", 1) == run_id("e", {"rate": 1.0}, "f", 1)
    assert run_id("e", {"rate": np.float32(0.5)}, "f", 1) == run_id("e", {"rate": 0.5}, "f", 1)
    assert run_id("e", {"widths": (1, 2)}, "f", 1) == run_id("e", {"widths": [1, 2]}, "f", 1)


def test_published_rows_are_found_and_the_store_can_be_cleaned(home):
    compute = Counting()
    rows = run_experiment("01-try", SETTINGS, compute)
    ids = [row["run_id"] for row in rows]
    path = publish("01-try", ids[:3])
    assert [json.loads(line)["run_id"] for line in path.read_text().splitlines()] == sorted(ids[:3])
    assert records.count_records() == {"01-try": (4, 3)}
    kept = record_files(home)
    needless = {file.stem for file in records.clean(dry_run=True) if file.suffix == ".json"}
    assert needless == set(ids[:3]) and record_files(home) == kept
    records.clean()
    assert [file.stem for file in record_files(home)] == [ids[3]]
    assert run_experiment("01-try", SETTINGS, compute) == rows
    assert compute.seeds == [0, 1, 2, 3]


def test_publishing_an_unknown_run_is_refused():
    with pytest.raises(NnoptError) as refusal:
        publish("01-try", ["0" * 16])
    assert str(refusal.value) == "run 0000000000000000 of 01-try must be in the store. Run its chapter again."


def test_a_damaged_published_line_is_named_and_computed_again():
    rows = run_experiment("01-try", SETTINGS, Counting())
    path = publish("01-try", [row["run_id"] for row in rows])
    records.clean()
    path.write_text(path.read_text().replace('"square": 4', '"square": 5'))
    compute = Counting()
    with pytest.warns(UserWarning) as warned:
        assert run_experiment("01-try", SETTINGS, compute) == rows
    (line,) = [n for n, row in enumerate(sorted(rows, key=lambda row: row["run_id"]), 1) if row["seed"] == 2]
    assert str(warned[0].message) == f"{path} line {line} does not match its own sha256; left out."
    assert records.damaged_lines("01-try") == [f"{path} line {line} does not match its own sha256"]
    assert compute.seeds == [2]


def test_publishing_keeps_what_is_published_unless_recomputed_rows_are_named(home, tmp_path):
    rows = run_experiment("01-try", SETTINGS, Counting())
    ids = [row["run_id"] for row in rows]
    path = publish("01-try", ids[:3])
    before = path.read_text()
    other_rows(home)
    assert publish("01-try", ids[:3]).read_text() == before
    publish("01-try", ids)  # the unknown one comes from the store
    assert [row["square"] for row in run_experiment("01-try", SETTINGS, Counting())] == [0, 1, 4, -1]
    run_experiment("01-try", SETTINGS[:2], lambda s: {"square": -5}, recompute=True, store=tmp_path / "new")
    publish("01-try", ids, recomputed=tmp_path / "new")
    assert [row["square"] for row in run_experiment("01-try", SETTINGS, Counting())] == [-5, -5, 4, -1]


def _cut(text: str) -> str:
    return text[: len(text) // 2]


def _renamed_setting(text: str) -> str:
    record = json.loads(text) | {"settings": {"seed": 77, "rate": 0.5}}
    return records._line(record)  # the seal is right, the name is not


def _with(**changes):
    """A record that is sealed, as another version of the program might have written it."""
    return lambda text: records._line(json.loads(text) | changes)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut, "is not a whole JSON record"),
        (lambda text: "", "is not a whole JSON record"),
        (lambda text: "[1, 2]", "is not a whole JSON record"),
        (lambda text: text.replace('"square": 1', '"square": 2'), "does not match its own sha256"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "has format 9 where 1 is read"),
        (_renamed_setting, "does not hold the result that its name promises"),
        (_with(provenance=None), "has no provenance as this version writes it"),
        (_with(results_version="1"), "has no results_version as this version writes it"),
        (_with(rows=[1]), "has rows that are no dictionaries"),
        (_with(settings={"seed": math.nan}), "has settings that are not finite numbers"),
        (lambda text: "[" * 100_000, "is not a whole JSON record"),
    ],
)
def test_a_damaged_record_is_named_set_aside_and_computed_again(home, damage, reason):
    rows = run_experiment("01-try", SETTINGS, Counting())
    victim = home / "build" / "store" / "01-try" / f"{rows[1]['run_id']}.json"
    damaged = damage(victim.read_text())
    assert damaged != victim.read_text()
    victim.write_text(damaged)
    compute = Counting()
    with pytest.warns(UserWarning) as warned:
        assert run_experiment("01-try", SETTINGS, compute) == rows
    aside = victim.with_name(f"{victim.name}.damaged-1")
    assert str(warned[0].message) == f"{victim} {reason}; set aside as {aside.name}, computed again."
    assert compute.seeds == [1] and aside.read_text() == damaged
    assert run_experiment("01-try", SETTINGS, compute) == rows and compute.seeds == [1]


def test_a_whole_record_under_the_name_of_another_run_or_experiment_is_not_that_runs_result(home):
    rows = run_experiment("01-try", SETTINGS, Counting())
    store = home / "build" / "store"
    names = [store / "01-try" / f"{row['run_id']}.json" for row in rows]
    other = store / "01-other" / names[0].name
    names[0].replace(names[1])  # whole and sealed, and found where another run's result is looked for
    other.parent.mkdir()
    other.write_bytes(names[2].read_bytes())
    compute = Counting()
    with pytest.warns(UserWarning, match="does not hold the result that its name promises; set aside as"):
        assert run_experiment("01-try", SETTINGS, compute) == rows
    assert compute.seeds == [0, 1]
    with pytest.warns(UserWarning, match="01-other.* does not hold the result that its name promises"):
        assert records.read_record(other) is None


def test_a_published_record_of_another_experiment_is_left_out(home):
    rows = run_experiment("01-try", SETTINGS, Counting())
    path = publish("01-try", [row["run_id"] for row in rows])
    path.with_name("01-other.jsonl").write_bytes(path.read_bytes())
    assert len(records.damaged_lines("01-other")) == 4
    with pytest.warns(UserWarning, match="does not hold the result that its name promises; left out"):
        assert records.read_published("01-other") == {}


def test_a_published_record_may_hold_what_unicode_takes_for_the_end_of_a_line():
    words = "one\u2028two\u2029three\x85four\x0bfive"
    rows = run_experiment("01-try", SETTINGS[:2], lambda settings: {"words": words})
    path = publish("01-try", [row["run_id"] for row in rows])
    assert records.damaged_lines("01-try") == [] and path.read_bytes().count(b"\n") == 2
    assert {record["rows"][0]["words"] for record in records.read_published("01-try").values()} == {words}


def test_a_doubled_published_line_is_told_and_read_once():
    rows = run_experiment("01-try", SETTINGS[:2], Counting())
    path = publish("01-try", [row["run_id"] for row in rows])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[0]]))
    assert records.damaged_lines("01-try") == [f"{path} line 3 holds the same run as line 1"]
    with pytest.warns(UserWarning, match="line 3 holds the same run as line 1; left out"):
        assert len(records.read_published("01-try")) == 2


def test_every_damaged_record_of_one_name_is_kept_the_first_under_the_first_number(home):
    rows = run_experiment("01-try", SETTINGS[:1], Counting())
    victim = record_files(home)[0]
    for number in (1, 2, 3):
        victim.write_text(f"damage {number}")
        with pytest.warns(
            UserWarning, match=rf"; set aside as {victim.name}.damaged-{number}, computed again"
        ):
            assert run_experiment("01-try", SETTINGS[:1], Counting()) == rows
    aside = {path.name: path.read_text() for path in victim.parent.glob("*.damaged-*")}
    assert aside == {f"{victim.name}.damaged-{number}": f"damage {number}" for number in (1, 2, 3)}


# Cleaning the store


def aged(folder, ages):
    """Files by name, each last written so many days ago."""
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    for name, days in ages.items():
        (folder / name).write_text("")
        os.utime(folder / name, (now - days * 86_400,) * 2)
    return folder


def names_of(folder):
    return {path.name for path in folder.iterdir()}


def test_cleaning_takes_what_was_set_aside_and_what_runs_left_more_than_a_day_ago(home):
    ages = {"a.json": 400, "b.json.lock": 400, "young.tmp": 0, "day.tmp": 0.9, "old.tmp": 1.1, "older.tmp": 9}
    ages |= {"c.json.damaged-1": 0, "c.json.damaged-2": 9}
    store = aged(home / "build" / "store" / "01-try", ages)
    aged(home / "build" / "runs", {".note.json.tmp": 9, ".young.json.tmp": 0, "note.json": 9})
    gone = {"old.tmp", "older.tmp", "c.json.damaged-1", "c.json.damaged-2", "b.json.lock", ".note.json.tmp"}
    assert {path.name for path in records.clean(dry_run=True)} == gone
    assert names_of(store) == set(ages)
    assert {path.name for path in records.clean()} == gone
    assert names_of(store) == set(ages) - gone
    assert names_of(home / "build" / "runs") == {".young.json.tmp", "note.json"}
    assert records.clean() == []


def test_cleaning_by_age_takes_older_records_and_nothing_else(home):
    ages = {"a.json": 0, "b.json": 2.9, "c.json": 3.1, "d.json": 400, "e.lock": 400, "young.tmp": 0}
    store = aged(home / "build" / "store" / "01-try", ages)
    assert {path.name for path in records.clean(3)} == {"c.json", "d.json", "e.lock"}
    assert names_of(store) == {"a.json", "b.json", "young.tmp"}
    records.clean(0)
    assert names_of(store) == {"young.tmp"}


def test_cleaning_leaves_what_a_run_holds_and_nobody_gets_two_locks_of_one_name(home):
    store = aged(home / "build" / "store" / "01-try", {"held.json": 400, "free.json": 400})
    with lock(store / "held.json"), lock(store / "free.json"):
        pass
    with lock(store / "held.json"):
        assert {path.name for path in records.clean(3)} == {"free.json", "free.lock"}
        assert names_of(store) == {"held.json", "held.lock"}
        assert lock(store / "held.json", timeout=0) is None
    assert {path.name for path in records.clean(3)} == {"held.json", "held.lock"}
    assert names_of(store) == set()


def test_cleaning_beside_another_who_cleans_is_no_error(home, monkeypatch):
    store = aged(home / "build" / "store" / "01-try", {"a.json": 400, "b.json": 400, "c.json.damaged-1": 1})
    real = records._is_needless

    def look_while_another_removes(path, published, older_than_days):
        path.unlink(missing_ok=True)
        return real(path, published, older_than_days)

    monkeypatch.setattr(records, "_is_needless", look_while_another_removes)
    assert records.clean(3) == [] and names_of(store) == set()


def test_a_record_is_not_needed_only_if_its_own_experiment_has_published_it(home):
    rows = run_experiment("01-try", SETTINGS, Counting())
    ids = [row["run_id"] for row in rows]
    publish("01-try", ids[:1])
    other = aged(home / "build" / "store" / "01-other", {f"{ids[0]}.json": 0})
    assert [path.stem for path in records.clean() if path.suffix == ".json"] == ids[:1]
    assert names_of(other) == {f"{ids[0]}.json"}


@settings(deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(1, 255))
def test_any_changed_byte_of_a_record_is_noticed_or_harmless(position, byte):
    base = {"format": 1, "experiment": "e", "settings": {"seed": 1}, "data": "", "results_version": 1}
    record = {**base, "run_id": run_id("e", {"seed": 1}, "", 1), "rows": [{"y": 0.25}], "provenance": {}}
    text = records._line(record)
    spot = int(position * len(text))
    changed = text[:spot] + chr((ord(text[spot]) + byte) % 256) + text[spot + 1 :]
    read, damage = records._parse(changed, "e")
    assert damage or {key: read[key] for key in record} == record  # white space does not matter
