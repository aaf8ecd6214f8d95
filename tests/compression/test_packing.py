"""Arrays packed in the smallest way, and unpacked to the last bit."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnopt_lib.checks import NnoptError
from nnopt_lib.compression.coding import encode
from nnopt_lib.compression.packing import PARTS, check_quantized, coder_of, pack, unpack
from nnopt_lib.compression.quantization import PER, SCHEMES, quantize

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=6)
# Few different numbers often, and whatever float32 has: NaN, inf, -0.0.
NUMBERS = st.sampled_from([0.0, 0.0, 0.0, 0.5, -0.1, -0.0]) | st.floats(width=32)


def bits(array):
    return array.view(np.uint32).tolist()


@pytest.mark.parametrize("coder", ["ans", "huffman", "fixed"])
@given(array=hnp.arrays(np.float32, SHAPES, elements=NUMBERS))
@settings(deadline=None)
def test_every_bit_comes_back_and_no_array_grows(coder, array):
    packed = pack(array, coder)
    assert bits(unpack(packed.kind, packed.options, packed.parts, array.shape)) == bits(array + 0)
    assert packed.nbytes <= 4 * array.size
    assert len(packed.parts) == len(PARTS[packed.kind])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("per", PER)
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_a_quantized_array_comes_back(scheme, per, data):
    array = data.draw(hnp.arrays(np.float32, SHAPES, elements=st.floats(-4, 4, width=16)))
    width = data.draw(st.integers(2, 8))
    quantized = quantize(array, bits=width, scheme=scheme, per=per, group=3)
    values = quantized.dequantize()
    packed = pack(values, "ans", quantized)
    assert packed.kind == "quantized"
    assert bits(unpack(packed.kind, packed.options, packed.parts, array.shape)) == bits(values)


def shortly(parameter):
    return None if isinstance(parameter, np.ndarray) else str(parameter)


def kinds():
    random = np.random.default_rng(0)
    dense = random.normal(size=(30, 20)).astype(np.float32)
    sparse = dense * (random.random(dense.shape) < 0.1)
    yield "whole", [32], dense
    yield "whole", [16], dense.astype(np.float16).astype(np.float32)
    yield "sparse", [32], sparse
    yield "sparse", [16], sparse.astype(np.float16).astype(np.float32)
    yield "shared", [32], np.where(sparse > 0, np.float32(0.1), np.where(sparse < 0, np.float32(-0.3), 0))
    yield "shared", [16], np.sign(sparse)


@pytest.mark.parametrize(("kind", "options", "array"), list(kinds()), ids=shortly)
def test_each_way_is_the_smallest_somewhere(kind, options, array):
    packed = pack(array, "ans")
    assert (packed.kind, packed.options) == (kind, options)
    assert bits(unpack(kind, options, packed.parts, array.shape)) == bits(array + 0)


def test_shared_weights_take_the_entropy_of_mask_and_codes():
    random = np.random.default_rng(4)
    mask = random.random((300, 200)) < 0.05
    codes = random.integers(0, 16, mask.shape)
    packed = pack(
        np.where(mask, np.linspace(-1, 1, 16, dtype=np.float16)[codes], 0).astype(np.float32), "ans"
    )
    share = mask.mean()
    of_mask = -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) * mask.size / 8
    assert packed.kind == "shared" and packed.options == [16] and len(packed.parts[2]) == 32
    assert of_mask <= len(packed.parts[0]) <= of_mask + 16
    assert mask.sum() / 2 * 0.99 <= len(packed.parts[1]) <= mask.sum() / 2 + 16


@pytest.mark.parametrize(("kind", "options", "array"), list(kinds()), ids=shortly)
def test_parts_of_another_size_are_no_array(kind, options, array):
    parts = pack(array, "ans").parts
    for number in range(len(parts)):
        for other in (parts[number][:-1], parts[number] + b"\1\1\1\1", b""):
            changed = [*parts[:number], other, *parts[number + 1 :]]
            if kind == "shared" and number == 2 and len(other) > len(parts[2]):
                continue  # a longer list, whose end nobody reads
            with pytest.raises(ValueError):
                unpack(kind, options, changed, array.shape)
    for other in ([8], ["16"], [], [16, 16], None):
        with pytest.raises((TypeError, ValueError)):
            unpack(kind, other, parts, array.shape)
    for other_kind, other_parts in (("dense", parts), (kind, parts[:-1]), (kind, [*parts, b""])):
        with pytest.raises(ValueError):
            unpack(other_kind, options, other_parts, array.shape)


def test_codes_that_no_list_has_are_no_array():
    array = next(array for kind, _, array in kinds() if kind == "shared")
    indices, codes, codebook = pack(array, "ans").parts
    with pytest.raises(ValueError, match="codes"):
        unpack("shared", [32], [indices, encode(np.full(np.count_nonzero(array), 2)), codebook], array.shape)
    quantized = quantize(array, bits=2)
    packed = pack(quantized.dequantize(), "ans", quantized)
    too_high = encode(np.full(np.count_nonzero(quantized.dequantize()), 3))
    with pytest.raises(ValueError, match="codes"):
        unpack("quantized", packed.options, [packed.parts[0], too_high, *packed.parts[2:]], array.shape)
    with pytest.raises(ValueError, match="steps"):
        unpack("quantized", packed.options, [*packed.parts[:2], b"1234" * 2, b""], array.shape)
    with pytest.raises(NnoptError):
        unpack("quantized", [99, "symmetric", "row", 64], packed.parts, array.shape)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: coder_of("fixed"), "coder must be 'ans', 'huffman' or None; received 'fixed'."),
        (lambda: coder_of(3), "coder must be 'ans', 'huffman' or None; received 3."),
        (
            lambda: check_quantized("a/kernel", np.float32([1, 2]), quantize(np.float32([1, 3]))),
            "weights of 'a/kernel' must be those that its quantization gives; received others. "
            "Write quantized.dequantize() into the model, or quantize what it has now.",
        ),
        (
            lambda: check_quantized("a/kernel", np.float32([1, 2]), 8),
            "quantized must hold what quantize gives, for 'a/kernel'; received int.",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence
    assert [coder_of(coder) for coder in ("ans", "huffman", None)] == ["ans", "huffman", "fixed"]
