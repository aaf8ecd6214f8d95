import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.weights import initial_weights
from tests.edited import (
    GROUPED,
    MLP,
    drawn_weights,
    wide_layers,
)
from tests.networks import CLASSICS, parameter_count


def test_widen_is_net2wider_by_hand():
    """Copies stand beside their original; the reader's columns are divided by the number of copies."""
    spec = nnopt.mlp((3,), inputs=2, outputs=1)
    weights = drawn_weights(spec)
    wider, new = nnopt.widen(spec, "dense_1", 5, weights=weights, shares="equal", seed=1)
    source = np.array(
        [int(np.flatnonzero((weights["dense_1/kernel"] == row).all(1))[0]) for row in new["dense_1/kernel"]]
    )
    assert sorted(source) == list(source) and set(source) == {0, 1, 2} and len(source) == 5
    counts = np.bincount(source)
    np.testing.assert_array_equal(new["dense_1/bias"], weights["dense_1/bias"][source])
    np.testing.assert_allclose(
        new["dense_2/kernel"][0], (weights["dense_2/kernel"][0] / counts)[source], rtol=1e-6
    )
    assert wider == nnopt.mlp((5,), inputs=2, outputs=1)


def twins(kernel):
    return [(i, j) for i in range(len(kernel)) for j in range(i) if np.array_equal(kernel[i], kernel[j])]


@pytest.mark.torch
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("shares", ["equal", "drawn"])
def test_copies_part_in_training_with_drawn_shares_and_never_with_equal_ones(shares, optimizer):
    digits = nnopt.load_data("digits")
    spec = nnopt.mlp((6,), inputs=64, outputs=10)
    wider, weights = nnopt.widen(spec, "dense_1", 11, weights=initial_weights(spec, 3), shares=shares)
    assert len(twins(weights["dense_1/kernel"])) >= 5
    model = nnopt.build(wider)
    nnopt.set_weights(model, weights)
    recipe = nnopt.Training(epochs=1, learning_rate=0.01, optimizer=optimizer)
    nnopt.fit(model, digits, recipe, device="cpu")
    left = twins(nnopt.get_weights(model)["dense_1/kernel"].round(4))
    assert (left == []) if shares == "drawn" else (len(left) >= 5)


def test_widen_takes_all_coupled_layers_along():
    spec = nnopt.resnet(2, (4,), input_shape=(1, 8), outputs=3)
    wider, _ = nnopt.widen(spec, "conv1d_1", 6)
    assert {n: s[0] for n, s in wider.shapes.items() if n.startswith("add")} == {"add_1": 6, "add_2": 6}
    inner = [
        wider.shapes[name][0] for name in ("conv1d_2", "conv1d_4")
    ]  # of the branches: nothing joins them
    assert inner == [4, 4] and wider.shapes["conv1d_3"][0] == wider.shapes["conv1d_5"][0] == 6


def test_every_classic_can_be_widened():
    for spec in CLASSICS.values():
        layer = wide_layers(spec)[0]
        wider, weights = nnopt.widen(spec, layer, spec.shapes[layer][0] + 2)
        assert weights is None and parameter_count(wider) > parameter_count(spec)


@pytest.mark.torch
def test_without_preserving_the_copies_are_first_weights():
    spec = nnopt.mlp((6, 6), inputs=4, outputs=3)
    weights = drawn_weights(spec)
    wider, new = nnopt.widen(spec, "dense_1", 9, weights=weights, preserve=False, seed=8)
    fresh = initial_weights(wider, 8)
    rows = [(fresh["dense_1/kernel"][i] == new["dense_1/kernel"][i]).all() for i in range(9)]
    assert sum(rows) == 3 and np.array_equal(new["dense_3/kernel"], weights["dense_3/kernel"])
    assert np.array_equal(new["dense_2/kernel"][:, rows], fresh["dense_2/kernel"][:, rows])
    assert np.array_equal(new["dense_2/kernel"][:, ~np.array(rows)], weights["dense_2/kernel"])


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (
            lambda: nnopt.widen(MLP, "dense_1", 12, shares="uneven"),
            "shares must be one of drawn, equal; received 'uneven'.",
        ),
        (
            lambda: nnopt.widen(MLP, "dense_1", 8),
            "widen needs more than the 8 nodes that 'dense_1' has; received 8.",
        ),
        (
            lambda: nnopt.widen(MLP, "activation_1", 9),
            "only dense layers and convolutions have a width; 'activation_1'; received activation.",
        ),
        (
            lambda: nnopt.widen(MLP, "dense_3", 9),
            "the width of 'dense_3' cannot change. It is an output of the network, joined to its inputs or outputs, or "
            "read by attention or a position encoding.",
        ),
        (
            lambda: nnopt.widen(GROUPED, "b", 6),
            "the width of 'b' cannot change by single nodes: several of its channels are one node.",
        ),
        (
            lambda: nnopt.widen(MLP, "dense_1", 9, weights={}),
            "weights must have the names and shapes of the model's weights; received dense_1/kernel missing for (8, 8), "
            "dense_1/bias missing for (8,), dense_2/kernel missing for (8, 8), dense_2/bias missing for (8,), "
            "dense_3/kernel missing for (2, 8), dense_3/bias missing for (2,).",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(edit, sentence):
    with pytest.raises(NnoptError) as error:
        edit()
    assert str(error.value) == sentence
