"""Factors beside NumPy's own singular values, MACs by hand, and networks whose function stays at full rank."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.models.describe import Described
from nnopt_lib.structure.edits.factorize import factors, full_rank, product
from nnopt_lib.structure.spec import INPUT, NetSpec, Node
from tests.edited import CNN, GRAPHS, GROUPED, MLP, assert_same_function, drawn_weights
from tests.networks import every_operation, examples_in_keras

SHAPES = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)),
)


def layers_of(spec):
    return [node.name for node in spec.nodes if node.has_kernel and node.groups == 1]


def given_rank(kernel_shape):
    """The full rank as `factorize` takes it."""
    rank = full_rank(kernel_shape)
    return rank if len(rank) == 2 else rank[0]


def all_factorized(spec, weights):
    shapes = spec.parameter_shapes()
    for name in layers_of(spec):
        rank = given_rank(shapes[f"{name}/kernel"])
        spec, weights = nnopt.factorize(spec, name, rank=rank, weights=weights)
    return spec, weights


def drawn_kernel(shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def relative_error(kernel, rank):
    return np.linalg.norm(kernel - product(factors(kernel, rank))) / np.linalg.norm(kernel)


def unfolded_singular_values(kernel, axis):
    return np.linalg.svd(np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1))[1].astype(float)


def lone_layer(kernel, bias=True, **moves):
    """A network of one layer with this kernel, and its weights; as wide as the kernel's window and one more."""
    outputs, inputs, *window = kernel.shape
    options = {"filters": outputs, "kernel": tuple(window), "bias": bias, **moves} if window else {}
    op = f"conv{len(window)}d" if window else "dense"
    spec = NetSpec(
        (inputs, *(size + 1 for size in window)), (Node("a", op, INPUT, options or {"units": outputs}),)
    )
    return spec, {**drawn_weights(spec), "a/kernel": kernel}


@pytest.mark.torch
@given(GRAPHS, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_full_rank_changes_no_output_of_random_networks(spec, seed):
    weights = drawn_weights(spec, seed)
    kept = {name: value.copy() for name, value in weights.items()}
    assume(layers_of(spec))
    assert_same_function((spec, weights), all_factorized(spec, weights))
    assert all(np.array_equal(weights[name], kept[name]) for name in kept)


@pytest.mark.keras
@given(GRAPHS)
@settings(max_examples=examples_in_keras(16), deadline=None)
def test_full_rank_changes_no_output_in_keras(spec):
    weights = drawn_weights(spec)
    assert_same_function((spec, weights), all_factorized(spec, weights), ["keras"])


@pytest.mark.torch
@pytest.mark.parametrize("rank", [(1, 1), (3, 2), (5, 4)])
def test_the_new_layers_compute_what_their_product_computes(rank):
    """Stride, padding, window and bias go where they belong also where the factors are not the whole kernel."""
    spec, weights = every_operation(), drawn_weights(every_operation())
    smaller = nnopt.factorize(spec, "conv2d_1", rank=rank, weights=weights)
    multiplied = product(factors(weights["conv2d_1/kernel"], rank)).astype(np.float32)
    assert relative_error(weights["conv2d_1/kernel"], rank) > 0.1
    assert_same_function((spec, {**weights, "conv2d_1/kernel": multiplied}), smaller)


def own_model(framework):
    """A strided convolution, normalization, and a dense layer behind a flatten, as a user would write them."""
    if framework == "torch":
        from torch import nn

        return nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
        )
    import keras

    layers = keras.layers
    head = [layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(3)]
    return keras.Sequential([keras.Input((6, 6, 2)), layers.Conv2D(4, 3, strides=2), *head])


@pytest.mark.parametrize(
    "framework",
    [pytest.param("torch", marks=pytest.mark.torch), pytest.param("keras", marks=pytest.mark.keras)],
)
def test_a_model_of_ones_own_is_edited_by_its_description(framework):
    model, x = own_model(framework), drawn_kernel((5, 2, 6, 6), 0)
    described = Described.of(model, x if framework == "keras" else as_tensor(x))
    spec, weights = nnopt.fold_batchnorm(described.spec, described.weights(model))
    for name in layers_of(spec):
        rank = given_rank(spec.parameter_shapes()[f"{name}/kernel"])
        spec, weights = nnopt.factorize(spec, name, rank=rank, weights=weights)
    assert [node.op for node in spec.nodes] == ["conv2d"] * 3 + ["activation", "flatten"] + ["dense"] * 2
    edited = nnopt.build(spec, framework)
    nnopt.set_weights(edited, weights)
    np.testing.assert_allclose(nnopt.predict(edited, x), nnopt.predict(model, x), atol=1e-5)


def as_tensor(x):
    import torch

    return torch.as_tensor(x)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (30, 40)])
def test_a_dense_layer_loses_what_eckart_and_young_say(shape, seed):
    kernel = drawn_kernel(shape, seed)
    values = np.linalg.svd(kernel.astype(float))[1]
    for rank in range(1, min(shape) + 1):
        lost = np.linalg.norm(kernel - product(factors(kernel, (rank,))))
        assert lost == pytest.approx(math.sqrt((values[rank:] ** 2).sum()), abs=1e-10)


@given(SHAPES, st.integers(0, 10**6), st.data())
@settings(max_examples=200, deadline=None)
def test_tucker_2_loses_at_most_the_discarded_singular_values(shape, seed, data):
    """De Lathauwer et al. 2000, property 10; and no less than the larger of the two sides alone."""
    assume(len(shape) > 2)
    kernel = drawn_kernel(shape, seed)
    rank = tuple(data.draw(st.integers(1, most)) for most in full_rank(shape))
    lost = np.linalg.norm(kernel - product(factors(kernel, rank))) ** 2
    sides = [(unfolded_singular_values(kernel, axis)[rank[axis] :] ** 2).sum() for axis in (0, 1)]
    assert max(sides) - 1e-4 <= lost <= sum(sides) + 1e-4


def test_sweeps_make_the_error_smaller_than_that_of_the_higher_order_svd():
    kernel = drawn_kernel((12, 8, 3, 3), 0)
    left = [
        np.linalg.svd(np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1))[0][:, :3]
        for axis in (0, 1)
    ]
    projected = np.einsum("oihw,or,pr,is,js->pjhw", kernel, left[0], left[0], left[1], left[1])
    once = np.linalg.norm(kernel - projected) / np.linalg.norm(kernel)
    assert relative_error(kernel, (3, 3)) < once - 0.01


def rank_of(spec):
    """The rank that a network of `lone_layer` was given."""
    channels = [node.options.get("filters", node.options.get("units")) for node in spec.nodes[:-1]]
    return tuple(channels[::-1])


def errors_of_the_higher_order_svd(kernel):
    """By rank; each from NumPy's singular vectors, one projection at a time."""
    sides = [
        np.linalg.svd(np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1))[0] for axis in (0, 1)
    ]
    errors = {}
    for out_rank in range(1, full_rank(kernel.shape)[0] + 1):
        for in_rank in range(1, full_rank(kernel.shape)[1] + 1):
            left, right = sides[0][:, :out_rank], sides[1][:, :in_rank]
            projected = np.einsum("oi...,or,pr,is,js->pj...", kernel, left, left, right, right)
            errors[out_rank, in_rank] = np.linalg.norm(kernel - projected) / np.linalg.norm(kernel)
    return errors


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 10**6), st.floats(0, 0.99))
@settings(max_examples=200, deadline=None)
def test_by_error_a_dense_layer_gets_the_smallest_rank_that_keeps_it(shape, seed, error):
    spec, weights = lone_layer(drawn_kernel(shape, seed))
    smaller, new = nnopt.factorize(spec, "a", error=error, weights=weights)
    (rank,) = rank_of(smaller)
    assert relative_error(weights["a/kernel"], (rank,)) <= error + 1e-7
    assert np.linalg.norm(weights["a/kernel"] - new["a/kernel"] @ new["a_first/kernel"]) <= (
        (error + 1e-6) * np.linalg.norm(weights["a/kernel"])
    )
    assert rank == 1 or relative_error(weights["a/kernel"], (rank - 1,)) > error


