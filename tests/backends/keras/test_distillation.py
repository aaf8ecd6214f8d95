"""What a teacher of Keras shows: its loss against NumPy's formula, the outputs of its layers."""

import numpy as np
import pytest
from scipy.special import log_softmax

from nnopt_lib import NnoptError
from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.keras.distillation import layer_outputs, loss

pytestmark = pytest.mark.keras


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 1.0), (4.0, 0.3), (20.0, 0.9)])
def test_the_loss_is_the_formulas(temperature, alpha):
    draw = np.random.default_rng(0)
    student, teacher, y = draw.normal(size=(7, 4)), draw.normal(size=(7, 4)), draw.integers(0, 4, 7)
    at = [log_softmax(logits / temperature, 1) for logits in (student, teacher)]
    divergence = (np.exp(at[1]) * (at[1] - at[0])).sum(1).mean()
    plain = -log_softmax(student, 1)[range(7), y].mean()
    ours = loss(tf.constant(student, tf.float32), teacher.astype(np.float32), y, temperature, alpha)
    expected = (1 - alpha) * plain + alpha * temperature**2 * divergence
    np.testing.assert_allclose(float(ours), expected, rtol=1e-5)


def test_outputs_of_layers_come_channels_first_and_the_layers_stay_as_they_were():
    layers = [keras.layers.Conv1D(3, 3, name="conv"), keras.layers.ReLU(name="relu")]
    model = keras.Sequential([keras.Input((8, 2)), *layers])
    x = np.random.default_rng(0).normal(size=(5, 2, 8)).astype(np.float32)
    shown = layer_outputs(model, ["conv", "relu"], x, 2)
    by_hand = np.moveaxis(np.asarray(layers[0](np.moveaxis(x, 1, -1))), -1, 1)
    np.testing.assert_allclose(shown["conv"], by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shown["relu"], np.maximum(by_hand, 0), rtol=1e-5, atol=1e-6)
    assert all("call" not in vars(layer) for layer in layers)


def test_a_layer_that_is_not_there_is_refused_with_the_nearest_name():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense_1")])
    with pytest.raises(NnoptError) as refusal:
        layer_outputs(model, ["dense1"], np.zeros((1, 2), np.float32), 1)
    assert str(refusal.value) == "the model has no layer 'dense1'. Did you mean 'dense_1'?"
