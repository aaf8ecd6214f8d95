"""Importance by data: the oracle, Taylor, APoZ, against their definitions."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import assume, given
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.node_masks import weight_masks
from nnopt_lib.structure.coupling import couple
from tests.networks import architectures
from tests.pruned import examples, randomized, some_graphs
from tests.torch_architectures import TORCH, drawn

pytestmark = pytest.mark.torch


def by_node(coupling, by_layer):
    """One number per node from importance by layer; all channels of a node must agree."""
    numbers = {}
    for layer, values in by_layer.items():
        for node, value in zip(coupling.nodes[layer], values, strict=True):
            assert np.isnan(value) if node < 0 else numbers.setdefault(node, value) == value
    return np.array([numbers[node] for node in range(coupling.size)])


def loss_of(model, x, y):
    return nnopt.evaluate(model, x, y)["loss"]


@some_graphs
@given(architectures(), st.integers(0, 99))
def test_the_oracle_is_the_loss_of_the_masked_network(spec, seed):
    coupling, model = couple(spec), randomized(spec, "torch", seed)
    assume(coupling.size)
    x, y = examples(spec, seed=seed)
    by_layer = by_node(coupling, nnopt.importance(model, "oracle", x, y, device="cpu"))
    for node in range(coupling.size):
        kept = np.arange(coupling.size) != node
        masked = copy.deepcopy(model)
        weights = nnopt.get_weights(masked)
        weights |= {name: weights[name] * mask for name, mask in weight_masks(coupling, kept).items()}
        nnopt.set_weights(masked, weights)
        rise = loss_of(masked, x, y) - loss_of(model, x, y)
        assert by_layer[node] == pytest.approx(rise, abs=2e-5)


def test_taylor_is_the_gradient_times_the_weight_of_each_example():
    spec = nnopt.mlp((5, 4), inputs=3, outputs=3, activation="gelu", batch_norm=True)
    model, (x, y) = randomized(spec, "torch", 1).eval(), examples(spec)
    by_hand = {}
    for image, label in zip(torch.tensor(x), torch.tensor(y), strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        for layer, norm in (("dense_1", model.batch_norm_1), ("dense_2", model.batch_norm_2)):
            change = norm.weight * norm.weight.grad + norm.bias * norm.bias.grad
            by_hand.setdefault(layer, []).append(change.detach().abs().numpy())
    by_layer = nnopt.importance(model, "taylor", x, y, device="cpu")
    assert list(by_layer) == ["dense_1", "dense_2"]
    for layer, changes in by_hand.items():
        np.testing.assert_allclose(by_layer[layer], np.mean(changes, 0), rtol=1e-4, atol=1e-7)


def test_taylor_of_coupled_nodes_is_one_gate_for_all_their_layers():
    spec = nnopt.mnist1d_mlp()
    model, (x, y) = randomized(spec, "torch", 2).eval(), examples(spec)
    by_hand = []
    for image, label in zip(torch.tensor(x), torch.tensor(y), strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        layers = (model.dense_1, model.dense_2)
        change = sum((m.weight * m.weight.grad).sum(1) + m.bias * m.bias.grad for m in layers)
        by_hand.append(change.detach().abs().numpy())
    by_layer = nnopt.importance(model, "taylor", x, y, device="cpu")
    np.testing.assert_allclose(by_layer["dense_1"], np.mean(by_hand, 0), rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(by_layer["dense_1"], by_layer["dense_2"])


def test_apoz_counts_what_relu_lets_through():
    spec = nnopt.cnn((3,), input_shape=(2, 6, 6), outputs=2, pool=1)
    model, (x, _) = randomized(spec, "torch", 3), examples(spec)
    conv = model.conv2d_1
    with torch.no_grad():
        through = F.conv2d(torch.tensor(x), conv.weight, conv.bias, padding=1) > 0
    by_layer = nnopt.importance(model, "apoz", x, device="cpu")
    np.testing.assert_allclose(by_layer["conv2d_1"], through.float().mean((0, 2, 3)).numpy(), rtol=1e-6)
    bare = nnopt.build(nnopt.mlp((3, 3), inputs=2, outputs=2, activation="tanh"))
    with pytest.raises(NnoptError) as error:
        nnopt.importance(bare, "apoz", np.zeros((2, 2), np.float32))
    assert str(error.value) == (
        "score 'apoz' needs a relu behind every node to prune; received none after layer 'dense_1'."
    )


@pytest.mark.parametrize("name", TORCH)
def test_importance_of_ones_own_modules_is_a_score_for_prune(name):
    model = drawn(TORCH[name]())
    first = next(model.parameters())
    x = np.random.default_rng(0).standard_normal((4, 3, 16, 16), np.float32)
    before = first.detach().clone()
    by_layer = nnopt.importance(model, "taylor", x, np.arange(4), device="cpu")
    assert torch.equal(before, first)
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", score=by_layer, example_input=x)
    order = np.concatenate([by_layer[layer][~masks[layer] & ~np.isnan(by_layer[layer])] for layer in masks])
    stays = np.concatenate([by_layer[layer][masks[layer] & ~np.isnan(by_layer[layer])] for layer in masks])
    assert len(order) and np.median(order) < np.median(stays)
    weights = nnopt.importance(model, "l1", x)
    assert weights.keys() == by_layer.keys()


@pytest.mark.keras
def test_keras_models_have_the_importance_of_their_torch_twins():
    from tests.keras_architectures import KERAS
    from tests.keras_architectures import drawn as keras_drawn

    model = keras_drawn(KERAS["lenet"]())  # flattens channels last: its dense layer reads in another order
    x, y = np.random.default_rng(0).standard_normal((4, 3, 16, 16), np.float32), np.arange(4)
    weights = nnopt.get_weights(model)
    by_layer = nnopt.importance(model, "oracle", x, y, device="cpu")
    layer = next(iter(by_layer))
    one = {name: np.ones(len(values), bool) for name, values in by_layer.items()}
    one[layer][0] = False
    small = nnopt.remove_nodes(model, nnopt.Masks(one))
    rise = loss_of(small, x, y) - loss_of(model, x, y)
    assert by_layer[layer][0] == pytest.approx(rise, abs=2e-5)
    assert all((weights[name] == value).all() for name, value in nnopt.get_weights(model).items())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tailor",), "score must be one of l1, l2, bn_scale, geometric_median, random, apoz, taylor, oracle; "
         "received 'tailor'. Did you mean 'taylor'?"),
        (("oracle",), "score 'oracle' needs examples x; received none."),
        (("taylor", np.zeros((2, 4), np.float32)), "score 'taylor' needs a label y for each of 2 examples; "
         "received none."),
        (("taylor", np.zeros((2, 4), np.float32), np.zeros(3, int)), "score 'taylor' needs a label y for each "
         "of 2 examples; received 3."),
    ],
)  # fmt: skip
def test_importance_without_what_it_needs_is_refused(arguments, sentence):
    with pytest.raises(NnoptError) as error:
        nnopt.importance(nnopt.build(nnopt.mlp((3,), inputs=4, outputs=2)), *arguments)
    assert str(error.value) == sentence
