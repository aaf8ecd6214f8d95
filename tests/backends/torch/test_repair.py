"""What data say of nodes: importance, recalibrated statistics, refitted layers."""

import copy

import numpy as np
import pytest

pytestmark = pytest.mark.torch

import torch  # noqa: E402
from hypothesis import assume, given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from nnopt_lib.structure.coupling import couple  # noqa: E402
from nnopt_lib.structure.spec import INPUT, NetSpec, Node  # noqa: E402
from tests.networks import architectures  # noqa: E402
from tests.pruned import examples, normalized, randomized, some_graphs  # noqa: E402

# Importance


# Batch normalization


def test_recalibration_is_pytorchs_own():
    spec, model = normalized("torch")
    x, _ = examples(spec, 12)
    by_pytorch = copy.deepcopy(model)
    torch.optim.swa_utils.update_bn(list(torch.tensor(x).split(4)), by_pytorch)
    nnopt.recalibrate_batchnorm(model, x, batch_size=4, device="cpu")
    for name, value in nnopt.get_weights(by_pytorch).items():
        np.testing.assert_allclose(nnopt.get_weights(model)[name], value, rtol=1e-5, atol=1e-6)
    assert not model.training or model.batch_norm_1.momentum == spec.nodes[1].options["momentum"]


# Least squares


@some_graphs
@given(architectures(), st.integers(0, 99), st.floats(0.2, 0.8))
def test_no_layer_is_worse_after_the_refit_and_zeros_stay(spec, seed, sparsity):
    assume(couple(spec).size)
    original = randomized(spec, "torch", seed)
    model, (x, _), whole = copy.deepcopy(original), examples(spec, 30, seed), nnopt.get_weights(original)
    masks = nnopt.prune(model, sparsity=sparsity, granularity="node")
    for before, after in nnopt.reconstruct(model, masks, whole, x, device="cpu").values():
        assert after <= before * (1 + 1e-4) + 1e-9
    weights = nnopt.get_weights(model)
    assert all((weights[name][~mask] == 0).all() for name, mask in masks.weights.items())


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_what_the_rest_can_say_is_said_exactly(rank):
    """The second half of the nodes repeats the first, so removing it need not change any output."""
    shape, op = (3, 8, 9)[: rank + 1], ("dense", "conv1d", "conv2d")[rank]
    size = {"units": 8} if rank == 0 else {"filters": 8, "kernel": (3, 2)[:rank], "stride": (1, 2)[:rank]}
    reads = {"units": 4} if rank == 0 else {"filters": 4, "kernel": (2, 3)[:rank], "padding": (1, 0)[:rank]}
    nodes = [
        Node("twice", op, INPUT, size),
        Node("relu", "activation", "twice"),
        Node("reads", op, "relu", reads),
    ]
    nodes += [] if rank == 0 else [Node("flat", "flatten", "reads")]
    nodes += [Node("head", "dense", nodes[-1].name, {"units": 2})]
    original = randomized(NetSpec(shape, tuple(nodes)), "torch", 5)
    weights = nnopt.get_weights(original)
    for part in ("kernel", "bias"):
        weights[f"twice/{part}"][4:] = weights[f"twice/{part}"][:4]
    nnopt.set_weights(original, weights)
    model, (x, _) = copy.deepcopy(original), examples(original.spec, 40)
    half = np.arange(8) < 4
    rest = {"reads": np.ones(4, bool)}
    masks = nnopt.prune(
        model, sparsity=4 / 12, granularity="node", score={"twice": half * 1.0, "reads": rest["reads"] * 2.0}
    )
    assert list(masks["twice"]) == list(half)
    before = np.abs(nnopt.predict(model, x) - nnopt.predict(original, x)).max()
    errors = nnopt.reconstruct(model, masks, nnopt.get_weights(original), x, device="cpu")
    assert list(errors) == ["reads"] and before > 0.1
    np.testing.assert_allclose(nnopt.predict(model, x), nnopt.predict(original, x), atol=1e-4)


def test_the_refit_is_numpys_least_squares():
    spec = nnopt.mlp((6,), inputs=4, outputs=3)
    original = randomized(spec, "torch", 6)
    model, (x, _) = copy.deepcopy(original), examples(spec, 50)
    masks = nnopt.prune(model, sparsity=0.5, granularity="node")
    nnopt.reconstruct(model, masks, nnopt.get_weights(original), x, device="cpu")
    hidden = torch.relu(original.dense_1(torch.tensor(x))).detach().double().numpy()[:, masks["dense_1"]]
    columns = np.column_stack([hidden, np.ones(len(x))])
    best = np.linalg.lstsq(columns, nnopt.predict(original, x), rcond=None)[0]
    kernel = model.dense_2.weight.detach().numpy()[:, masks["dense_1"]]
    np.testing.assert_allclose(kernel, best[:-1].T, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.dense_2.bias.detach().numpy(), best[-1], rtol=1e-3, atol=1e-4)
