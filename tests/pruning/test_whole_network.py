"""A model's curvature, by its own gradients, against Hessians and Jacobians of autograd."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning import curvature
from nnopt_lib.pruning.masks import Masks
from nnopt_lib.pruning.whole_network import Flat, check_size, groups_of, rows_of


def flat_of(model, previous=None):
    weights = nnopt.get_weights(model)
    asked = Masks({name: np.ones(weights[name].shape, bool) for name in nnopt.prunable(model)})
    return Flat.of(model, asked, previous)


def data(inputs, examples=9, classes=3, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(examples, inputs)), random.integers(0, classes, examples)


@pytest.mark.torch
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_where_the_model_is_linear_it_is_the_hessian_of_autograd(loss):
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x, y = data(4)
    targets = torch.as_tensor(np.eye(3)[y] if loss == "mse" else y)
    criterion = nn.MSELoss() if loss == "mse" else nn.CrossEntropyLoss()

    def loss_of(kernel):
        return criterion(torch.as_tensor(x) @ kernel.T + model.bias, targets)

    hessian = torch.autograd.functional.hessian(loss_of, model.weight.detach()).reshape(12, 12).numpy()
    rows = list(rows_of(model, flat_of(model), x, loss))
    np.testing.assert_allclose(curvature.gauss_newton(rows, 12), hessian, atol=1e-12)
    np.testing.assert_allclose(curvature.diagonal(rows, 12), np.diag(hessian), atol=1e-12)


@pytest.mark.torch
def test_obd_reads_sums_of_squared_jacobians():
    """Of the mean squared error, of a network that is not linear; the Jacobian is that of `torch.func`."""
    import torch
    from torch import nn

    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    kernels = copy.deepcopy([model[0].weight, model[2].weight])
    x, _ = data(4)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    outputs = lambda p: torch.func.functional_call(model, p, torch.as_tensor(x))
    slopes = torch.func.jacrev(outputs)(parameters)
    squares = [(slopes[name] ** 2).sum(1).mean(0) for name in ("0.weight", "2.weight")]
    # 2 of the squared error, over 2 outputs, times 1/2 of the series
    costs = [(w**2 * square / 2).detach().numpy() for w, square in zip(kernels, squares, strict=True)]
    masks = nnopt.prune_one_shot(model, x, np.zeros((9, 2)), method="obd", loss="mse", sparsity=0.5)
    lowest = np.sort(np.concatenate([cost.ravel() for cost in costs]))[:15]
    assert masks.removed == 15 and masks.predicted == pytest.approx(lowest.sum(), rel=1e-9)
    for layer, mask, cost, kernel in zip((model[0], model[2]), masks.values(), costs, kernels, strict=True):
        assert np.array_equal(mask, cost > lowest[-1])
        assert np.array_equal(layer.weight.detach().numpy(), mask * kernel.detach().numpy())  # no update


@pytest.mark.torch
def test_what_was_removed_before_has_no_part_in_the_curvature():
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3).double()
    x, _ = data(4)
    kept = np.random.default_rng(0).random((3, 4)) < 0.5
    flat = flat_of(model, Masks({"kernel": kept}))
    assert np.array_equal(flat.alive, kept.ravel())
    matrix = curvature.gauss_newton(rows_of(model, flat, x, "cross_entropy"), 12)
    whole = curvature.gauss_newton(rows_of(model, flat_of(model), x, "cross_entropy"), 12)
    alive = kept.ravel()
    assert not matrix[~alive].any() and not matrix[:, ~alive].any()
    np.testing.assert_allclose(matrix[np.ix_(alive, alive)], whole[np.ix_(alive, alive)], rtol=1e-12)


@pytest.mark.torch
def test_one_vector_and_back():
    model = nnopt.build(nnopt.cnn((3,), input_shape=(2, 6, 6), outputs=4))
    flat, weights = flat_of(model), nnopt.get_weights(model)
    assert flat.size == sum(weights[name].size for name in flat.shapes)
    for name, array in flat.split(flat.w).items():
        assert np.array_equal(array, weights[name])
    assert np.array_equal(flat.join(flat.split(flat.w)), flat.w)


@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from([4, 8]), st.integers(1, 2)), min_size=1, max_size=3
    )
)
def test_groups_are_all_weights_or_layers_or_runs(shapes):
    asked = Masks({f"{i}/kernel": np.ones(shape, bool) for i, shape in enumerate(shapes)})
    sizes = [int(np.prod(shape)) for shape in shapes]
    assert np.array_equal(groups_of(asked, False, None), np.zeros(sum(sizes), int))
    assert np.array_equal(groups_of(asked, True, None), np.repeat(np.arange(len(sizes)), sizes))
    runs = groups_of(asked, False, (2, 4))
    assert np.array_equal(np.bincount(runs), np.full(sum(sizes) // 4, 4))
    first = 0
    for shape, size in zip(shapes, sizes, strict=True):
        own = runs[first : first + size].reshape(shape)
        first += size
        for begin in range(0, shape[1], 4):
            assert (own[:, begin : begin + 4] == own[:, begin : begin + 1]).all()


def test_too_many_weights_for_a_whole_inverse():
    asked = Masks({"0/kernel": np.ones((50, 100), bool), "1/kernel": np.ones((1, 1), bool)})
    with pytest.raises(NnoptError) as error:
        check_size(asked, None)
    assert str(error.value) == (
        "method 'obs' inverts the curvature of all weights and takes at most 5,000; received 5,001. "
        "Pass method='woodfisher', or fewer layers by names=."
    )
    check_size(asked, Masks({name: ~mask if name == "1/kernel" else mask for name, mask in asked.items()}))
