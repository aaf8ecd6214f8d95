"""Gaps between kept weights, against a walk over the mask, one weight at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnopt_lib.checks import NnoptError
from nnopt_lib.compression.coding import encode, entropy
from nnopt_lib.compression.positions import _chances, decode_mask, encode_mask, gaps, mask_from_gaps
from nnopt_lib.compression.streams import encode_bits


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


@given(
    mask=hnp.arrays(bool, hnp.array_shapes(min_dims=1, max_dims=4, max_side=7)),
    coder=st.sampled_from(["ans", "huffman", "fixed"]),
)
@settings(deadline=None)
def test_a_mask_comes_back_and_takes_no_more_than_a_bit_a_weight(mask, coder):
    data = encode_mask(mask, coder)
    assert np.array_equal(decode_mask(data, mask.shape), mask)
    assert len(data) <= 1 + (mask.size + 7) // 8


def masks_of_every_way():
    random = np.random.default_rng(1)
    columns = np.repeat([0.4, 0.001], 300)
    yield "bits", random.random((7, 11)) < 0.5
    yield "gaps", np.arange(3000).reshape(30, 100) % 41 == 3
    yield "density", random.random((40, 30, 3, 3)) < 0.03
    yield "margins", random.random((400, 600)) < columns


MASKS = dict(masks_of_every_way())


@pytest.mark.parametrize("way", MASKS)
def test_each_way_is_the_shortest_somewhere_and_gives_the_mask_back(way):
    mask = MASKS[way]
    data = encode_mask(mask)
    assert ["bits", "gaps", "density", "margins"][data[0]] == way
    assert np.array_equal(decode_mask(data, mask.shape), mask)
    if way == "density":
        assert len(data) <= entropy(mask.ravel()) * mask.size / 8 + 10
    if way == "margins":
        assert len(data) < 0.8 * len(encode(mask.ravel()))


@pytest.mark.parametrize("way", MASKS)
def test_bytes_that_are_not_whole_are_refused_or_give_a_mask_of_the_shape(way):
    mask = MASKS[way]
    data, random, refused = encode_mask(mask), np.random.default_rng(2), 0
    for number in range(150):
        spot = int(random.integers(len(data)))
        changed = data[:spot] + bytes([int(random.integers(256))]) + data[spot + 1 :]
        try:
            assert decode_mask(data[:spot] if number % 3 == 0 else changed, mask.shape).shape == mask.shape
        except NnoptError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= 50  # what was cut off, at least


def test_rows_and_columns_that_keep_other_numbers_than_said_are_refused():
    mask, (rows, columns) = MASKS["margins"], (MASKS["margins"].sum(axis) for axis in (1, 0))
    other = encode_bits(np.roll(mask, 1, axis=1).ravel(), _chances(rows, columns))
    whole = encode_mask(mask)
    end = len(whole) - len(encode_bits(mask.ravel(), _chances(rows, columns)))
    assert np.array_equal(decode_mask(whole, mask.shape), mask)
    with pytest.raises(NnoptError) as error:
        decode_mask(whole[:end] + other, mask.shape)
    assert str(error.value) == (
        "a coded mask must be bytes that encode_mask wrote for (400, 600); received rows and columns with other "
        "counts."
    )


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "none"),
        (b"\x04", "first byte 4"),
        (b"\x00a", "1 bytes"),
        (b"\x01\x0d", "13 kept weights"),
        (b"\x02" + encode(np.arange(12)), "symbols up to 11"),
    ],
)
def test_a_coded_mask_that_does_not_fit_is_refused(data, sentence):
    with pytest.raises(NnoptError) as error:
        decode_mask(data, (3, 4))
    rule = "a coded mask must be bytes that encode_mask wrote for (3, 4); received "
    assert str(error.value) == f"{rule}{sentence}."


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
