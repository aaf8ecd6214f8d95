"""Kernels of stored matrices: both on every format they take, and which one is chosen."""

import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.formats import convert, store
from tests.formats.kernels import kept

pytestmark = pytest.mark.torch


def matrix(format, kernel="auto", shape=(12, 16), sparsity=0.5, **options):
    from nnopt_lib.backends.torch.sparse import SparseMatrix

    random = np.random.default_rng(0)
    weights = random.standard_normal(shape) * kept(shape, format, sparsity, random, **options)
    return SparseMatrix(store(weights, format, **options), kernel), weights.astype(np.float32)


@pytest.mark.parametrize("columns", [1, 2, 31, 32, 64, 65, 200])
@pytest.mark.parametrize("kernel", ["matmul", "gather"])
@pytest.mark.parametrize("format", ["csr", "n:m", "constant_fan_in"])
def test_both_kernels_at_all_widths(format, kernel, columns):
    import torch

    stored, weights = matrix(format, kernel)
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((16, columns)).astype(np.float32))
    product = stored(x)
    assert product.shape == (12, columns)
    np.testing.assert_allclose(product, weights @ x.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "columns", "gathers"),
    [("auto", 31, 0), ("auto", 32, 1), ("auto", 150, 3), ("matmul", 150, 0), ("gather", 31, 1)],
)
def test_gather_is_chosen_from_32_columns_on_and_takes_64_at_a_time(monkeypatch, kernel, columns, gathers):
    import torch
    import torch.nn.functional as F  # noqa: N812

    calls, bag = [], F.embedding_bag
    monkeypatch.setattr(F, "embedding_bag", lambda *a, **k: calls.append(a[1].shape[1]) or bag(*a, **k))
    matrix("constant_fan_in", kernel)[0](torch.ones(16, columns))
    assert len(calls) == gathers and all(width <= 64 for width in calls)


@pytest.mark.parametrize("columns", [1, 7])
@pytest.mark.parametrize("block", [(4, 4), (3, 2)])
@pytest.mark.parametrize("sparsity", [0.5, 1.0])
def test_blocks(block, columns, sparsity):
    import torch

    stored, weights = matrix("bsr", block=block, sparsity=sparsity)
    x = torch.randn(16, columns)
    np.testing.assert_allclose(stored(x), weights @ x.numpy(), atol=1e-5)


@pytest.mark.parametrize("format", ["csr", "bsr", "n:m", "constant_fan_in"])
def test_state_of_columns_that_do_not_exist_is_refused_not_read(format):
    import torch

    options = {"block": (4, 4)} if format == "bsr" else {"n": 2, "m": 5} if format == "n:m" else {}
    stored, _ = matrix(format, shape=(12, 20), **options)
    state = stored.state_dict()
    name = "positions" if format == "n:m" else "columns"
    state[name] = torch.full_like(state[name], 255 if format == "n:m" else 20)
    with pytest.raises(NnoptError) as error:
        stored.load_state_dict(state)
    assert str(error.value) == {
        "n:m": "positions of weights stored as 2:5 must be below 5; received 7.",
    }.get(format, "stored columns must be inputs of the layer, row after row; received others.")
    if format in ("csr", "bsr"):
        stored, _ = matrix(format, shape=(12, 20), **options)
        state = stored.state_dict()
        state["row_starts"] = state["row_starts"].clone()
        state["row_starts"][1] = state["row_starts"][-1] + 1  # behind the last, then back
        with pytest.raises(NnoptError, match="row after row"):
            stored.load_state_dict(state)


def test_inputs_get_their_gradient_and_weights_none():
    import torch

    for columns in (1, 2, 40):
        for format in ("csr", "constant_fan_in"):
            layer = torch.nn.Linear(16, 12)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(matrix(format)[1]))
            x = torch.randn(columns, 16, requires_grad=True)
            convert(layer, format)(x).square().sum().backward()
            ours, x.grad = x.grad, None
            layer(x).square().sum().backward()
            torch.testing.assert_close(ours, x.grad, atol=1e-4, rtol=1e-4)


def test_device_mode_and_print():
    import torch

    layer = convert(torch.nn.Sequential(torch.nn.Linear(16, 12)).eval(), "csr")
    assert not layer[0].training and not layer[0].matrix.training
    assert repr(layer[0].matrix) == "SparseMatrix(12 x 16, csr)"
    half = layer.double()
    assert half(torch.randn(3, 16, dtype=torch.float64)).dtype == torch.float64
