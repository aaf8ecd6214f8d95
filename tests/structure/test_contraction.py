"""Channels in sums of products, against brute force: what is left gives what the masked numbers give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib.structure.contraction import contract
from nnopt_lib.structure.labels import NONE, Value, spread, unlabeled, varying
from nnopt_lib.structure.reading import Reading

SIZES = {"a": 2, "b": 3, "h": 4, "i": 2, "k": 3, "j": 5, "v": 2}
EQUATIONS = [
    *("ik,kj->ij", "aik,akj->aij", "hik,hjk->hij", "hij,hjv->hiv", "ahik,ahjk->ahij", "ihk,jhk->hij"),
    *("hij,jhv->ihv", "bhi,bh->bhi", "bh,h->bh", "ik,hk->ih", "i,j->ij", "hik,hkj->jih", "hi,hi->ih"),
    *("ij,ij->", "hij,hij->h"),
]


@st.composite
def operands(draw, labels):
    """Two arrays, each with channels along none, one or two of its axes, some of which belong to none."""
    letters, out = draw(st.sampled_from(EQUATIONS)).split("->")
    values = []
    for names in letters.split(","):
        shape = tuple(SIZES[one] for one in names)
        axes = draw(st.lists(st.integers(0, len(shape) - 1), max_size=2, unique=True))
        narrow = tuple(size if axis in axes else 1 for axis, size in enumerate(shape))
        made = labels.new(int(np.prod(narrow)))
        if not axes:
            made = np.array([NONE])
        elif draw(st.booleans()):  # some are joined, some are none
            made = made[draw(st.permutations(range(len(made))))].copy()
            made[: len(made) // 3] = made[0] if draw(st.booleans()) else NONE
        array = np.broadcast_to(made.reshape(narrow), shape)
        labels.keep_box(array)
        values.append(Value(array, draw(st.sampled_from([0.0, np.nan]))))
    return letters.split(","), out, values


def removed(array, gone):
    """What is left of an array: all slices that are not gone entirely."""
    for axis in range(array.ndim):
        rows = np.moveaxis(gone, axis, 0).reshape(gone.shape[axis], -1)
        array, gone = (part.compress(~rows.all(1), axis) for part in (array, gone))
    assert not gone.any()
    return array


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_removed_equals_masked(data):
    reading = Reading()
    letters, out, values = data.draw(operands(reading.labels))
    result = contract(reading, values, letters, out, SIZES)
    if result is None:
        return  # nothing can leave: said by examples below
    number, reasons = reading.labels.components()
    free = [one for one in np.unique(number) if one not in reasons]
    gone_nodes = data.draw(st.sets(st.sampled_from(free), max_size=len(free) - 1)) if free else set()
    random = np.random.default_rng(0)

    def gone(labels):
        return np.isin(np.where(labels == NONE, NONE, number[labels]), list(gone_nodes))

    masked, smaller = [], []
    for one, names, other in zip(values, letters, letters[::-1], strict=True):
        labels, labeled = one.labels, one.labeled
        if not labeled:  # it has a size of 1 where the other may lose something: that is not known here
            labels = labels[tuple(slice(0, 1 if name in other else None) for name in names)]
        array = random.standard_normal(labels.shape)
        if one.held == 0:
            array = np.where(gone(labels), 0.0, array)
        masked.append(array)
        smaller.append(removed(array, gone(labels)))
    if any(one.size == 0 for one in smaller):
        return  # a layer keeps at least one
    equation = f"{','.join(letters)}->{out}"
    expected = _einsum(equation, masked)
    lost = gone(np.broadcast_to(result.labels, result.shape))[tuple(slice(0, n) for n in expected.shape)]
    np.testing.assert_allclose(_einsum(equation, smaller), removed(expected, lost), atol=1e-12)
    if result.held == 0:
        assert not expected[lost].any()


def _einsum(equation, arrays):
    """As torch.einsum: a size of 1 is broadcast."""
    letters = equation.partition("->")[0].split(",")
    sizes = {}
    for names, one in zip(letters, arrays, strict=True):
        for name, size in zip(names, one.shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 0))
    full = [
        np.broadcast_to(one, [sizes[name] for name in names])
        for names, one in zip(letters, arrays, strict=True)
    ]
    return np.einsum(equation, *full)


def call(equation, *axes, held=(0.0, 0.0)):
    """The contraction of two arrays with new channels along these axes (None: without)."""
    reading = Reading()
    letters, out = equation.split("->")
    values = []
    for names, axis, one in zip(letters.split(","), axes, held, strict=True):
        shape = tuple(SIZES[name] for name in names)
        new = None if axis is None else spread(reading.labels.new(shape[axis]), axis, shape)
        values.append(unlabeled(shape) if new is None else Value(new, one))
    return reading, values, contract(reading, values, letters.split(","), out, SIZES)


@pytest.mark.parametrize(
    ("equation", "axes"),
    [
        ("ik,kj->ij", (1, None)),  # summed over, and nothing else says that they leave together
        ("ik,kj->ij", (1, 0)),
        ("ik,kj->ij", (0, 1)),  # each number would be of two channels
        ("ik,jv->ij", (0, None)),  # summed in one operand alone
        ("hij,hij->h", (1, 1)),
    ],
)
def test_what_cannot_leave(equation, axes):
    assert call(equation, *axes)[2] is None


def test_rows_of_one_operand_are_rows_of_the_result():
    reading, values, result = call("ik,kj->ji", 0, None)
    assert varying(result.labels) == [1] and result.held == 0
    assert result.labels[0].tolist() == values[0].labels[:, 0].tolist() and not reading.heads


def test_slices_of_a_shared_axis_are_heads_and_leave_whole():
    reading, letters, sizes = Reading(), ("hik", "hjk"), SIZES
    values = [Value(reading.labels.new(12).reshape(4, 1, 3) * np.ones((1, size, 1), int)) for size in (2, 5)]
    result = contract(reading, values, letters, "hij", sizes)
    number, reasons = reading.labels.components()
    assert varying(result.labels) == [0] and not reasons
    assert [sorted(set(number[one.labels].ravel())) for one in values] == [sorted(set(number))] * 2
    assert len(set(number)) == 4
    assert sorted(number[reading.heads[0]]) == sorted(np.tile(np.unique(number), len(reading.heads[0]) // 4))


def test_weights_of_attention_are_not_0_but_what_they_weigh_is():
    reading, values, result = call("hij,hjv->hiv", 0, 0, held=(np.nan, 0.0))
    number, _ = reading.labels.components()
    assert number[values[0].labels[:, 0, 0]].tolist() == number[values[1].labels[:, 0, 0]].tolist()
    assert result.held == 0 and len(reading.heads) == 1
    assert np.isnan(call("hij,hjv->hiv", 0, None, held=(np.nan, 0.0))[2].held)