@pytest.mark.parametrize("error", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("shape", [(6, 4, 3), (3, 5, 2, 2), (5, 2, 3, 1), (7, 1, 3), (1, 5, 2, 2)])
def test_by_error_a_convolution_gets_the_rank_of_fewest_macs_that_keeps_it(shape, error):
    kernel = drawn_kernel(shape, 1)
    spec, weights = lone_layer(kernel)
    rank = rank_of(nnopt.factorize(spec, "a", error=error, weights=weights)[0])
    errors = errors_of_the_higher_order_svd(kernel)
    assert relative_error(kernel, rank) <= errors[rank] + 1e-6 <= error + 2e-6
    costs = {each: nnopt.measure.count(nnopt.factorize(spec, "a", rank=each)[0]).macs for each in errors}
    for each, lost in errors.items():
        assert lost > error or costs[each] >= costs[rank], each
    for fewer in ((rank[0] - 1, rank[1]), (rank[0], rank[1] - 1)):
        assert min(fewer) == 0 or errors[fewer] > error


def test_by_macs_a_dense_layer_gets_the_largest_rank_that_fits():
    spec, weights = lone_layer(drawn_kernel((6, 10), 0))
    for macs, rank in ((16, 1), (31, 1), (32, 2), (95, 5), (96, 6), (10**9, 6)):
        smaller, _ = nnopt.factorize(spec, "a", macs=macs, weights=weights)
        assert rank_of(smaller) == (rank,)
        assert nnopt.measure.count(smaller).macs == 16 * rank


@pytest.mark.parametrize("macs", [300, 700, 1500, 4000])
def test_by_macs_a_convolution_gets_the_rank_of_least_error_that_fits(macs):
    kernel = drawn_kernel((6, 4, 3, 2), 5)
    spec, weights = lone_layer(kernel, padding=1)
    rank = rank_of(nnopt.factorize(spec, "a", macs=macs, weights=weights)[0])
    errors = errors_of_the_higher_order_svd(kernel)
    costs = {each: nnopt.measure.count(nnopt.factorize(spec, "a", rank=each)[0]).macs for each in errors}
    assert costs[rank] <= macs
    assert errors[rank] == pytest.approx(min(lost for each, lost in errors.items() if costs[each] <= macs))


def test_macs_are_those_counted_by_hand():
    # 3 -> 2 channels on 8x8, 3x3 between 2 and 4 channels on 4x4 (stride 2, padding 1), 4 -> 16 channels on 4x4
    spec = NetSpec(
        (3, 8, 8),
        (Node("a", "conv2d", INPUT, {"filters": 16, "kernel": 3, "stride": 2, "padding": 1}),),
    )
    smaller, none = nnopt.factorize(spec, "a", rank=(4, 2))
    assert none is None
    by_hand = {"a_first": 3 * 2 * 64, "a_core": 2 * 4 * 9 * 16, "a": 4 * 16 * 16}
    assert {name: cost.macs for name, cost in nnopt.measure.count_by_node(smaller).items()} == by_hand
    weights = drawn_weights(spec)
    total = sum(by_hand.values())
    rank = rank_of(nnopt.factorize(spec, "a", macs=total, weights=weights)[0])
    assert nnopt.measure.count(nnopt.factorize(spec, "a", rank=rank)[0]).macs <= total


def test_the_new_layers_are_named_and_only_the_last_has_the_bias():
    spec = nnopt.cnn((4, 4), input_shape=(2, 8), outputs=2)
    smaller, weights = nnopt.factorize(spec, "conv1d_2", rank=(2, 3), weights=drawn_weights(spec))
    names = [node.name for node in spec.nodes]
    position = names.index("conv1d_2")
    assert [node.name for node in smaller.nodes] == [
        *names[:position],
        "conv1d_2_first",
        "conv1d_2_core",
        *names[position:],
    ]
    assert [smaller.node(f"conv1d_2{end}").options["bias"] for end in ("_first", "_core", "")] == [
        False,
        False,
        True,
    ]
    assert smaller.parameter_shapes(trainable=False) == {name: value.shape for name, value in weights.items()}
    assert {value.dtype for value in weights.values()} == {np.dtype("float32")}


def test_a_name_that_is_taken_is_not_used_twice():
    nodes = (Node("a_first", "activation", INPUT), Node("a", "dense", "a_first", {"units": 3}))
    smaller, _ = nnopt.factorize(NetSpec((4,), nodes), "a", rank=2)
    assert [node.name for node in smaller.nodes] == ["a_first", "a_first_op", "a"]


def test_both_layers_of_a_matrix_have_the_same_size():
    """Half of each singular value stands on either side."""
    first, last = factors(drawn_kernel((8, 20), 2), (4,))
    np.testing.assert_allclose((first**2).sum(1), (last**2).sum(0), rtol=1e-10)


def test_a_kernel_of_zeros_has_rank_1():
    for kernel in (np.zeros((3, 4), np.float32), np.zeros((3, 4, 2), np.float32)):
        spec, weights = lone_layer(kernel)
        assert set(rank_of(nnopt.factorize(spec, "a", error=0.0, weights=weights)[0])) == {1}


def with_nan():
    weights = drawn_weights(MLP)
    weights["dense_1/kernel"][0, 0] = np.nan
    return weights


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (
            lambda: nnopt.factorize(MLP, "dense_3", rank=3),
            "rank of 'dense_3' must be a whole number, from 1 to 2; received 3.",
        ),
        (
            lambda: nnopt.factorize(MLP, "dense_1", rank=(2, 2)),
            "rank of 'dense_1' must be a whole number, from 1 to 8; received (2, 2).",
        ),
        (
            lambda: nnopt.factorize(CNN, "conv1d_1", rank=2),
            "rank of the convolution 'conv1d_1' must be two whole numbers, of outputs and of inputs; received 2.",
        ),
        (
            lambda: nnopt.factorize(CNN, "conv1d_1", rank=(4, 1)),
            "rank of the outputs of 'conv1d_1' must be a whole number, from 1 to 3; received 4.",
        ),
        (
            lambda: nnopt.factorize(CNN, "conv1d_2", rank=(4, 5)),
            "rank of the inputs of 'conv1d_2' must be a whole number, from 1 to 4; received 5.",
        ),
        (
            lambda: nnopt.factorize(GROUPED, "b", rank=(1, 1)),
            "a convolution to factorize must have no groups; 'b'; received 2 groups.",
        ),
        (
            lambda: nnopt.factorize(MLP, "activation_1", rank=1),
            "only dense layers and convolutions can be factorized; 'activation_1'; received activation.",
        ),
        (
            lambda: nnopt.factorize(MLP, "dense1", rank=1),
            "the network has no node 'dense1'. Did you mean 'dense_1'?",
        ),
        (
            lambda: nnopt.factorize(MLP, "dense_1", rank=1, macs=9, weights=drawn_weights(MLP)),
            "factorize takes one of rank, error and macs; received rank and macs.",
        ),
        (
            lambda: nnopt.factorize(MLP, "dense_1"),
            "factorize takes one of rank, error and macs; received none.",
        ),
        (
            lambda: nnopt.factorize(MLP, "dense_1", error=0.1),
            "a rank by error is chosen from the kernel; received no weights. Pass weights, or a rank.",
        ),
        (
            lambda: nnopt.factorize(MLP, "dense_1", error=1.0, weights=drawn_weights(MLP)),
            "error must be at least 0 and below 1; received 1.",
        ),
        (
            lambda: nnopt.factorize(MLP, "dense_1", macs=15, weights=drawn_weights(MLP)),
            "macs for 'dense_1' must be at least the 16 that rank 1 needs; received 15.",
        ),
        (
            lambda: nnopt.factorize(MLP, "dense_1", rank=1, weights=with_nan()),
            "a kernel to factorize must be finite; that of 'dense_1'; received NaN or infinity.",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(edit, sentence):
    with pytest.raises(NnoptError) as error:
        edit()
    assert str(error.value) == sentence
