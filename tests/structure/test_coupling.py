"""Which nodes leave together, which of them go, and what that does to the description."""

import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.measure.costs import count
from nnopt_lib.pruning.importance import NODE_SCORES, keep_nodes
from nnopt_lib.structure.classics import mlp
from nnopt_lib.structure.coupling import FIXED, couple
from nnopt_lib.structure.edits.resize import resize
from nnopt_lib.structure.spec import NetSpec, Node
from nnopt_lib.structure.weights import initial_weights


def conv(name, source, filters, kernel=3, groups=1):
    options = {"filters": filters, "kernel": kernel, "padding": kernel // 2, "groups": groups}
    return Node(name, "conv2d", source, options)


def residual() -> NetSpec:
    """A stem, a depthwise block with a shortcut around it, a concatenation, a head."""
    nodes = (conv("stem", "input", 4), Node("norm", "batch_norm", "stem"), Node("relu", "activation", "norm"))
    nodes += (conv("depthwise", "relu", 4, groups=4), conv("project", "depthwise", 4, 1))
    nodes += (Node("sum", "add", ("relu", "project")), conv("side", "sum", 2, 1))
    nodes += (Node("joined", "concat", ("sum", "side")), Node("flat", "flatten", "joined"))
    return NetSpec((3, 5, 5), (*nodes, Node("head", "dense", "flat", {"units": 10})))


def test_additions_and_depthwise_convolutions_couple_concatenations_do_not():
    coupling = couple(residual())
    assert {name: list(group) for name, group in coupling.groups.items()} == {
        "stem": [0, 1, 2, 3],
        "side": [4, 5],
    }
    assert coupling.layers == {"stem": "stem", "depthwise": "stem", "project": "stem", "side": "side"}
    assert list(coupling.nodes["joined"]) == [0, 1, 2, 3, 4, 5]
    assert list(coupling.nodes["flat"]) == list(np.repeat(range(6), 25))
    assert set(coupling.nodes["head"]) == set(coupling.nodes["input"]) == {FIXED}


def test_what_is_added_to_inputs_or_outputs_is_fixed():
    layer = Node("dense_1", "dense", "input", {"units": 4})
    spec = NetSpec(
        (4,), (layer, Node("sum", "add", ("input", "dense_1")), Node("out", "dense", "sum", {"units": 2}))
    )
    assert couple(spec).size == 0
    spec = NetSpec(
        (4,),
        (
            layer,
            Node("dense_2", "dense", "dense_1", {"units": 4}),
            Node("sum", "add", ("dense_1", "dense_2")),
        ),
    )
    assert couple(spec).size == 0


def test_groups_of_a_convolution_leave_whole():
    spec = NetSpec(
        (3, 5, 5),
        (
            conv("a", "input", 4, 1),
            conv("b", "a", 6, groups=2),
            conv("c", "b", 2, 5),
        ),
    )
    coupling = couple(spec)
    assert list(coupling.nodes["a"]) == [0, 0, 1, 1] and list(coupling.nodes["b"]) == [0, 0, 0, 1, 1, 1]
    after = resize(coupling, np.array([1, 0]), whole_groups=True).spec()
    assert [dict(node.options)["groups"] for node in after.nodes] == [1, 1, 1]
    assert [after.shapes[name][0] for name in "abc"] == [2, 3, 2]


def test_counts_of_the_smaller_network_by_hand():
    coupling = couple(residual())
    kept = coupling.kept({"project": np.array([True, False, True, True]), "side": np.array([False, True])})
    after = resize(coupling, kept.astype(int), whole_groups=True).spec()
    # stem 3*3*9+3, norm 6, depthwise 3*9+3, project 3*3+3, side 3+1, head 4*25*10+10
    assert count(after).parameters == 84 + 6 + 30 + 12 + 4 + 1010
    assert count(after).macs == 25 * (81 + 27 + 9 + 3) + 1000
    weights = initial_weights(coupling.spec, 0)
    small = resize(coupling, kept.astype(int), whole_groups=True).weights(weights)
    assert {name: value.shape for name, value in small.items()} == after.parameter_shapes(trainable=False)
    columns = weights["head/kernel"].reshape(10, 6, 25)[:, [0, 2, 3, 5]].reshape(10, 100)
    np.testing.assert_array_equal(small["head/kernel"], columns)


FOUR = np.array([True, False, True, True])


@pytest.mark.parametrize(
    ("masks", "sentence"),
    [
        ({"stam": FOUR}, "the network has no layer 'stam'. Did you mean 'stem'?"),
        (
            {"stem": FOUR[:3]},
            "the mask of layer 'stem' must be a boolean array of shape (4,); received bool (3,).",
        ),
        (
            {"stem": FOUR, "project": ~FOUR},
            "layers 'stem' and 'project' are coupled and must keep the same nodes; received masks that differ in "
            "4 of 4.",
        ),
        (
            {"side": np.array([False, False])},
            "a layer must keep at least one node; layer 'side'; received a mask that removes all.",
        ),
        (
            {"head": np.arange(10) > 0},
            "nodes of layer 'head' cannot be removed; received a mask that does. They are outputs of the network, "
            "joined to its inputs or outputs, or read by attention or a position encoding.",
        ),
    ],
)
def test_masks_that_cannot_be_are_refused(masks, sentence):
    with pytest.raises(NnoptError) as error:
        couple(residual()).kept(masks)
    assert str(error.value) == sentence


# Importance


def test_scores_by_their_definitions():
    coupling = couple(mlp((3,), inputs=2, outputs=2, batch_norm=True))
    weights = initial_weights(coupling.spec, 0)
    rows = np.array([[3.0, -4.0], [0.0, 1.0], [0.0, 2.0]], np.float32)
    weights |= {"dense_1/kernel": rows}
    norm = next(name for name in weights if name.endswith("/scale"))
    weights[norm] = np.array([-2.0, 0.5, 1.0], np.float32)
    found = {name: list(rule(coupling, weights)) for name, rule in NODE_SCORES.items()}
    assert found["l1"] == [7, 1, 2] and found["l2"] == [5, 1, 2] and found["bn_scale"] == [2, 0.5, 1]
    distance = [np.hypot(3, 5), np.hypot(3, 6), 1.0]
    expected = [distance[0] + distance[1], distance[0] + distance[2], distance[1] + distance[2]]
    assert found["geometric_median"] == pytest.approx(expected)


def test_coupled_nodes_are_scored_together():
    coupling, weights = couple(residual()), initial_weights(residual(), 3)
    layers = ("stem", "depthwise", "project")
    by_hand = sum(np.abs(weights[f"{name}/kernel"]).reshape(4, -1).sum(1) for name in layers)
    np.testing.assert_allclose(NODE_SCORES["l1"](coupling, weights)[:4], by_hand, rtol=1e-6)


@pytest.mark.parametrize("seed", range(30))
def test_exactly_the_lowest_go_and_every_layer_keeps_its_best(seed):
    random = np.random.default_rng(seed)
    coupling = couple(residual())
    scores = random.integers(0, 4, coupling.size).astype(float)
    sparsity, scope = float(random.random() * 0.99), ("global", "layer")[seed % 2]
    kept = keep_nodes(coupling, scores, sparsity=sparsity, scope=scope)
    for group in coupling.groups.values():
        assert kept[group].any()
        assert kept[group[np.argmax(scores[group])]]
    scopes = [np.arange(6)] if scope == "global" else list(coupling.groups.values())
    for nodes in scopes:
        free = len(nodes) - sum(set(group) <= set(nodes) for group in coupling.groups.values())
        assert (~kept[nodes]).sum() == min(round(sparsity * len(nodes)), free)
        best = [group[np.argmax(scores[group])] for group in coupling.groups.values()]
        for gone in nodes[~kept[nodes]]:  # nobody who stays, but a layer's best, had less; nor as much, later
            for stays in nodes[kept[nodes]]:
                assert stays in best or (scores[stays], -stays) > (scores[gone], -gone)
    deeper = keep_nodes(coupling, random.random(6), sparsity=0.99, scope=scope, previous=kept)
    assert not (deeper & ~kept).any()


@pytest.mark.parametrize("seed", range(30))
def test_groups_keep_multiples_of_what_they_are_rounded_to(seed):
    random = np.random.default_rng(seed)
    coupling = couple(mlp((13, 8, 3), inputs=4, outputs=2))
    scores, sparsity = random.permutation(24) * 1.0, float(random.random() * 0.9)
    options = {"sparsity": sparsity, "scope": ("global", "layer")[seed % 2]}
    exact = keep_nodes(coupling, scores, **options)
    rounded = keep_nodes(coupling, scores, round_to=4, **options)
    for group in coupling.groups.values():
        left = exact[group].sum()
        nearest = min(range(4, 40, 4), key=lambda multiple: (abs(multiple - left), -multiple))
        assert rounded[group].sum() == min(len(group), nearest)
        assert set(group[rounded[group]]) == set(group[np.argsort(-scores[group])][: rounded[group].sum()])
    deeper = keep_nodes(coupling, scores[::-1], sparsity=0.95, round_to=4, previous=rounded)
    assert not (deeper & ~rounded).any()


def test_nodes_removed_before_count_and_nan_is_refused():
    coupling = couple(residual())
    before = np.array([False, False, False, True, True, True])
    kept = keep_nodes(coupling, np.arange(6.0), sparsity=4 / 6, previous=before)
    assert list(kept) == [False, False, False, True, False, True]
    with pytest.raises(NnoptError) as error:
        keep_nodes(coupling, np.arange(6.0), sparsity=0.2, previous=before)
    assert str(error.value) == (
        "sparsity must not fall, and the previous masks removed 3 nodes; received a target of 1. "
        "Pass a higher sparsity, or leave previous out."
    )
    with pytest.raises(NnoptError) as error:
        keep_nodes(coupling, np.array([np.nan] * 6), sparsity=0.2)
    assert str(error.value) == "importance must not be NaN; received NaN for 6 of 6 nodes."


def test_batch_norm_scores_need_batch_norms():
    with pytest.raises(NnoptError) as error:
        NODE_SCORES["bn_scale"](couple(residual()), initial_weights(residual(), 0))
    assert str(error.value) == (
        "score 'bn_scale' needs a batch normalization on every node to prune; received none after layer 'side'. "
        "Use score='l1', or build the network with them."
    )
