"""Labels of channels: what is joined, what stays and why, and that what is left of an array is an array."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnopt_lib.structure.labels import (
    NONE,
    Labels,
    Value,
    along,
    compact,
    distinct,
    spread,
    unlabeled,
    varying,
)

few = settings(max_examples=150, deadline=None)
shapes = hnp.array_shapes(min_dims=1, max_dims=3, max_side=4)


@st.composite
def arrays(draw, labels=4, shape=None):
    """Labels that change along some axes of an array; along others often with stride 0."""
    shape = draw(shapes) if shape is None else shape
    changing = draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    narrow = tuple(size if one else 1 for size, one in zip(shape, changing, strict=True))
    values = draw(hnp.arrays(np.int64, narrow, elements=st.integers(NONE, labels - 1)))
    array = np.broadcast_to(values, shape)
    return array if draw(st.booleans()) else array.copy()


def changes(array, axis):
    return bool((array != array.take([0], axis)).any())


@few
@given(arrays())
def test_compact_says_the_same_with_stride_0_where_nothing_changes(array):
    small = compact(array)
    assert np.array_equal(small, array) and small.shape == array.shape
    still = [axis for axis in range(array.ndim) if not changes(array, axis)]
    assert all(small.strides[axis] == 0 for axis in still if array.shape[axis] > 1)
    assert all(small.strides[axis] != 0 for axis in range(array.ndim) if axis not in still)
    assert varying(array) == [axis for axis in range(array.ndim) if axis not in still]
    assert distinct(small).shape == tuple(
        1 if axis in still else array.shape[axis] for axis in range(array.ndim)
    )


@few
@given(arrays(), st.integers(-3, 2))
def test_along_gives_a_row_only_if_all_rows_are_that_row(array, axis):
    axis = max(-array.ndim, min(axis, array.ndim - 1))
    rows = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
    found = along(array, axis)
    if (rows == rows[0]).all():
        assert np.array_equal(found, rows[0])
        assert np.array_equal(spread(found, axis, array.shape), array)
    else:
        assert found is None


def test_spread_labels_have_stride_0_at_all_other_places():
    for axis in (1, -2):
        array = spread(np.array([7, 8]), axis, (3, 2, 4))
        assert array.shape == (3, 2, 4) and array.strides[::2] == (0, 0)
        assert np.array_equal(array, np.array([7, 8]).reshape(1, 2, 1) * np.ones((3, 1, 4)))


def test_stride_0_costs_neither_time_nor_memory():
    labels = Labels()
    made, huge = labels.new(3), (10**6, 3, 10**6)
    array = spread(made, 1, huge)
    assert along(array, 1).tolist() == made.tolist() and varying(array) == [1]
    assert compact(array).shape == huge and Value(array).labeled
    labels.join(array, spread(other := labels.new(3), 1, huge))
    labels.fix(spread(made[:1], 2, (10**6, 10**6, 1)), "first")
    labels.join_along(spread(labels.new(2), 0, (2, 10**6, 10**6)), 0)
    labels.keep_box(array)
    number, reasons = labels.components()
    assert number[made].tolist() == number[other].tolist() and len(set(number)) == 4
    assert reasons == {number[0]: "first"}
    assert not unlabeled(huge).labeled


def closed(count, edges):
    """The connected component of each label, by its smallest label; by brute force."""
    smallest = list(range(count))
    for _ in range(count):
        for a, b in edges:
            smallest[a] = smallest[b] = min(smallest[a], smallest[b])
    return smallest


def as_sets(number):
    return {tuple(np.flatnonzero(number == one)) for one in np.unique(number)}


@few
@given(st.data())
def test_what_is_joined_leaves_together_and_what_meets_nothing_stays(data):
    labels, count, edges, met = Labels(), 6, [], []
    labels.new(count)
    for step in range(data.draw(st.integers(1, 4))):
        shape = data.draw(shapes)
        a, b = (data.draw(arrays(count, shape)) for _ in "ab")
        joined = labels.join(a, b, f"reason {step}")
        for one, other, result in zip(a.ravel(), b.ravel(), joined.ravel(), strict=True):
            assert result == (other if one == NONE else one)
            if NONE not in (one, other):
                edges.append((one, other))
            elif one != other:
                met.append((max(one, other), f"reason {step}"))
    number, reasons = labels.components()
    expected = np.array(closed(count, edges))
    assert as_sets(number) == as_sets(expected)
    first = {}
    for label, reason in met:
        first.setdefault(number[label], reason)
    assert reasons == first


def test_arrays_are_broadcast_when_they_are_joined():
    labels = Labels()
    rows, columns = labels.new(3), labels.new(2)
    joined = labels.join(rows.reshape(3, 1), columns)
    assert joined.shape == (3, 2) and len(set(labels.components()[0])) == 1


def test_of_several_reasons_the_first_stands_for_all_that_leaves_together():
    labels = Labels()
    made = labels.new(4)
    labels.fix(made[2:3], "first")
    labels.fix(made[1:3], "second")
    labels.fix(np.array([NONE]), "nothing")
    labels.join(made[:1], made[1:2])
    number, reasons = labels.components()
    assert number[0] == number[1] != number[2]
    assert reasons == {number[2]: "first", number[0]: "second"}


@few
@given(arrays(labels=5), st.data())
def test_all_along_an_axis_leaves_together(array, data):
    axis, labels = data.draw(st.integers(-array.ndim, array.ndim - 1)), Labels()
    labels.new(5)
    result = labels.join_along(array, axis)
    number, reasons = labels.components()
    assert result.shape == array.shape and not changes(result, axis)
    for line, joined in zip(
        np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]),
        np.moveaxis(result, axis, -1).reshape(-1, array.shape[axis]),
        strict=True,
    ):
        channels = line[line != NONE]
        assert len(set(number[channels])) <= 1 or set(number[channels]) <= set(reasons)
        assert (joined[0] == NONE) == (not len(channels)) and set(joined) <= set(line)
        if len(channels) and (line == NONE).any():
            assert number[channels[0]] in reasons


def is_array(left):
    """Whether the places that are left are all of some slices of one axis."""
    if left.all() or not left.any():
        return True
    lines = [np.moveaxis(left, axis, 0).reshape(left.shape[axis], -1) for axis in range(left.ndim)]
    return any((one == one[:, :1]).all() for one in lines)


@few
@given(st.lists(arrays(labels=6), min_size=1, max_size=3))
def test_what_is_left_of_every_box_is_an_array(boxes):
    labels = Labels()
    labels.new(6)
    for one in boxes:
        labels.keep_box(one)
    number, reasons = labels.components()
    free = [one for one in np.unique(number) if one not in reasons]
    for size in range(len(free) + 1):
        for gone in itertools.combinations(free, size):
            for one in boxes:
                assert is_array(~np.isin(np.where(one == NONE, NONE, number[one]), gone))


@pytest.mark.parametrize("shape", [(2, 3), (3, 2)])
def test_a_box_loses_slices_of_its_longest_axis(shape):
    labels = Labels()
    made = labels.new(6).reshape(shape)
    labels.keep_box(made)
    number, reasons = labels.components()
    lines = number[made] if shape == (3, 2) else number[made].T
    assert (lines == lines[:, :1]).all() and len(set(number)) == 3 and not reasons


def test_boxes_are_closed_after_all_joins_so_that_none_is_joined_without_need():
    labels = Labels()
    heads = labels.new(6).reshape(2, 3)
    labels.keep_box(heads)
    labels.join_along(heads, 1)  # known only later: a head leaves whole
    number, _ = labels.components()
    assert number[heads].tolist() == [[number[0]] * 3, [number[3]] * 3] and number[0] != number[3]


def test_channels_along_one_axis_need_no_box():
    labels = Labels()
    labels.keep_box(spread(labels.new(3), 1, (2, 3, 4)))
    assert len(set(labels.components()[0])) == 3
