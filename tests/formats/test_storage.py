"""Stored weights: the same numbers, bytes counted by hand, break-even sparsities, refusals."""

import math

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.formats import break_even_sparsity, bytes_of, store
from tests.formats.kernels import cases, kept

KERNEL = np.array([[0, 2, 0, 0], [3, 0, 0, 4], [0, 0, 0, 0], [0, 5, 6, 0]], np.float32)


@settings(max_examples=1000, deadline=None)
@given(case=cases(), rows=st.integers(0, 5), seed=st.integers(0, 1000))
def test_stored_weights_are_the_weights_and_multiply_as_the_dense_do(case, rows, seed):
    kernel, format, options = case
    before = kernel.copy()
    stored = store(kernel, format, **options)
    assert np.array_equal(stored.dense(), kernel) and stored.dense().dtype == np.float32
    x = np.random.default_rng(seed).standard_normal((rows, kernel[0].size)).astype(np.float32)
    dense = x.astype(float) @ kernel.reshape(len(kernel), -1).T
    result = stored.multiply(x)
    assert result.shape == dense.shape and result.dtype == np.float32
    assert np.abs(result - dense).max(initial=0) <= 1e-5 * max(1, np.abs(dense).max(initial=0))
    assert np.array_equal(kernel, before)


@settings(max_examples=300, deadline=None)
@given(case=cases())
def test_bytes_are_those_of_the_arrays_and_of_the_formula(case):
    kernel, format, options = case
    stored = store(kernel, format, **options)
    assert stored.nbytes == sum(array.nbytes for array in stored.arrays.values())
    zeros = kernel == 0
    if format == "bsr":
        height, width = options["block"]
        tiles = zeros.reshape(len(kernel) // height, height, -1, width)
        zeros = tiles.all((1, 3))
    sparsity = zeros.mean()
    if format == "n:m":
        sparsity = max(sparsity, 1 - options["n"] / options["m"])
    if sparsity < 1:
        counted = bytes_of(kernel.shape, format, sparsity=sparsity, **options)
        assert counted == pytest.approx(stored.nbytes, rel=1e-9)


def test_arrays_and_bytes_counted_by_hand():
    csr = store(KERNEL, "csr")
    assert {name: array.tolist() for name, array in csr.arrays.items()} == {
        "values": [2, 3, 4, 5, 6],
        "columns": [1, 0, 3, 1, 2],
        "row_starts": [0, 1, 3, 3, 5],
    }
    assert csr.nbytes == 5 * 4 + 5 * 4 + 5 * 4
    # Of the four blocks of 2 x 2 the lower two and the upper two have weights; without 5 and 6 only two do.
    bsr = store(np.where(KERNEL > 4, 0, KERNEL), "bsr", block=(2, 2))
    assert {name: array.tolist() for name, array in bsr.arrays.items()} == {
        "values": [[[0, 2], [3, 0]], [[0, 0], [0, 4]]],
        "columns": [0, 1],
        "row_starts": [0, 2, 2],
    }
    assert bsr.nbytes == 2 * 4 * 4 + 2 * 4 + 3 * 4
    # 2:4, one run a row: positions (1, 0), (0, 3), (0, 1), (1, 2); a row without weights keeps the first two.
    runs = store(KERNEL, "n:m")
    assert runs.arrays["values"].tolist() == [[0, 2], [3, 4], [0, 0], [5, 6]]
    assert runs.arrays["positions"].tolist() == [0b00010011, 0b00010110]
    assert runs.nbytes == 8 * 4 + 8 * 2 // 8
    fan_in = store(KERNEL[[1, 3]], "constant_fan_in")
    assert fan_in.arrays["values"].tolist() == [[3, 4], [5, 6]]
    assert fan_in.arrays["columns"].tolist() == [[0, 3], [1, 2]]
    assert fan_in.nbytes == 4 * 4 + 4 * 4
    assert store(KERNEL, "dense").nbytes == 16 * 4
    # By 3 of 5, three bits for each position: 3 * 3 * 3 = 27 bits in 4 bytes.
    assert store(np.eye(3, 5), "n:m", n=3, m=5).nbytes == 9 * 4 + 4


def test_a_convolution_s_runs_are_those_of_masks_and_its_columns_those_of_its_matrix():
    scores = {"conv_1/kernel": np.random.default_rng(3).random((4, 8, 3, 3)) + 1}
    kernel = scores["conv_1/kernel"] * nnopt.make_masks(scores, granularity="2:4")["conv_1/kernel"]
    stored = store(kernel, "n:m")
    columns = stored.columns()
    assert columns.shape == (4, 36) and sorted(columns[0]) == np.nonzero(kernel[0].ravel())[0].tolist()
    assert np.array_equal(stored.dense(), kernel.astype(np.float32))


def test_scipy_stores_the_same():
    random = np.random.default_rng(5)
    kernel = random.standard_normal((32, 48)) * kept((32, 48), "bsr", 0.6, random, block=(4, 8))
    for format, theirs in {
        "csr": scipy.sparse.csr_array(kernel.astype(np.float32)),
        "bsr": scipy.sparse.bsr_array(kernel.astype(np.float32), blocksize=(4, 8)),
    }.items():
        ours = store(kernel, format, block=(4, 8)).arrays
        for name, array in (
            ("values", theirs.data),
            ("columns", theirs.indices),
            ("row_starts", theirs.indptr),
        ):
            assert np.array_equal(ours[name], array) and ours[name].dtype == array.dtype


def test_break_even_by_hand():
    assert break_even_sparsity((10, 20), "constant_fan_in") == 0.5
    # 10 x 20 values of 4 bytes are 800; CSR takes 8 for each kept weight and 44 for row starts.
    assert break_even_sparsity((10, 20), "csr") == pytest.approx(1 - (800 - 44) / 8 / 200)
    # 8 blocks of 5 x 5: 104 bytes each and 3 row starts.
    assert break_even_sparsity((10, 20), "bsr", block=(5, 5)) == pytest.approx(1 - (800 - 12) / 104 / 8)
    assert break_even_sparsity((10, 20), "csr", value_bytes=1, index_bytes=1) == pytest.approx(0.5275)
    assert break_even_sparsity((768, 3072), "constant_fan_in", value_bytes=2, index_bytes=4) == pytest.approx(
        2 / 3
    )
    assert break_even_sparsity((4, 1), "csr") == math.inf


@pytest.mark.parametrize("format", ["csr", "bsr", "constant_fan_in"])
@pytest.mark.parametrize("shape", [(16, 32), (64, 16, 3, 3)])
def test_at_break_even_bytes_are_equal(format, shape):
    sparsity = break_even_sparsity(shape, format)
    dense = bytes_of(shape, "dense", sparsity=0)
    assert bytes_of(shape, format, sparsity=sparsity) == pytest.approx(dense)
    assert bytes_of(shape, format, sparsity=sparsity + 0.01) < dense


def test_n_of_m_takes_as_much_at_every_sparsity():
    assert bytes_of((4, 16), "n:m", sparsity=0.5) == bytes_of((4, 16), "n:m", sparsity=0.9) == 32 * 4 + 8


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: store(KERNEL, "crs"),
            "format must be one of dense, csr, bsr, n:m, constant_fan_in; received 'crs'. Did you mean 'csr'?",
        ),
        (
            lambda: store(KERNEL[0], "csr", layer="head"),
            "weights to store must be a kernel (out, in, *spatial); received the shape (4,) in layer 'head'.",
        ),
        (
            lambda: store(np.ones((32, 24)), "bsr", layer="dense_1"),
            "blocks of 16 x 16 must tile the matrix of a kernel; received 32 x 24 in layer 'dense_1'. "
            "Choose another block, or csr.",
        ),
        (
            lambda: store(KERNEL, "bsr", block=(0, 2)),
            "block[0] must be a whole number, at least 1; received 0.",
        ),
        (
            lambda: store(KERNEL, "bsr", block=4),
            "block must be two whole numbers, its rows and columns; received 4.",
        ),
        (
            lambda: store(np.eye(3), "n:m"),
            "m = 4 must divide the inputs of a kernel; received 3 inputs. Choose another m, or csr.",
        ),
        (
            lambda: store(np.ones((2, 3, 4)), "n:m", layer="conv_1"),
            "m = 4 must divide the inputs of a kernel; received 3 inputs in layer 'conv_1'. "
            "Choose another m, or csr.",
        ),
        (
            lambda: store(KERNEL, "n:m", n=5),
            "n must be a whole number, from 1 to 4; received 5.",
        ),
        (
            lambda: store(KERNEL, "n:m", n=1, layer="dense_2"),
            "weights stored as 1:4 must be at most 1 of every 4 inputs in a row; received 2 in layer 'dense_2'. "
            "Prune them with granularity='1:4' first.",
        ),
        (
            lambda: store(KERNEL, "constant_fan_in", layer="dense_2"),
            "weights stored with constant fan-in must be as many in every row; received 0 to 2 in layer "
            "'dense_2'. Prune each row by the same number, or store them as csr.",
        ),
        (
            lambda: store(KERNEL, "csr").multiply(np.ones((2, 3))),
            "x must be of the shape (rows, 4); received (2, 3).",
        ),
        (
            lambda: store(KERNEL, "bsr", block=(2, 2)).columns(),
            "columns of single weights are stored by csr, n:m and constant_fan_in; received bsr.",
        ),
        (
            lambda: bytes_of((4, 8), "n:m", sparsity=0.3),
            "weights stored as 2:4 must have a sparsity of at least 0.5; received 0.3.",
        ),
        (
            lambda: bytes_of((4, 8), "csr", sparsity=90),
            "sparsity must be at least 0 and below 1; received 90. For 90 %, pass 0.9.",
        ),
        (
            lambda: break_even_sparsity((4, 8), "n:m"),
            "format must be one of csr, bsr, constant_fan_in; received 'n:m'.",
        ),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence
