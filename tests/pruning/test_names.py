import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.names import ranked_weights
from nnopt_lib.structure.classics import mlp

pytestmark = pytest.mark.torch


def test_all_kernels_or_those_that_are_named_in_their_order():
    model = nnopt.build(mlp((3,), inputs=4, outputs=2), seed=0)
    assert list(ranked_weights(model, None)) == ["dense_1/kernel", "dense_2/kernel"]
    named = ranked_weights(model, ["dense_2/bias", "dense_1/kernel"])
    assert list(named) == ["dense_2/bias", "dense_1/kernel"]
    assert (named["dense_1/kernel"] == nnopt.get_weights(model)["dense_1/kernel"]).all()
    assert np.shares_memory(
        named["dense_1/kernel"], model.dense_1.weight.detach().numpy()
    )  # read, not copied


@pytest.mark.parametrize(
    "names, sentence",
    [
        ([], "names must list at least one weight; received none. Leave it out for all kernels."),
        (["dense_1/kernal"], "the model has no weight 'dense_1/kernal'. Did you mean 'dense_1/kernel'?"),
        (
            None,
            "a model to prune needs a trainable kernel of a dense, convolution or embedding layer; received none.",
        ),
    ],
)
def test_nothing_to_rank_and_unknown_names_are_refused(names, sentence):
    model = nnopt.build(mlp((3,), inputs=4, outputs=2))
    if names is None:
        model.requires_grad_(False)
    with pytest.raises(NnoptError) as error:
        ranked_weights(model, names)
    assert str(error.value) == sentence
