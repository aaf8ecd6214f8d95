import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.spec import INPUT, NetSpec, Node, split_name
from tests.edited import (
    GRAPHS,
    MLP,
    assert_same_function,
    drawn_weights,
    weighed,
    wide_layers,
)
from tests.networks import CLASSICS


@pytest.mark.torch
@given(GRAPHS, st.data())
@settings(max_examples=100, deadline=None)
def test_shrink_undoes_widen(spec, data):
    layers = wide_layers(spec)
    assume(layers)
    layer = data.draw(st.sampled_from(layers))
    width, weights = spec.shapes[layer][0], drawn_weights(spec)
    try:
        wider = nnopt.widen(spec, layer, width + 3, weights=weights)
    except NnoptError:
        assume(False)
    narrow = nnopt.shrink(wider[0], layer, width=width, weights=wider[1])
    assert narrow[0] == spec
    assert_same_function(wider, narrow)


@pytest.mark.torch
@given(GRAPHS, st.data())
@settings(max_examples=100, deadline=None)
def test_shrink_undoes_deepen_and_connect(spec, data):
    weights = drawn_weights(spec)
    after = data.draw(st.sampled_from([INPUT, *(n.name for n in spec.nodes[:-1])]))
    before = {node.name for node in spec.nodes}
    linear = nnopt.deepen(spec, after, activation=None, batch_norm=True, weights=weights)
    for node in [n for n in linear[0].nodes if n.name not in before]:
        linear = nnopt.shrink(linear[0], node.name, weights=linear[1])
    assert linear[0] == spec and all(np.array_equal(linear[1][n], weights[n]) for n in weights)
    branch = nnopt.deepen(spec, after, kind="residual", weights=weights)
    add = [n for n in branch[0].nodes if n.name not in before][-1]
    assert nnopt.shrink(branch[0], edge=(add.inputs[1], add.name), weights=branch[1])[0] == spec
    target = data.draw(st.sampled_from([n for n in spec.nodes if n.has_kernel and n.groups == 1]))
    try:
        joined = nnopt.connect(spec, INPUT, target.name, how="concat", weights=weights)
    except NnoptError:
        assume(False)
    concat = next(n for n in joined[0].nodes if n.name not in before and n.op == "concat")
    back = nnopt.shrink(joined[0], edge=(concat.inputs[1], concat.name), weights=joined[1])
    assert back[0] == spec and all(np.array_equal(back[1][n], weights[n]) for n in weights)


@pytest.mark.torch
def test_shrink_without_preserving_keeps_the_largest_rows():
    spec = nnopt.mlp((5,), inputs=3, outputs=2)
    weights = drawn_weights(spec)
    smaller, new = nnopt.shrink(spec, "dense_1", width=2, weights=weights, preserve=False)
    best = np.sort(np.argsort(-np.abs(weights["dense_1/kernel"]).sum(1))[:2])
    assert np.array_equal(new["dense_1/kernel"], weights["dense_1/kernel"][best])
    assert np.array_equal(new["dense_2/kernel"], weights["dense_2/kernel"][:, best])
    assert smaller == nnopt.mlp((2,), inputs=3, outputs=2)


@pytest.mark.torch
def test_an_edge_leaves_with_its_columns():
    spec = nnopt.densenet(2, (3,), input_shape=(1, 8), outputs=2)
    weights = drawn_weights(spec)
    add = next(node for node in spec.nodes if node.op == "concat")
    smaller, new = nnopt.shrink(spec, edge=(add.inputs[1], add.name), weights=weights, preserve=False)
    assert add.name not in [node.name for node in smaller.nodes]
    masked = {name: value.copy() for name, value in weights.items()}
    for name in (f"{add.inputs[1]}/kernel",):  # the same as a branch that gives 0, where no bias follows it
        masked[name][:] = 0
    for name in weights:  # nor a shift: the normalization of its channels gives 0 too
        owner, part = split_name(name)
        if part in ("shift", "mean") and owner in [n.name for n in spec.nodes if n.op == "batch_norm"]:
            gone = np.s_[6:9] if len(masked[name]) > 6 else np.s_[:0]
            masked[name][gone] = 0
    assert_same_function((spec, masked), (smaller, new))


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda: nnopt.shrink(MLP), "shrink takes a node or an edge; received neither."),
        (
            lambda: nnopt.shrink(MLP, "dense_1", edge=("input", "dense_1")),
            "shrink takes a node or an edge; received both.",
        ),
        (
            lambda: nnopt.shrink(MLP, "dense_1", width=8),
            "shrink needs a width below the 8 nodes that 'dense_1' has; received 8.",
        ),
        (
            lambda: nnopt.shrink(MLP, "dense_1", width=0),
            "width must be a whole number, at least 1; received 0.",
        ),
        (
            lambda: nnopt.shrink(MLP, "dense_1", width=5, **weighed(MLP)),
            "0 of the 8 nodes of 'dense_1' can leave without changing the function; received width 5, so 3 of them. "
            "Pass preserve=False, or choose with prune and remove_nodes.",
        ),
        (
            lambda: nnopt.shrink(MLP, "dense_2", **weighed(MLP)),
            "'dense_2' cannot leave without changing the function; received one that is not the identity. Pass "
            "preserve=False to let it go anyway.",
        ),
        (
            lambda: nnopt.shrink(MLP, "dense_3"),
            "a node leaves only if its output has the shape of its input; 'dense_3'; received (8,) to (2,).",
        ),
        (
            lambda: nnopt.shrink(MLP, edge=("input", "dense_2")),
            "'dense_2' does not read 'input'. It reads activation_1.",
        ),
        (
            lambda: nnopt.shrink(MLP, edge=("activation_1", "dense_2")),
            "an edge leaves only a node that adds, concatenates or multiplies; 'dense_2'; received dense. Take the node "
            "out instead.",
        ),
        (
            lambda: nnopt.shrink(CLASSICS["mnist1d_mlp"], "add_1"),
            "'add_1' reads several nodes. Name one of its edges: edge=('activation_1', 'add_1').",
        ),
        (
            lambda: nnopt.shrink(
                CLASSICS["mnist1d_mlp"], edge=("activation_1", "add_1"), **weighed(CLASSICS["mnist1d_mlp"])
            ),
            "the edge from 'activation_1' to 'add_1' cannot leave without changing the function; received one that adds "
            "something. Pass preserve=False to let it go anyway.",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(edit, sentence):
    with pytest.raises(NnoptError) as error:
        edit()
    assert str(error.value) == sentence


def test_a_layer_that_groups_couple_with_others_keeps_its_width():
    """Nodes of `c` are single channels, so only the convolution that reads it knows of its groups."""

    def conv(name, source, filters, groups=1):
        return Node(name, "conv1d", source, {"filters": filters, "kernel": 1, "groups": groups})

    nodes = (conv("f", INPUT, 1), conv("c", INPUT, 2), conv("g", INPUT, 3))
    nodes += (Node("joined", "concat", ("f", "c", "g")), conv("grouped", "joined", 6, groups=3))
    nodes += (Node("pool", "global_pool", "grouped"), Node("out", "dense", "pool", {"units": 2}))
    with pytest.raises(NnoptError) as error:
        nnopt.shrink(NetSpec((2, 5), nodes), "c", width=1)
    assert str(error.value) == (
        "the groups of 'grouped' cannot be resized node by node; received 3 groups of several channels."
    )
