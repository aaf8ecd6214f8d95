import logging
import warnings

import numpy as np
import pytest
from torch import nn

from nnopt_lib.backends.torch.export import onnx_of, outputs_of

X = np.random.default_rng(0).standard_normal((2, 3), np.float32)


def test_outputs_are_arrays_in_order_whatever_a_model_gives():
    class Several(nn.Module):
        def forward(self, x):
            return x + 1, x * 2

    np.testing.assert_array_equal(outputs_of(nn.Identity(), X)[0], X)
    first, second = outputs_of(Several(), X)
    np.testing.assert_array_equal(first, X + 1)
    np.testing.assert_array_equal(second, X * 2)


def test_export_is_of_evaluation_mode_and_leaves_modes_and_logging_alone(capfd):
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5), nn.Linear(2, 2)).train()
    model[2].eval()
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proto = onnx_of(model, X, any_batch=True)
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert {node.op_type for node in proto.graph.node} == {"Gemm"}  # no dropout
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert logger.level == before and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("failing", [nn.Linear(4, 1)])
def test_a_model_that_does_not_run_is_told_so(failing):
    from nnopt_lib.checks import NnoptError

    with pytest.raises(NnoptError, match="^Linear must run on the examples x; received RuntimeError"):
        outputs_of(failing, X)
