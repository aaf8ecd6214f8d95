"""Gaps between kept weights, against a walk over the mask, one weight at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.compression.positions import gaps, mask_from_gaps


def by_walking(mask, bits):
    entries, kept, run = [], [], 0
    for keep in mask:
        if keep:
            entries.append(run)
            kept.append(True)
            run = 0
        else:
            run += 1
            if bits is not None and run == 2**bits:
                entries.append(2**bits - 1)
                kept.append(False)
                run = 0
    while kept and not kept[-1]:  # nothing is kept behind the last kept weight
        entries.pop()
        kept.pop()
    return entries, kept


@given(mask=st.lists(st.booleans() | st.just(False), max_size=200), bits=st.none() | st.integers(1, 6))
def test_gaps_equal_a_walk_and_give_the_mask_back(mask, bits):
    array = np.array(mask, bool)
    entries, kept = gaps(array, bits)
    assert (entries.tolist(), kept.tolist()) == by_walking(mask, bits)
    assert mask_from_gaps(entries, array.shape, kept).tolist() == mask


def test_the_figure_of_the_paper():
    # Weights at 1, 4 and 15 and three bits: 12, eight behind 4, is filled up (Han et al. 2016, Figure 2).
    mask = np.zeros(16, bool)
    mask[[1, 4, 15]] = True
    entries, kept = gaps(mask, 3)
    assert (entries + 1).tolist() == [2, 3, 8, 3] and kept.tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: gaps(np.array([0, 1])),
            "a mask must be a boolean array, True = keep; received type int64.",
        ),
        (
            lambda: gaps(np.array([True]), 0),
            "bits must be a whole number, from 1 to 31; received 0.",
        ),
        (
            lambda: mask_from_gaps(np.array([1, 2]), (4,)),
            "gaps must be whole numbers, at least 0, that end within 4 weights; received 2 gaps from 1 to 2.",
        ),
        (
            lambda: mask_from_gaps(np.array([-1]), (4,)),
            "gaps must be whole numbers, at least 0, that end within 4 weights; received 1 gaps from -1 to -1.",
        ),
        (
            lambda: mask_from_gaps(np.array([0.5]), (4,)),
            "gaps must be whole numbers, at least 0, that end within 4 weights; received type float64.",
        ),
    ],
)
def test_what_is_no_mask_or_leads_out_of_it_is_refused(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence
