"""First weights: shapes, repetition, and the variances that their papers give."""

import math

import numpy as np
import pytest
from hypothesis import given, settings

from nnopt_lib.checks import NnoptError
from nnopt_lib.structure import classics
from nnopt_lib.structure.weights import INITIALIZERS, check_weights, initial_weights
from tests.networks import networks


@given(networks())
@settings(max_examples=50)
def test_initial_weights_have_the_described_shapes_and_repeat(spec):
    for init in INITIALIZERS:
        weights = initial_weights(spec, 3, init)
        assert {n: w.shape for n, w in weights.items()} == spec.parameter_shapes(trainable=False)
        assert all(w.dtype == np.float32 for w in weights.values())
        again = initial_weights(spec, 3, init)
        assert all(np.array_equal(weights[name], again[name]) for name in weights)
    different = initial_weights(spec, 4)
    last = f"{spec.output}/kernel"
    assert not np.array_equal(different[last], initial_weights(spec, 3)[last])


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("glorot_uniform", 2 / (784 + 300)),
        ("glorot_normal", 2 / (784 + 300)),
        ("he_normal", 2 / 784),
        ("torch_default", 1 / (3 * 784)),
    ],
)
def test_initial_variance_is_the_published_one(init, variance):
    weights = initial_weights(classics.lenet_300_100(), 0, init)
    # 235,200 draws: the sample variance of a bounded or normal draw is within 2 % with wide margin.
    assert math.isclose(weights["dense_1/kernel"].var(), variance, rel_tol=0.02)
    assert abs(weights["dense_1/kernel"].mean()) < 4 * math.sqrt(variance / 235_200)
    assert np.any(weights["dense_1/bias"]) == (init == "torch_default")


def test_arrays_that_do_not_fit_are_refused_by_name_and_shape():
    spec = classics.mlp((), inputs=3, outputs=2)
    weights = initial_weights(spec, 0)
    copies = check_weights(spec, weights)
    assert all(np.array_equal(copies[name], weights[name]) for name in weights)
    assert not any(np.shares_memory(copies[name], weights[name]) for name in weights)
    foreign = {"dense_1/kernel": np.zeros((3, 2)), "dense_1/scale": np.zeros(2)}
    with pytest.raises(NnoptError) as error:
        check_weights(spec, foreign)
    assert str(error.value) == (
        "weights must have the names and shapes of the model's weights; received dense_1/kernel (3, 2) for "
        "(2, 3), dense_1/scale (2,) for none, dense_1/bias missing for (2,)."
    )
