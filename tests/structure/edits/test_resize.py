"""One walk resizes channels; what removal asks of it is counted here by the coupling itself."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nnopt_lib.structure.coupling import couple
from nnopt_lib.structure.edits.resize import resize
from nnopt_lib.structure.spec import split_name
from tests.edited import GRAPHS, GROUPED, drawn_weights


@given(GRAPHS, st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_with_no_or_one_copy_exactly_the_channels_of_kept_nodes_stay(spec, seed):
    coupling, weights = couple(spec), drawn_weights(spec)
    assume(coupling.size)
    kept = np.random.default_rng(seed).random(coupling.size) < 0.6
    for layer in coupling.layers:  # none may be left empty
        numbers = coupling.nodes[layer][coupling.nodes[layer] >= 0]
        kept[numbers[0]] = True
    resized = resize(coupling, kept.astype(int), whole_groups=True)
    smaller = resized.spec()
    for name in spec.shapes:
        stays = np.flatnonzero(coupling.channels(name, kept))
        assert np.array_equal(resized.index[name], stays)
        assert smaller.shapes[name][0] == len(stays)
    small = resized.weights(weights)
    assert {n: v.shape for n, v in small.items()} == smaller.parameter_shapes(trainable=False)
    for name, value in small.items():
        layer, part = split_name(name)
        node = spec.node(layer)
        old = weights[name][coupling.channels(layer, kept)]
        if part == "kernel" and node.groups == 1:
            old = old[:, coupling.channels(node.inputs[0], kept)]
        assert np.array_equal(value, old) and not np.shares_memory(value, weights[name])


@given(GRAPHS)
@settings(max_examples=50, deadline=None)
def test_one_copy_of_each_node_is_the_network_itself(spec):
    weights = drawn_weights(spec)
    resized = resize(couple(spec), np.ones(couple(spec).size, int))
    assert resized.spec() == spec
    for name, value in resized.weights(weights, divide=True).items():
        assert np.array_equal(value, weights[name])


def test_whole_groups_of_a_convolution_leave():
    coupling, weights = couple(GROUPED), drawn_weights(GROUPED)
    assert coupling.size == 2  # a group's channels are one node
    resized = resize(coupling, np.array([0, 1]), whole_groups=True)
    assert resized.spec().node("b").groups == 1
    small = resized.weights(weights)
    assert np.array_equal(small["b/kernel"], weights["b/kernel"][2:])
    assert np.array_equal(small["a/kernel"], weights["a/kernel"][2:])
    assert np.array_equal(small["out/kernel"], weights["out/kernel"][:, 2:])
