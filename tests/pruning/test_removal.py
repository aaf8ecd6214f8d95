"""Removing nodes: folded constants, masks from files, masks that do not fit."""

import copy

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.removal import constants, fold_constants
from nnopt_lib.structure.coupling import couple
from nnopt_lib.structure.edits.resize import resize
from nnopt_lib.structure.spec import NetSpec, Node
from nnopt_lib.structure.weights import initial_weights
from tests.pruned import X, pruned_lenet


def test_constants_behind_a_sigmoid_are_folded():
    nodes = (
        Node("dense_1", "dense", "input", {"units": 3}),
        Node("gate", "activation", "dense_1", {"kind": "sigmoid"}),
    )
    spec = NetSpec((2,), (*nodes, Node("out", "dense", "gate", {"units": 2, "bias": False})))
    coupling, kept = couple(spec), np.array([True, False, True])
    weights = initial_weights(spec, 1)
    assert list(constants(coupling, kept)["gate"]) == [0, 0.5, 0]
    resized = resize(coupling, kept.astype(int), whole_groups=True)
    small, smaller = resized.weights(weights), resized.spec()
    after = fold_constants(
        coupling,
        kept,
        weights,
        smaller,
        small,
        fold=True,
    )
    assert after.nodes[-1].options["bias"] is True
    np.testing.assert_allclose(small["out/bias"], weights["out/kernel"][:, 1] / 2, rtol=1e-6)
    with pytest.raises(NnoptError) as error:
        fold_constants(
            coupling,
            kept,
            weights,
            smaller,
            small,
            fold=False,
        )
    assert str(error.value) == (
        "removing nodes that layer 'out' reads would change its outputs; received a sigmoid, which makes 0.5 of "
        "their 0, and fold=False. Pass fold=True to add it to the layer's bias (under zero padding, borders differ)."
    )


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
            "the model has no layer 'conv3' whose nodes can be removed. Did you mean 'conv2'?",
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
