"""Coders give back what they were given, near the entropy, and refuse bytes that are not theirs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib import NnoptError
from nnopt_lib.compression import streams

drawn = st.lists(st.integers(0, 6), min_size=1, max_size=200)


def counted(symbols):
    kinds, indices = np.unique(symbols, return_inverse=True)
    return indices, np.bincount(indices, minlength=len(kinds))


@settings(max_examples=100, deadline=None)
@given(drawn, st.sampled_from(["ans", "huffman"]))
def test_symbols_come_back(symbols, coder):
    indices, counts = counted(symbols)
    data, bits = streams.coded(indices, counts, coder)
    assert bits <= 8 * (len(data) + 3)  # zeros at the end of a word are left out
    assert np.array_equal(streams.decoded(data, counts, len(indices), coder), indices)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**9 - 1), max_size=50), st.integers(9, 12))
def test_numbers_of_equal_length_come_back_and_take_what_they_say(numbers, width):
    data = streams.packed(np.array(numbers, np.int64), width)
    assert len(data) == -(-len(numbers) * width // 8)
    assert streams.unpacked(data, len(numbers), width).tolist() == numbers


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=300), st.integers(0, 2**16))
def test_bits_come_back_whatever_their_chances_were(bits, seed):
    chances = np.random.default_rng(seed).uniform(0.01, 0.99, len(bits))
    bits = np.array(bits)
    assert np.array_equal(streams.decode_bits(streams.encode_bits(bits, chances), chances), bits)


def test_likely_bits_take_their_entropy():
    chances = np.full(20_000, 0.02)
    bits = np.random.default_rng(0).random(20_000) < chances
    likelihood = -np.log2(np.where(bits, chances, 1 - chances)).sum()
    assert likelihood <= 8 * len(streams.encode_bits(bits, chances)) <= likelihood + 64


def test_one_symbol_alone_takes_no_byte():
    assert streams.coded(np.zeros(9, int), np.array([9]), "ans") == (b"", 0)
    assert streams.decoded(b"", np.array([9]), 9, "ans").tolist() == [0] * 9


@pytest.mark.parametrize("coder", ["ans", "huffman"])
def test_bytes_of_other_symbols_are_refused(coder):
    indices, counts = counted([0] * 50 + [1] * 30 + [2] * 20)
    data, _ = streams.coded(indices, counts, coder)
    for wrong in (data[:-2], data + b"\x01\x02\x03\x04\x05"):
        with pytest.raises(NnoptError, match="^coded symbols must be bytes that encode wrote, all of them; "):
            streams.decoded(wrong, counts, len(indices), coder)
    with pytest.raises(NnoptError) as refusal:
        streams.decoded(b"\x01", np.array([9]), 9, coder)
    assert str(refusal.value) == (
        "coded symbols must be bytes that encode wrote, all of them; received 1 bytes behind the last symbol."
    )
