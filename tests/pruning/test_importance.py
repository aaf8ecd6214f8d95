import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.models.channels import read_channels
from nnopt_lib.pruning.importance import NODE_SCORES, keep_nodes
from nnopt_lib.structure.classics import mlp
from nnopt_lib.structure.coupling import couple
from nnopt_lib.structure.spec import NetSpec, Node
from nnopt_lib.structure.weights import initial_weights
from tests.networks import residual


def channels_of(spec):
    """The channels of a built network of this description."""
    return read_channels(nnopt.build(spec)).channels


@pytest.mark.torch
def test_scores_by_their_definitions():
    spec = mlp((3,), inputs=2, outputs=2, batch_norm=True)
    channels, weights = channels_of(spec), initial_weights(spec, 0)
    rows = np.array([[3.0, -4.0], [0.0, 1.0], [0.0, 2.0]], np.float32)
    weights |= {"dense_1/kernel": rows}
    norm = next(name for name in weights if name.endswith("/scale"))
    weights[norm] = np.array([-2.0, 0.5, 1.0], np.float32)
    by_score = {name: list(rule(channels, weights)) for name, rule in NODE_SCORES.items()}
    assert by_score["l1"] == [7, 1, 2] and by_score["l2"] == [5, 1, 2] and by_score["bn_scale"] == [2, 0.5, 1]
    distance = [np.hypot(3, 5), np.hypot(3, 6), 1.0]
    expected = [distance[0] + distance[1], distance[0] + distance[2], distance[1] + distance[2]]
    assert by_score["geometric_median"] == pytest.approx(expected)


@pytest.mark.torch
def test_a_node_with_several_normalizations_is_scored_by_their_mean():
    branches = [
        node
        for side in ("a", "b")
        for node in (
            Node(side, "dense", "input", {"units": 3}),
            Node(f"{side}_norm", "batch_norm", side),
        )
    ]
    ends = (Node("sum", "add", ("a_norm", "b_norm")), Node("out", "dense", "sum", {"units": 2}))
    spec = NetSpec((4,), (*branches, *ends))
    channels, weights = channels_of(spec), initial_weights(spec, 0)
    weights["a_norm/scale"] = np.array([1.0, -2.0, 3.0], np.float32)
    weights["b_norm/scale"] = np.array([3.0, 0.0, 0.5], np.float32)
    assert NODE_SCORES["bn_scale"](channels, weights).tolist() == [2.0, 1.0, 1.75]


@pytest.mark.torch
def test_coupled_nodes_are_scored_together():
    channels, weights = channels_of(residual()), initial_weights(residual(), 3)
    layers = ("stem", "depthwise", "project")
    by_hand = sum(np.abs(weights[f"{name}/kernel"]).reshape(4, -1).sum(1) for name in layers)
    np.testing.assert_allclose(NODE_SCORES["l1"](channels, weights)[:4], by_hand, rtol=1e-6)


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


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("rounding", ["up", "down"])
def test_rounding_up_or_down_keeps_the_next_multiple_on_that_side(seed, rounding):
    random = np.random.default_rng(seed)
    coupling = couple(mlp((13, 8, 12), inputs=4, outputs=2))
    scores, options = random.random(33), {"sparsity": float(random.random() * 0.9), "scope": "layer"}
    exact = keep_nodes(coupling, scores, **options)
    rounded = keep_nodes(coupling, scores, round_to=4, rounding=rounding, **options)
    for group in coupling.groups.values():
        left = exact[group].sum()
        multiple = {"up": 4 * np.ceil(left / 4), "down": max(4, 4 * np.floor(left / 4))}[rounding]
        assert rounded[group].sum() == min(len(group), multiple)
        # Those that stay are the best of their group, whatever its size.
        assert set(group[rounded[group]]) == set(group[np.argsort(-scores[group])][: rounded[group].sum()])
    if rounding == "up":
        assert not (exact & ~rounded).any()


def test_multiples_that_are_met_already_stay_whatever_the_rounding():
    coupling, scores = couple(mlp((16,), inputs=4, outputs=2)), np.arange(16.0)
    options = {"sparsity": 0.5, "round_to": 4}
    kept = [keep_nodes(coupling, scores, rounding=way, **options) for way in ("nearest", "up", "down")]
    assert all(list(each) == 8 * [False] + 8 * [True] for each in kept)
    odd = [
        keep_nodes(coupling, scores, sparsity=0.5, round_to=3, rounding=way).sum()
        for way in ("nearest", "up", "down")
    ]
    assert odd == [9, 9, 6]


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


@pytest.mark.torch
def test_batch_norm_scores_need_batch_norms():
    with pytest.raises(NnoptError) as error:
        NODE_SCORES["bn_scale"](channels_of(residual()), initial_weights(residual(), 0))
    assert str(error.value) == (
        "score 'bn_scale' needs a batch normalization on every node to prune; received none after layer 'side'. "
        "Use score='l1', or build the network with them."
    )
