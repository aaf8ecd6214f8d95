"""A description read back from a model, whatever framework it is of."""

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from tests.networks import CLASSICS
from tests.pruned import X

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("spec", CLASSICS.values())
def test_what_build_made_is_known_and_would_be_read_the_same(spec):
    model = nnopt.build(spec)
    assert nnopt.describe(model) == spec
    x = np.random.default_rng(1).standard_normal((2, *spec.input_shape), np.float32)
    del model.spec
    model.spec = type("Spec", (), {"nodes": spec.nodes, "output": spec.output})()  # no NetSpec: it is traced
    again = nnopt.describe(model, x)
    assert nnopt.measure.count(again) == nnopt.measure.count(spec)
    assert [n.op for n in again.nodes if n.op != "flatten"] == [n.op for n in spec.nodes if n.op != "flatten"]


def test_a_description_counts_as_by_hand():
    from torch import nn

    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
    cost = nnopt.measure.count(nnopt.describe(model, X))
    assert (cost.parameters, cost.macs) == (3 * 4 * 9 + 4 + 10_250, 108 * 256 + 10_240)


def test_a_network_without_nodes_to_remove_is_refused():
    from torch import nn

    with pytest.raises(NnoptError) as error:
        nnopt.prune(
            nn.Sequential(nn.Linear(3, 2)), sparsity=0.5, granularity="node", example_input=np.zeros((1, 3))
        )
    assert str(error.value) == (
        "a model to prune by nodes needs a layer whose outputs another layer reads; "
        "received none ('0': its channels are outputs of the model)."
    )
