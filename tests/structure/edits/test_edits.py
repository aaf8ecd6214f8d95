"""Edits keep the function when weights are carried over, in both frameworks, on random graphs."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.coupling import FIXED, couple
from nnopt_lib.structure.edits.deepen import never_negative
from nnopt_lib.structure.spec import INPUT, KERNELS, NetSpec, Node
from nnopt_lib.structure.weights import initial_weights
from tests.networks import CLASSICS, architectures, examples_in_keras, networks, parameter_count

GRAPHS = st.one_of(networks(), architectures())


def drawn_weights(spec: NetSpec, seed: int = 3) -> dict[str, np.ndarray]:
    """Weights of which nothing is 0 or 1: biases, shifts, means and variances are drawn too."""
    random, weights = np.random.default_rng(seed), initial_weights(spec, seed)
    for name, value in weights.items():
        part = name.split("/")[1]
        if part in ("bias", "shift", "mean"):
            weights[name] = random.normal(0, 0.3, value.shape).astype(np.float32)
        elif part in ("scale", "variance"):
            weights[name] = random.uniform(0.5, 1.5, value.shape).astype(np.float32)
    return weights


def outputs(spec: NetSpec, weights: dict[str, np.ndarray], framework: str = "torch") -> np.ndarray:
    model = nnopt.build(spec, framework)
    nnopt.set_weights(model, weights)
    x = np.random.default_rng(0).normal(size=(4, *spec.input_shape)).astype(np.float32)
    return nnopt.predict(model, x)


def assert_same_function(before, after, frameworks=("torch",)):
    for framework in frameworks:
        old, new = outputs(*before, framework), outputs(*after, framework)
        assert np.abs(new - old).max() <= 1e-5 * max(1.0, np.abs(old).max()), framework
    assert NetSpec.from_json(after[0].to_json()) == after[0]
    shapes = after[0].parameter_shapes(trainable=False)
    assert {name: value.shape for name, value in after[1].items()} == shapes


def wide_layers(spec: NetSpec) -> list[str]:
    """Layers whose nodes are free, each of one channel; what torn groups or flattened sums forbid is tried later."""
    nodes = couple(spec).nodes
    return [
        node.name
        for node in spec.nodes
        if node.op in KERNELS
        and (nodes[node.name] != FIXED).all()
        and len(set(nodes[node.name])) == len(nodes[node.name])
    ]


def random_edit(draw, spec, weights):
    """One function-preserving edit, or None where the graph has no place for the kind that was drawn."""
    kind = draw(st.sampled_from(["plain", "residual", "widen", "add", "concat"]))
    seed = draw(st.integers(0, 99))
    names = [node.name for node in spec.nodes]
    if kind in ("plain", "residual"):
        after = draw(st.sampled_from([INPUT, *names[:-1]]))
        options = {"kernel": draw(st.sampled_from([1, 3])), "batch_norm": draw(st.booleans())}
        relu = kind == "residual" or never_negative(spec, after)
        activation = "relu" if relu else None
        return nnopt.deepen(
            spec, after, kind=kind, activation=activation, weights=weights, seed=seed, **options
        )
    if kind == "widen":
        layers = wide_layers(spec)
        if not layers:
            return None
        layer = draw(st.sampled_from(layers))
        width = spec.shapes[layer][0] + draw(st.integers(1, 5))
        try:
            return nnopt.widen(spec, layer, width, weights=weights, seed=seed)
        except NnoptError as error:
            assert "no longer stand in the same order" in str(error) or "groups of" in str(error)
            return None
    targets = [n for n in spec.nodes if len(n.inputs) == 1 and (kind == "add" or n.op in KERNELS)]
    target = draw(st.sampled_from(targets))
    source = draw(st.sampled_from([INPUT, *names[: names.index(target.name)]]))
    try:
        options = {"projection": True} if kind == "add" else {}
        return nnopt.connect(spec, source, target.name, how=kind, weights=weights, seed=seed, **options)
    except NnoptError as error:
        reasons = ("already reads", "no stride makes", "no positions to add", "without groups")
        assert any(reason in str(error) for reason in reasons), error
        return None


@pytest.mark.torch
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_edits_in_a_row_keep_the_function_on_200_random_graphs(data):
    spec = data.draw(GRAPHS)
    weights = drawn_weights(spec)
    kept = {name: value.copy() for name, value in weights.items()}
    now, edits = (spec, weights), 0
    for _ in range(3):
        edited = random_edit(data.draw, *now)
        if edited is not None:
            now, edits = edited, edits + 1
    assume(edits)
    assert parameter_count(now[0]) > parameter_count(spec)
    assert_same_function((spec, weights), now)
    assert all(np.array_equal(weights[name], kept[name]) for name in kept)


@pytest.mark.keras
@given(st.data())
@settings(max_examples=examples_in_keras(200), deadline=None)
def test_edits_in_a_row_keep_the_function_in_keras_on_random_graphs(data):
    spec = data.draw(GRAPHS)
    now, edits = (spec, drawn_weights(spec)), 0
    for _ in range(3):
        edited = random_edit(data.draw, *now)
        if edited is not None:
            now, edits = edited, edits + 1
    assume(edits)
    assert_same_function((spec, drawn_weights(spec)), now, ["keras"])


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
    target = data.draw(
        st.sampled_from([n for n in spec.nodes if n.op in KERNELS and n.options.get("groups", 1) == 1])
    )
    try:
        joined = nnopt.connect(spec, INPUT, target.name, how="concat", weights=weights)
    except NnoptError:
        assume(False)
    concat = next(n for n in joined[0].nodes if n.name not in before and n.op == "concat")
    back = nnopt.shrink(joined[0], edge=(concat.inputs[1], concat.name), weights=joined[1])
    assert back[0] == spec and all(np.array_equal(back[1][n], weights[n]) for n in weights)


# By hand


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
    wider = nnopt.widen(spec, "conv1d_1", 6)
    assert {n: s[0] for n, s in wider.shapes.items() if n.startswith("add")} == {"add_1": 6, "add_2": 6}
    inner = [
        wider.shapes[name][0] for name in ("conv1d_2", "conv1d_4")
    ]  # of the branches: nothing joins them
    assert inner == [4, 4] and wider.shapes["conv1d_3"][0] == wider.shapes["conv1d_5"][0] == 6


@pytest.mark.torch
def test_without_preserving_the_new_parts_are_first_weights():
    spec = nnopt.mlp((6, 6), inputs=4, outputs=3)
    weights = drawn_weights(spec)
    deeper, new = nnopt.deepen(spec, "activation_1", weights=weights, preserve=False, seed=8)
    fresh = initial_weights(deeper, 8)
    assert all(np.array_equal(new[name], weights.get(name, fresh[name])) for name in new)
    wider, new = nnopt.widen(spec, "dense_1", 9, weights=weights, preserve=False, seed=8)
    fresh = initial_weights(wider, 8)
    rows = [(fresh["dense_1/kernel"][i] == new["dense_1/kernel"][i]).all() for i in range(9)]
    assert sum(rows) == 3 and np.array_equal(new["dense_3/kernel"], weights["dense_3/kernel"])
    assert np.array_equal(new["dense_2/kernel"][:, rows], fresh["dense_2/kernel"][:, rows])
    assert np.array_equal(new["dense_2/kernel"][:, ~np.array(rows)], weights["dense_2/kernel"])
    joined, new = nnopt.connect(spec, INPUT, "dense_2", how="concat", weights=weights, preserve=False, seed=8)
    assert np.array_equal(new["dense_2/kernel"][:, 6:], initial_weights(joined, 8)["dense_2/kernel"][:, 6:])
    assert np.array_equal(new["dense_2/kernel"][:, :6], weights["dense_2/kernel"])


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
        owner, part = name.split("/")
        if part in ("shift", "mean") and owner in [n.name for n in spec.nodes if n.op == "batch_norm"]:
            gone = np.s_[6:9] if len(masked[name]) > 6 else np.s_[:0]
            masked[name][gone] = 0
    assert_same_function((spec, masked), (smaller, new))


def test_edits_apply_to_every_classic():
    for spec in CLASSICS.values():
        layer = wide_layers(spec)[0]
        assert parameter_count(nnopt.widen(spec, layer, spec.shapes[layer][0] + 2)) > parameter_count(spec)


# Refusals

MLP = nnopt.mlp((8, 8), inputs=8, outputs=2)
CNN = nnopt.cnn((4, 4), input_shape=(1, 8), outputs=2)
GROUPED = NetSpec(
    (4, 8),
    (
        Node("a", "conv1d", INPUT, {"filters": 4, "kernel": 1}),
        Node("b", "conv1d", "a", {"filters": 4, "kernel": 1, "groups": 2}),
        Node("pool", "global_pool", "b"),
        Node("out", "dense", "pool", {"units": 2}),
    ),
)

UNPADDED = NetSpec(
    (1, 9),
    (
        Node("c", "conv1d", INPUT, {"filters": 1, "kernel": 3}),
        Node("g", "global_pool", "c"),
        Node("o", "dense", "g", {"units": 1}),
    ),
)


def weighed(spec):
    return {"weights": drawn_weights(spec)}


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (
            lambda: nnopt.deepen(MLP, "activaton_1"),
            "the network has no node 'activaton_1'. Did you mean 'activation_1'?",
        ),
        (
            lambda: nnopt.widen(MLP, "dense_1", 12, shares="uneven"),
            "shares must be one of drawn, equal; received 'uneven'.",
        ),
        (
            lambda: nnopt.deepen(MLP, "dense_3"),
            "nothing can stand behind 'dense_3', the output. Name a node before it.",
        ),
        (
            lambda: nnopt.deepen(CNN, "conv1d_1", kernel=2),
            "kernel must be odd, so that padding keeps the size; received 2.",
        ),
        (
            lambda: nnopt.deepen(MLP, "dense_1", **weighed(MLP)),
            "a plain layer with relu keeps the function only behind values that are never negative; received 'dense_1'. "
            'Pass kind="residual", or activation=None.',
        ),
        (
            lambda: nnopt.deepen(MLP, "activation_1", activation="tanh", **weighed(MLP)),
            'a plain layer with tanh cannot keep the function. Pass kind="residual", or activation=None.',
        ),
        (
            lambda: nnopt.deepen(MLP, "activation_1", kind="residual", activation=None),
            "a residual layer needs an activation between its two layers.",
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
            lambda: nnopt.connect(MLP, "activation_2", "dense_1"),
            "a node reads only nodes before it; 'dense_1' cannot read 'activation_2', which comes later.",
        ),
        (lambda: nnopt.connect(MLP, "input", "dense_1"), "'dense_1' already reads 'input'."),
        (
            lambda: nnopt.connect(MLP, "activation_1", "dense_3", **weighed(MLP)),
            "a shortcut without weights changes the function. Pass projection=True.",
        ),
        (
            lambda: nnopt.connect(CNN, "input", "max_pool_2", projection=False),
            "an addition needs equal shapes; received (1, 8) and (4, 4). Pass projection=True.",
        ),
        (
            lambda: nnopt.connect(CNN, "input", "max_pool_2", how="concat"),
            "a concatenation needs a dense layer or a convolution without groups to read it; received max_pool.",
        ),
        (
            lambda: nnopt.connect(CNN, "input", "conv1d_2", how="concat", projection=True),
            "projection belongs to how='add'. Leave it out.",
        ),
        (
            lambda: nnopt.connect(UNPADDED, "input", "g"),
            "no stride makes the positions of one shape those of the other; received (1, 9) and (1, 7).",
        ),
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
        (
            lambda: nnopt.widen(MLP, "dense_1", 9, weights={}),
            "weights must have the names and shapes of the model's weights; received dense_1/kernel missing for (8, 8), "
            "dense_1/bias missing for (8,), dense_2/kernel missing for (8, 8), dense_2/bias missing for (8,), "
            "dense_3/kernel missing for (2, 8), dense_3/bias missing for (2,).",
        ),
    ],
)
def test_edits_that_cannot_be_are_refused_in_one_sentence(edit, sentence):
    with pytest.raises(NnoptError) as error:
        edit()
    assert str(error.value) == sentence
