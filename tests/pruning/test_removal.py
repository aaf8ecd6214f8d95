"""Removing nodes: folded constants, masks from files, masks that do not fit."""

import copy

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.spec import NetSpec, Node
from nnopt_lib.structure.weights import initial_weights
from tests.pruned import X, pruned_lenet


def built(spec, weights):
    model = nnopt.build(spec)
    nnopt.set_weights(model, weights)
    return model


@pytest.mark.torch
def test_constants_behind_a_sigmoid_are_folded():
    nodes = (
        Node("dense_1", "dense", "input", {"units": 3}),
        Node("gate", "activation", "dense_1", {"kind": "sigmoid"}),
    )
    spec = NetSpec((2,), (*nodes, Node("out", "dense", "gate", {"units": 2, "bias": False})))
    model, masks = (
        built(spec, weights := initial_weights(spec, 1)),
        {"dense_1": np.array([True, False, True])},
    )
    small = nnopt.remove_nodes(model, masks, fold=True)
    assert small.spec.nodes[-1].options["bias"] is True
    bias = nnopt.get_weights(small)["out/bias"]
    np.testing.assert_allclose(bias, weights["out/kernel"][:, 1] / 2, rtol=1e-6)
    with pytest.raises(NnoptError) as error:
        nnopt.remove_nodes(model, masks)
    assert str(error.value) == (
        "removing nodes that layer 'out' reads would change its outputs; received an activation that makes 0.5 of "
        "their 0, and fold=False. Pass fold=True to add it to the layer's bias (under zero padding, borders differ)."
    )


@pytest.mark.torch
def test_constants_are_added_to_the_bias_of_every_output_by_hand():
    """Two of three maps go; each leaves 0.5 at every place of a 1 x 2 kernel of each of two filters."""
    made = Node("made", "conv2d", "input", {"filters": 3, "kernel": 1})
    gate = Node("gate", "activation", "norm", {"kind": "sigmoid"})
    reads = Node("reads", "conv2d", "gate", {"filters": 2, "kernel": (1, 2)})
    nodes = (made, Node("norm", "batch_norm", "made"), gate, reads, Node("flat", "flatten", "reads"))
    spec = NetSpec((1, 1, 3), (*nodes, Node("head", "dense", "flat", {"units": 2})))
    weights = {name: value + 9 for name, value in initial_weights(spec, 1).items()}
    weights["reads/kernel"] = np.array(
        [[[[1.0, 2.0]], [[4.0, 8.0]], [[16.0, 32.0]]], [[[-1.0, 3.0]], [[-5.0, 7.0]], [[0.0, -9.0]]]],
        np.float32,
    )
    weights["reads/bias"] = np.array([100.0, -100.0], np.float32)
    masks = {"made": np.array([False, True, False])}
    small = nnopt.get_weights(nnopt.remove_nodes(built(spec, weights), masks, fold=True))
    # 100 + (1 + 2 + 16 + 32) / 2, and -100 + (-1 + 3 + 0 - 9) / 2
    assert small["reads/bias"].tolist() == [125.5, -103.5]
    assert small["reads/kernel"].tolist() == [[[[4.0, 8.0]]], [[[-5.0, 7.0]]]]
    masks["reads"] = np.array([False, True])
    small = nnopt.get_weights(nnopt.remove_nodes(built(spec, weights), masks, fold=True))
    assert small["reads/bias"].tolist() == [-103.5]  # of the filter that stays
    assert np.array_equal(small["head/bias"], weights["head/bias"])  # 0, not a constant, behind a filter


@pytest.mark.torch
def test_a_batch_norm_behind_a_sigmoid_leaves_nothing_to_fold():
    """Its scale and shift are masked along with the node, so its 0.5 comes out as 0."""
    nodes = (
        Node("dense_1", "dense", "input", {"units": 3}),
        Node("gate", "activation", "dense_1", {"kind": "sigmoid"}),
        Node("norm", "batch_norm", "gate"),
    )
    spec = NetSpec((2,), (*nodes, Node("out", "dense", "norm", {"units": 2})))
    weights = {name: value + 9 for name, value in initial_weights(spec, 1).items()}
    small = nnopt.remove_nodes(built(spec, weights), {"dense_1": np.array([True, False, True])})
    assert np.array_equal(nnopt.get_weights(small)["out/bias"], weights["out/bias"])


@pytest.mark.torch
def test_nodes_of_the_masks_alone_make_the_same_model(tmp_path):
    import torch

    model, masks = pruned_lenet()
    masks.save(tmp_path / "masks.safetensors")
    loaded = nnopt.Masks.load(tmp_path / "masks.safetensors")
    small, again = (nnopt.remove_nodes(model, nodes, example_input=X) for nodes in (masks, loaded))
    for a, b in zip(small.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("masks", "sentence"),
    [
        (
            {"conv3": np.ones(6, bool)},
            "the network has no layer 'conv3'. Did you mean 'conv2'?",
        ),
        (
            {"conv1": np.zeros(6, bool)},
            "a layer must keep at least one node; layer 'conv1'; received a mask that removes all.",
        ),
    ],
)
def test_wrong_masks_are_refused_and_the_model_stays(masks, sentence):
    import torch

    from tests.torch_architectures import LeNet, drawn

    model = drawn(LeNet())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NnoptError) as error:
        nnopt.remove_nodes(model, nnopt.Masks(masks), example_input=X)
    assert str(error.value) == sentence
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
