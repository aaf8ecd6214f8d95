"""What operations give, counted by hand and by the papers."""

import math

import numpy as np
import pytest

from nnopt_lib.structure.operations import sinusoids
from tests.networks import every_operation


def test_shapes_by_hand():
    spec = every_operation()
    # rows: (11 + 2 - 3) // 2 + 1 = 6, columns: (9 + 4 - 5) // 1 + 1 = 9
    assert spec.shapes["conv2d_1"] == (6, 6, 9)
    assert spec.shapes["scaled"] == (6, 6, 9)
    assert spec.shapes["max_pool_1"] == (6, 3, 5)
    assert spec.shapes["concat_1"] == (12, 3, 5)
    assert spec.shapes["flatten_1"] == (180,)
    assert spec.shapes["logits"] == (5,)
    assert spec.parameter_shapes()["conv2d_2/kernel"] == (6, 3, 3, 3)
    assert spec.parameter_shapes()["logits/kernel"] == (5, 192)
    assert "logits/bias" not in spec.parameter_shapes()


def test_sinusoids_are_those_of_the_paper():
    table = sinusoids((6, 11))
    for position in (0, 3, 10):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert table[2 * i, position] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[2 * i + 1, position] == pytest.approx(math.cos(angle), abs=1e-6)
    both = sinusoids((8, 5, 7))  # the first half tells rows, the second columns
    assert np.array_equal(both[:4, :, 3], sinusoids((4, 5))) and np.array_equal(
        both[4:, 2], sinusoids((4, 7))
    )
    assert np.ptp(both[:4], axis=2).max() == 0 and np.ptp(both[4:], axis=1).max() == 0
