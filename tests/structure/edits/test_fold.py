"""Folded networks equal unfolded ones in evaluation mode, and what somebody else reads stays as it is."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.graph import insert
from nnopt_lib.structure.spec import INPUT, NetSpec, Node
from tests.edited import GRAPHS, assert_same_function, drawn_weights
from tests.networks import CLASSICS, every_operation, examples_in_keras


def norms(spec):
    return [node.name for node in spec.nodes if node.op == "batch_norm"]


@st.composite
def normed(draw):
    """A random graph with batch normalization behind some of its layers, also two in a row."""
    spec = draw(GRAPHS)
    for number in range(draw(st.integers(1, 4))):
        after = draw(st.sampled_from(spec.nodes))
        position = spec.nodes.index(after) + 1
        norm = Node(f"norm_{number}", "batch_norm", after.name, {"eps": draw(st.sampled_from([1e-5, 0.1]))})
        # All readers, or none but the next node, read the normalized value.
        moved = spec.nodes[position:] if draw(st.booleans()) else spec.nodes[position : position + 1]
        inputs = {n.name: tuple(norm.name if s == after.name else s for s in n.inputs) for n in moved}
        if moved and not any(norm.name in names for names in inputs.values()):
            continue
        spec = insert(spec, position, [norm], inputs)
    return spec


@pytest.mark.torch
@given(normed(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_folded_equals_unfolded_on_random_networks(spec, seed):
    weights = drawn_weights(spec, seed)
    kept = {name: value.copy() for name, value in weights.items()}
    folded = nnopt.fold_batchnorm(spec, weights)
    assert_same_function((spec, weights), folded)
    assert all(np.array_equal(weights[name], kept[name]) for name in kept)
    assert set(norms(folded[0])) <= set(norms(spec))
    for name in norms(folded[0]):  # each one that stayed had a reason
        source = folded[0].node(name).inputs[0]
        readers = [node.name for node in folded[0].nodes if source in node.inputs]
        assert source == INPUT or not folded[0].node(source).has_kernel or readers != [name]


@pytest.mark.keras
@given(normed())
@settings(max_examples=examples_in_keras(20), deadline=None)
def test_folded_equals_unfolded_in_keras(spec):
    weights = drawn_weights(spec)
    folded = nnopt.fold_batchnorm(spec, weights)
    assume(folded[0] != spec)
    assert_same_function((spec, weights), folded, ["keras"])


@pytest.mark.torch
@pytest.mark.parametrize("family", ["vgg", "resnet", "senet", "inception", "densenet"])
def test_families_lose_every_normalization_that_stands_behind_a_layer(family):
    widths = (6, 12) if family == "inception" else (4, 6)
    spec = getattr(nnopt, family)(1, widths, input_shape=(2, 12), outputs=3)
    weights = drawn_weights(spec)
    folded = nnopt.fold_batchnorm(spec, weights)
    assert_same_function((spec, weights), folded)
    # DenseNet normalizes in front of its convolutions, what a concatenation or several readers give.
    assert bool(norms(folded[0])) == (family == "densenet")


def test_by_hand():
    spec = CLASSICS["mlp_batch_norm"]
    weights = drawn_weights(spec)
    folded, new = nnopt.fold_batchnorm(spec, weights)
    assert norms(folded) == [] and folded.node("activation_1").inputs == ("dense_1",)
    scale, shift, mean, variance = (
        weights[f"batch_norm_1/{part}"] for part in ("scale", "shift", "mean", "variance")
    )
    factor = scale / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(new["dense_1/kernel"], weights["dense_1/kernel"] * factor[:, None], rtol=1e-6)
    old_bias = weights.get("dense_1/bias", 0)
    np.testing.assert_allclose(new["dense_1/bias"], (old_bias - mean) * factor + shift, rtol=1e-5)


def test_a_layer_that_somebody_else_reads_keeps_its_normalization():
    nodes = (
        Node("a", "dense", INPUT, {"units": 3}),
        Node("norm", "batch_norm", "a"),
        Node("sum", "add", ("a", "norm")),
    )
    spec = NetSpec((4,), nodes)
    weights = drawn_weights(spec)
    folded, new = nnopt.fold_batchnorm(spec, weights)
    assert folded == spec and all(np.array_equal(new[name], weights[name]) for name in weights)


def test_two_readers_of_the_normalization_itself_do_not_keep_it():
    nodes = (
        Node("a", "dense", INPUT, {"units": 3, "bias": False}),
        Node("norm", "batch_norm", "a"),
        Node("relu", "activation", "norm"),
        Node("sum", "add", ("norm", "relu")),
    )
    folded, new = nnopt.fold_batchnorm(NetSpec((4,), nodes), drawn_weights(NetSpec((4,), nodes)))
    assert folded.node("sum").inputs == ("a", "relu") and folded.node("a").options["bias"]
    assert set(new) == {"a/kernel", "a/bias"}


def test_one_that_is_the_output_leaves_the_layer_as_output():
    nodes = (Node("a", "dense", INPUT, {"units": 3}), Node("norm", "batch_norm", "a"))
    folded, _ = nnopt.fold_batchnorm(NetSpec((4,), nodes), drawn_weights(NetSpec((4,), nodes)))
    assert folded.output == "a"


def test_a_normalization_of_the_input_stays():
    nodes = (Node("norm", "batch_norm", INPUT), Node("a", "dense", "norm", {"units": 3}))
    spec = NetSpec((4,), nodes)
    assert nnopt.fold_batchnorm(spec, drawn_weights(spec))[0] == spec


@pytest.mark.torch
def test_a_folded_network_can_be_factorized():
    spec = every_operation()
    weights = drawn_weights(spec)
    folded = nnopt.fold_batchnorm(spec, weights)
    assert norms(folded[0]) == []
    assert_same_function(
        (spec, weights), nnopt.factorize(folded[0], "conv2d_1", rank=(6, 4), weights=folded[1])
    )


def test_weights_of_another_network_are_refused_in_one_sentence():
    spec = CLASSICS["mlp"]
    weights = drawn_weights(spec)
    del weights["dense_1/bias"]
    with pytest.raises(NnoptError) as error:
        nnopt.fold_batchnorm(spec, weights)
    assert str(error.value) == (
        "weights must have the names and shapes of the model's weights; received dense_1/bias missing for (32,)."
    )
