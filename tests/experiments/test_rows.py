"""Rows are dictionaries that know their experiment: through copies, pickles, filters and joins."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.experiments.rows import Row, experiments_of

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
fields = st.dictionaries(st.text(max_size=5), scalars | st.lists(scalars, max_size=3), max_size=4)
experiments = st.sampled_from(["01-one", "01-two", "02-three"])
rows = st.builds(lambda fields, experiment: Row(fields, experiment=experiment), fields, experiments)
# Lists of rows and lists of such lists, as chapters filter, pair and join them.
nested = st.recursive(st.lists(rows, max_size=4), lambda inner: st.lists(inner | rows, max_size=3))


def flat(item):
    return [item] if isinstance(item, Row) else [row for part in item for row in flat(part)]


@given(fields, experiments)
def test_a_row_is_the_dictionary_of_its_fields(fields, experiment):
    row = Row(fields, experiment=experiment)
    assert row == fields and fields == row and list(row) == list(fields)
    assert json.dumps(row) == json.dumps(fields) and repr(row) == repr(fields)


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        Row.copy,
        *(lambda row, n=n: pickle.loads(pickle.dumps(row, n)) for n in range(2, 6)),
    ],
)
@given(row=rows)
def test_a_copy_and_a_pickle_know_the_experiment(duplicate, row):
    again = duplicate(row)
    assert type(again) is Row and again is not row
    assert again == row and again.experiment == row.experiment


def test_a_copy_is_shallow_and_a_deep_copy_is_not():
    row = Row({"counts": [1]}, experiment="01-one")
    shallow, deep = row.copy(), copy.deepcopy(row)
    row["counts"].append(2)
    assert shallow["counts"] == [1, 2] and deep["counts"] == [1]


@given(rows, fields)
def test_what_is_made_from_a_row_is_a_plain_dictionary(row, more):
    for made_from_it in (row | more, {**row, **more}, dict(row), json.loads(json.dumps(row)), more | row):
        assert type(made_from_it) is dict
        with pytest.raises(NnoptError):
            experiments_of([made_from_it])


def test_a_misspelt_attribute_is_an_error():
    row = Row({}, experiment="01-one")
    with pytest.raises(AttributeError):
        row.experimnet = "01-two"


@given(nested)
def test_experiments_are_those_of_the_rows_each_once_in_their_order(joined):
    expected = list(dict.fromkeys(row.experiment for row in flat(joined)))
    assert experiments_of(joined) == expected
    # However they come: in a tuple, as a generator, as the values of a dictionary.
    assert experiments_of(tuple(joined)) == experiments_of(part for part in joined) == expected
    assert experiments_of(dict(enumerate(joined)).values()) == expected


@given(st.lists(rows), st.data())
def test_a_filter_leaves_the_experiments_of_what_it_keeps(every_row, data):
    kept = [row for row in every_row if data.draw(st.booleans())]
    assert set(experiments_of(kept)) == {row.experiment for row in kept}


@given(rows)
def test_a_row_stands_for_itself_and_no_rows_for_no_experiment(row):
    assert experiments_of(row) == [row.experiment]
    assert experiments_of(()) == experiments_of([[], ()]) == []


RULE = "rows must be rows as run_experiment returns them, which know their experiment; received"
REMEDY = "Pass the rows themselves, or rows=() for a statement that rests on none."


@pytest.mark.parametrize(
    ("wrong", "received"),
    [
        ([{"seed": 0, "test": 0.5}], "a plain dictionary with the fields seed, test."),
        ([Row({}, experiment="01-one"), {}], "a plain dictionary with the fields none."),
        ([0.5], "a value of type float."),
        ("01-one", "a value of type str."),
        (None, "a value of type NoneType."),
    ],
)
def test_what_does_not_know_its_experiment_is_refused(wrong, received):
    with pytest.raises(NnoptError) as refusal:
        experiments_of(wrong)
    assert str(refusal.value) == f"{RULE} {received} {REMEDY}"
