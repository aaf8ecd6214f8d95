import numpy as np
import pytest
import torch
from torch import nn

from nnopt_lib.backends.torch.inputs import like_model, run
from nnopt_lib.checks import NnoptError

pytestmark = pytest.mark.torch


class Product(nn.Module):
    def forward(self, left, right=None):
        return left @ right


def test_one_array_a_tuple_or_arguments_by_name():
    left, right = np.ones((2, 3), np.float32), np.full((3, 1), 2.0)  # the second one in double precision
    like = torch.zeros(1)
    for x in ((left, right), {"left": left, "right": right}):
        assert run(Product(), x, like).tolist() == [[6.0], [6.0]]
    assert run(nn.Identity(), left.tolist(), like).shape == (2, 3)
    assert like_model(np.array([1, 2]), like).dtype == torch.int64  # tokens stay whole numbers
    assert like_model(right, like.bfloat16()).dtype == torch.bfloat16


def test_a_module_that_does_not_run_is_refused_and_own_refusals_pass():
    with pytest.raises(
        NnoptError, match="^Product must run on the examples x; received TypeError: unsupported"
    ):
        run(Product(), np.ones((2, 3)), torch.zeros(1))

    class Refusing(nn.Module):
        def forward(self, x):
            raise NnoptError("as it is.")

    with pytest.raises(NnoptError, match="^as it is.$"):
        run(Refusing(), np.ones(2), torch.zeros(1))
