"""Coding: what comes back, how long it is beside the entropy and beside Huffman's own procedure."""

import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.compression.coding import CODERS, bits_per_symbol, decode, encode, entropy

SMALL = st.lists(st.integers(0, 40), max_size=400)
ANY = st.lists(st.integers(0, 2**31 - 1), max_size=60)
WHOLE = "coded symbols must be bytes that encode wrote, all of them; received "


def huffman_bits(symbols):
    """Bits of all symbols by Huffman's procedure: the two rarest are joined, and each join costs their sum."""
    counts = [symbols.count(each) for each in set(symbols)]
    heapq.heapify(counts)
    total = 0
    while len(counts) > 1:
        joined = heapq.heappop(counts) + heapq.heappop(counts)
        total += joined
        heapq.heappush(counts, joined)
    return total


@pytest.mark.parametrize("coder", CODERS)
@given(symbols=SMALL | ANY)
@settings(deadline=None, max_examples=150)
def test_what_is_decoded_is_what_was_encoded(coder, symbols):
    data = encode(np.array(symbols, np.int64), coder)
    assert decode(data).tolist() == symbols == decode(data, len(symbols)).tolist()


@given(symbols=st.lists(st.integers(0, 12), min_size=1, max_size=600))
@settings(deadline=None, max_examples=200)
def test_huffman_is_as_long_as_by_hand_and_within_a_bit_of_the_entropy(symbols):
    array = np.array(symbols)
    bits = bits_per_symbol(array, "huffman")
    assert bits * len(symbols) == pytest.approx(huffman_bits(symbols))
    assert entropy(array) - 1e-9 <= bits < entropy(array) + 1
    # In bytes: the coder, at most 2 for the number of symbols, 4 for each symbol; then the code.
    assert len(encode(array, "huffman")) <= 3 + 4 * 13 + huffman_bits(symbols) / 8 + 1


@given(symbols=st.lists(st.integers(0, 12), min_size=1, max_size=600))
@settings(deadline=None, max_examples=200)
def test_ans_is_as_long_as_the_entropy_and_four_bytes(symbols):
    array = np.array(symbols)
    bits = bits_per_symbol(array) * len(symbols)
    assert entropy(array) * len(symbols) - 1 <= bits <= entropy(array) * len(symbols) + 32
    assert len(encode(array)) <= 3 + 4 * 13 + bits / 8 + 1


def test_entropy_equals_the_formula():
    for counts in ([1], [3, 3], [1, 2, 4, 8], [1000, 1]):
        symbols = np.repeat(np.arange(len(counts)) * 7, counts)
        by_formula = -sum(n / len(symbols) * np.log2(n / len(symbols)) for n in counts)
        assert entropy(symbols) == pytest.approx(by_formula, abs=1e-12)
    assert entropy(np.array([], int)) == 0 == bits_per_symbol(np.array([], int))


def test_many_symbols_cost_their_entropy_by_ans_and_more_by_huffman():
    random = np.random.default_rng(0)
    symbols = np.clip(np.round(random.laplace(0, 2, 200_000)) + 16, 0, 31).astype(int)
    by_entropy = entropy(symbols)
    assert by_entropy < bits_per_symbol(symbols, "ans") < by_entropy + 0.001
    assert by_entropy + 0.001 < bits_per_symbol(symbols, "huffman") < by_entropy + 0.1
    assert bits_per_symbol(symbols, "fixed") == 5
    lengths = {coder: len(encode(symbols, coder)) for coder in CODERS}
    assert lengths["ans"] < lengths["huffman"] < lengths["fixed"] == 5 * 200_000 / 8 + 5


def test_one_kind_of_symbol_needs_no_code_and_listed_symbols_need_no_zeros_between_them():
    assert len(encode(np.full(1_000_000, 3))) <= 6
    assert len(encode(np.array([0, 2**31 - 1]))) < 16


def mutated(data):
    yield from (data[:cut] for cut in range(len(data)))
    yield data + b"\1"
    for spot, byte in itertools.product(range(len(data)), (0, 1, 127, 128, 255)):
        yield data[:spot] + bytes([byte]) + data[spot + 1 :]


@pytest.mark.parametrize("coder", CODERS)
def test_bytes_that_are_not_whole_are_refused_or_give_as_many_symbols(coder):
    symbols = np.random.default_rng(3).geometric(0.3, 90)
    data, refused = encode(symbols, coder), 0
    for other in mutated(data):
        try:
            assert len(decode(other, 90)) == 90
        except NnoptError as error:
            refused += 1
            assert str(error).startswith((WHOLE, "coded symbols must be 90; received ")), error
    assert refused > len(data)  # at least what was cut off


@pytest.mark.parametrize("coder", CODERS)
def test_bytes_behind_the_last_symbol_are_refused(coder):
    data = encode(np.random.default_rng(4).geometric(0.3, 500), coder)
    for more in (b"\1\1\1\1", b"\1" * 8):
        with pytest.raises(NnoptError) as error:
            decode(data + more)
        assert str(error.value).startswith(WHOLE)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: decode(b""), WHOLE + "none."),
        (lambda: decode(b"\x07abc"), WHOLE + "first byte 7."),
        (lambda: decode(encode(np.arange(9)), 8), "coded symbols must be 8; received bytes that say 9."),
        (
            # One symbol, 0, that occurs 2**31 - 1 times, in seven bytes: nothing of that size is made.
            lambda: decode(b"\x00\x01\x00\xfe\xff\xff\xff\x07", 5),
            "coded symbols must be 5; received bytes that say 2147483647.",
        ),
        (
            lambda: decode(b"\x02\x03" + b"\x09" + b"abc"),
            WHOLE + "3 for 9 symbols of 3 bits.",
        ),
        (lambda: decode(b"\x00\x7f"), WHOLE + "0 for a table of 254 numbers."),
        (lambda: decode(b"\x00\xff\xff\xff\xff\xff\x01"), WHOLE + "a number above 2**31 - 1."),
        (lambda: decode(encode(np.full(4, 2)) + b"a"), WHOLE + "1 bytes behind the last symbol."),
        (
            lambda: encode(np.array([0.5])),
            "symbols must be a flat array of whole numbers; received float64 of shape (1,).",
        ),
        (lambda: encode(np.array([-1, 4])), "symbols must be from 0 to 2147483647; received -1 to 4."),
        (
            lambda: encode(np.array([1]), "hufman"),
            "coder must be one of ans, huffman, fixed; received 'hufman'. Did you mean 'huffman'?",
        ),
    ],
)
def test_what_cannot_be_coded_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence


def test_too_many_kinds_of_symbols_are_refused(monkeypatch):
    monkeypatch.setattr("nnopt_lib.compression.streams.KINDS", 3)
    with pytest.raises(NnoptError) as error:
        encode(np.arange(4))
    assert str(error.value) == "ans codes at most 3 different symbols; received 4. Pass coder='fixed'."
    assert decode(encode(np.arange(4), "fixed")).tolist() == [0, 1, 2, 3]
