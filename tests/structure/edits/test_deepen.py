import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.weights import initial_weights
from tests.edited import (
    CNN,
    MLP,
    drawn_weights,
    weighed,
)


@pytest.mark.torch
def test_without_preserving_a_new_layer_has_first_weights():
    spec = nnopt.mlp((6, 6), inputs=4, outputs=3)
    weights = drawn_weights(spec)
    deeper, new = nnopt.deepen(spec, "activation_1", weights=weights, preserve=False, seed=8)
    fresh = initial_weights(deeper, 8)
    assert all(np.array_equal(new[name], weights.get(name, fresh[name])) for name in new)


def test_without_weights_the_description_comes_with_none():
    spec = nnopt.mlp((6, 6), inputs=4, outputs=3)
    deeper, weights = nnopt.deepen(spec, "activation_1")
    assert weights is None
    assert deeper == nnopt.deepen(spec, "activation_1", weights=drawn_weights(spec))[0]


def test_a_layer_behind_the_input_comes_first_and_all_readers_read_it():
    spec = nnopt.mnist1d_mlp()
    deeper, _ = nnopt.deepen(spec, "input", activation=None)
    assert deeper.nodes[0].inputs == ("input",)
    assert all("input" not in node.inputs for node in deeper.nodes[1:])
    branched, _ = nnopt.deepen(spec, "activation_1", kind="residual")
    added = next(node for node in branched.nodes if node.name not in spec.shapes and node.op == "add")
    readers = [node.name for node in spec.nodes if "activation_1" in node.inputs]
    assert len(readers) == 2  # a layer, and the addition of the shortcut
    assert all(added.name in branched.node(name).inputs for name in readers)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (
            lambda: nnopt.deepen(MLP, "activaton_1"),
            "the network has no node 'activaton_1'. Did you mean 'activation_1'?",
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
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(edit, sentence):
    with pytest.raises(NnoptError) as error:
        edit()
    assert str(error.value) == sentence
