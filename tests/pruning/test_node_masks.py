"""What a mask on nodes means for weights, and options that do not go with nodes."""

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.node_masks import weight_masks
from nnopt_lib.structure.coupling import couple
from tests.pruned import X
from tests.structure.test_coupling import residual


def test_a_masked_node_is_kernel_row_bias_scale_and_shift():
    coupling = couple(residual())
    masks = weight_masks(coupling, np.array([True, False, True, True, True, True]))
    assert set(masks) == {
        *(
            f"{name}/{part}"
            for name in ("stem", "depthwise", "project", "side")
            for part in ("kernel", "bias")
        ),
        *("norm/scale", "norm/shift"),
    }
    for name, mask in masks.items():
        assert mask.shape == coupling.spec.parameter_shapes()[name]
        gone = () if name.startswith("side") else (1,)
        assert [number for number, row in enumerate(mask) if not row.all()] == list(gone)
        assert not any(mask[number].any() for number in gone)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"allocation": "erk"},
            "granularity 'node' shares sparsity evenly; received allocation='erk'. Leave it out.",
        ),
        (
            {"names": ["conv1/kernel"]},
            "granularity 'node' ranks all nodes that can leave; received names. Leave it out.",
        ),
        (
            {"granularity": "weight", "round_to": 8},
            "round_to belongs to granularity 'node'; received granularity='weight'. Leave it out.",
        ),
        (
            {"granularity": "weight", "rounding": "up"},
            "rounding belongs to granularity 'node'; received granularity='weight'. Leave it out.",
        ),
        (
            {"round_to": 8, "rounding": "sideways"},
            "rounding must be one of nearest, up, down; received 'sideways'.",
        ),
        ({"round_to": 0}, "round_to must be a whole number, at least 1; received 0."),
        ({"sparsity": 80}, "sparsity must be at least 0 and below 1; received 80. For 80 %, pass 0.8."),
    ],
)
def test_options_that_do_not_go_with_nodes_are_refused(options, sentence):
    from tests.torch_architectures import LeNet

    with pytest.raises(NnoptError) as error:
        nnopt.prune(LeNet(), **{"sparsity": 0.5, "granularity": "node", "example_input": X, **options})
    assert str(error.value) == sentence
