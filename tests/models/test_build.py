"""Weights between models of both frameworks, and calls that are refused."""

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.frameworks import FRAMEWORKS
from nnopt_lib.structure.spec import NetSpec, Node
from nnopt_lib.structure.weights import initial_weights
from tests.edited import drawn_weights
from tests.networks import every_operation


@pytest.mark.torch
@pytest.mark.keras
def test_copy_weights_both_ways():
    spec = every_operation()
    models, weights = [nnopt.build(spec, framework) for framework in FRAMEWORKS], drawn_weights(spec, seed=8)
    for source, target in (models, models[::-1]):
        nnopt.set_weights(source, weights)
        nnopt.copy_weights(source, target)
        copied = nnopt.get_weights(target)
        assert all(np.array_equal(value, copied[name]) for name, value in weights.items())
        nnopt.set_weights(target, initial_weights(spec, 1))  # so that the way back has something to copy


@pytest.mark.torch
@pytest.mark.keras
def test_copy_weights_between_a_users_own_models_in_order():
    import torch

    from nnopt_lib.backends.keras import keras

    source = keras.Sequential([keras.Input((7,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(3)])
    target = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    nnopt.copy_weights(source, target)
    x = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    np.testing.assert_allclose(nnopt.predict(target, x), np.asarray(source(x)), atol=1e-6)


def linear():
    import torch

    return torch.nn.Linear(3, 2)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda m: nnopt.build(nnopt.mlp((3,), inputs=2, outputs=2), "jax"),
            "framework must be one of torch, keras; received 'jax'.",
        ),
        (
            lambda m: nnopt.set_weights(m, {}),
            "weights must have the model's names; received missing ['dense_1/bias', 'dense_1/kernel'], not the model's [].",
        ),
        (
            lambda m: nnopt.set_weights(
                m, {"dense_1/kernel": np.zeros((12, 4)), "dense_1/bias": np.zeros(4)}
            ),
            "weight 'dense_1/kernel' must have the shape (4, 12); received (12, 4).",
        ),
        (
            lambda m: nnopt.copy_weights(m, linear()),
            "models must have weights of equal names, or of equal shapes in equal order; received dense_1/kernel "
            "(4, 12), dense_1/bias (4,) against kernel (2, 3), bias (2,).",
        ),
        (
            lambda m: nnopt.build(NetSpec((2,), (Node("train", "dense", "input", {"units": 2}),))),
            "node name 'train' is taken by torch.nn.Module. Rename the node.",
        ),
    ],
)
def test_bad_calls_are_refused_in_one_sentence(call, sentence):
    with pytest.raises(NnoptError) as error:
        call(nnopt.build(nnopt.mlp((), inputs=12, outputs=4)))
    assert str(error.value) == sentence
