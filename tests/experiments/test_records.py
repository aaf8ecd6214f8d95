"""Run ids, records that are sealed and checked, publishing, cleaning the store."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.experiments import records
from nnopt_lib.experiments.records import run_id
from nnopt_lib.experiments.run import run_experiment
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
    with pytest.warns(UserWarning) as warned:
        assert run_experiment("01-try", SETTINGS, compute) == rows
    aside = victim.with_name(f"{victim.name}.damaged-1")
    assert str(warned[0].message) == f"{victim} {reason}; set aside as {aside.name}, computed again."
    assert compute.seeds == [1] and aside.read_text() == damaged
    assert run_experiment("01-try", SETTINGS, compute) == rows and compute.seeds == [1]


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
