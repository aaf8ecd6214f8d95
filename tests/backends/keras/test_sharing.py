"""Shared values in Keras: as in PyTorch, step by step, in Keras's own layout."""

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib import compression
from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.sharing import regularizer
from tests.backends.torch.test_sharing import RECIPES, check_members, shared_model
from tests.networks import arrays

pytestmark = [pytest.mark.keras, pytest.mark.torch]


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_frameworks_train_the_same_values(recipe):
    training = nnopt.Training(epochs=3, batch_size=16, **RECIPES[recipe])
    weights = {}
    for framework in ("torch", "keras"):
        model, _, shared = shared_model(framework)
        nnopt.fit(model, arrays(), training, sharing=shared, device="cpu")
        check_members(model, shared)
        weights[framework] = nnopt.get_weights(model)
    for name, value in weights["torch"].items():
        np.testing.assert_allclose(weights["keras"][name], value, rtol=2e-3, atol=2e-4, err_msg=name)


def test_gradients_are_sums_in_the_layout_of_a_convolution():
    model = keras.Sequential(
        [
            keras.Input((6, 5, 2)),
            keras.layers.Conv2D(3, (2, 4)),
            keras.layers.Flatten(),
            keras.layers.Dense(4),
        ]
    )
    conv = model.layers[0]
    name = nnopt.prunable(model)[0]
    shared = compression.share_weights(model, bits={name: 2})
    random = np.random.default_rng(0)
    gradients = [tf.constant(random.normal(size=v.shape), tf.float32) for v in model.trainable_variables]
    summed = regularizer(model, shared).after_backward(gradients, model.trainable_variables)
    kernel = conv.kernel.numpy()
    assert len(np.unique(kernel)) == 4
    for value in np.unique(kernel):
        total = gradients[0].numpy()[kernel == value].astype(np.float64).sum()
        np.testing.assert_allclose(summed[0].numpy()[kernel == value], total, rtol=1e-5, atol=1e-6)
    assert all(a is b for a, b in zip(summed[1:], gradients[1:], strict=True))


def test_weights_that_differ_by_a_bit_are_equal_after_a_step():
    model, _, shared = shared_model("keras")
    at_work = regularizer(model, shared)
    weights = nnopt.get_weights(model)
    kernel, one = weights["dense_1/kernel"].copy(), shared["dense_1/kernel"]
    kernel[tuple(np.argwhere(one.mask & (one.codes == 1))[-1])] *= 1 + 2**-20
    kernel[tuple(np.argwhere(~one.mask)[0])] = 3
    nnopt.set_weights(model, {**weights, "dense_1/kernel": kernel})
    at_work.after_step(0.1)
    check_members(model, shared)


def test_a_frozen_layer_stays():
    model, _, shared = shared_model("keras")
    model.get_layer("dense_1").trainable = False
    before = nnopt.get_weights(model)
    nnopt.fit(model, arrays(), nnopt.Training(epochs=1), sharing=shared, device="cpu")
    after = nnopt.get_weights(model)
    assert np.array_equal(before["dense_1/kernel"], after["dense_1/kernel"])
    assert not np.array_equal(before["dense_2/kernel"], after["dense_2/kernel"])
