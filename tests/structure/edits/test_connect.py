import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.spec import INPUT
from nnopt_lib.structure.weights import initial_weights
from tests.edited import (
    CNN,
    MLP,
    UNPADDED,
    drawn_weights,
    weighed,
)


@pytest.mark.torch
def test_without_preserving_new_columns_are_first_weights():
    spec = nnopt.mlp((6, 6), inputs=4, outputs=3)
    weights = drawn_weights(spec)
    joined, new = nnopt.connect(spec, INPUT, "dense_2", how="concat", weights=weights, preserve=False, seed=8)
    assert np.array_equal(new["dense_2/kernel"][:, 6:], initial_weights(joined, 8)["dense_2/kernel"][:, 6:])
    assert np.array_equal(new["dense_2/kernel"][:, :6], weights["dense_2/kernel"])


def test_without_weights_the_description_comes_with_none():
    spec = nnopt.mlp((6, 6), inputs=4, outputs=3)
    joined, weights = nnopt.connect(spec, INPUT, "dense_2", how="concat")
    assert weights is None and joined.shapes[joined.node("dense_2").inputs[0]] == (10,)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
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
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(edit, sentence):
    with pytest.raises(NnoptError) as error:
        edit()
    assert str(error.value) == sentence
