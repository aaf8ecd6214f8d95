import numpy as np
import pytest
import torch

import nnopt_lib as nnopt
from nnopt_lib.backends.keras import keras, tf  # loaded in its own way: see there
from nnopt_lib.checks import NnoptError
from tests.networks import CLASSICS, arrays

pytestmark = [pytest.mark.torch, pytest.mark.keras]


RECIPES = {
    "sgd": {"weight_decay": 0.01},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "momentum": {"momentum": 0.9},
    "adam": {"optimizer": "adam", "learning_rate": 1e-2, "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_training_equals_pytorch(recipe):
    data, training = arrays(), nnopt.Training(epochs=3, batch_size=16, **recipe)
    spec = nnopt.mlp((9,), inputs=12, outputs=4, activation="tanh")
    models = [nnopt.build(spec, framework, seed=2) for framework in ("torch", "keras")]
    torch_history, keras_history = (nnopt.fit(model, data, training, seed=5) for model in models)
    weights = nnopt.get_weights(models[1])
    for name, value in nnopt.get_weights(models[0]).items():
        np.testing.assert_allclose(weights[name], value, atol=1e-4, err_msg=name)
    for column in torch_history.rows[0]:
        np.testing.assert_allclose(torch_history[column], keras_history[column], atol=1e-4)


def test_training_a_convolutional_network_with_batch_norm_equals_pytorch():
    spec = nnopt.cnn((4, 6), input_shape=(2, 16), outputs=4, batch_norm=True)
    training = nnopt.Training(epochs=2, batch_size=15, learning_rate=0.05)
    data = arrays(shape=(2, 16))
    models = [nnopt.build(spec, framework, seed=2) for framework in ("torch", "keras")]
    for model in models:
        nnopt.fit(model, data, training, seed=5)
    weights = nnopt.get_weights(models[1])
    # Keras keeps the biased variance of a batch in its running statistics, PyTorch the unbiased one: the
    # second layer sees 15 x 8 values a channel, the first 15 x 16.
    for name, value in nnopt.get_weights(models[0]).items():
        tolerance = {"rtol": 1 / (15 * 8 - 1)} if name.endswith("variance") else {"atol": 1e-4}
        np.testing.assert_allclose(weights[name], value, err_msg=name, **tolerance)


def test_early_stopping_goes_back_to_the_best_epoch():
    data = arrays(noise=3.0)
    training = nnopt.Training(epochs=40, batch_size=8, learning_rate=0.2, momentum=0.9, patience=3)
    model = nnopt.build(nnopt.mlp((32,), inputs=12, outputs=4), "keras")
    history = nnopt.fit(model, data, training, seed=1)
    losses = history["validation_loss"]
    assert len(losses) < 40 and history.kept_row == int(np.argmin(losses)) + 1
    assert nnopt.evaluate(model, data.x_validation, data.y_validation)["loss"] == pytest.approx(
        min(losses), abs=1e-6
    )


def test_fit_takes_sequential_and_subclassed_models():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = keras.layers.Dense(8, "relu"), keras.layers.Dense(4)

        def call(self, x):
            return self.out(self.hidden(x))

    for model in (Subclassed(), keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(4)])):
        history = nnopt.fit(model, arrays(), nnopt.Training(epochs=20, learning_rate=0.1), seed=0)
        assert history["train_loss"][-1] < history["train_loss"][0] / 2
        assert nnopt.evaluate(model, arrays().x_test, arrays().y_test)["accuracy"] > 0.9


def test_regularizers_of_a_users_model_count_and_frozen_layers_stay():
    def trained(penalty):
        keras.utils.set_random_seed(0)
        regularizer = keras.regularizers.L2(penalty) if penalty else None
        model = keras.Sequential(
            [keras.Input((12,)), keras.layers.Dense(8), keras.layers.Dense(4, kernel_regularizer=regularizer)]
        )
        model.layers[0].trainable = False
        before = keras.ops.convert_to_numpy(model.layers[0].kernel)
        nnopt.fit(model, arrays(), nnopt.Training(epochs=5, learning_rate=0.1), seed=0)
        assert np.array_equal(before, keras.ops.convert_to_numpy(model.layers[0].kernel))
        return float(keras.ops.sum(model.layers[1].kernel ** 2))

    assert trained(0.5) < trained(0.0) / 2


def test_runner_and_seed():
    model = nnopt.build(CLASSICS["mlp"], "keras")
    x = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    np.testing.assert_allclose(nnopt.runner(model, x)(), nnopt.predict(model, x), atol=1e-6)

    def draw(seed):
        nnopt.seed_everything(seed)
        return float(keras.random.normal(())), float(torch.rand(()))

    assert draw(1) == draw(1) and all(a != b for a, b in zip(draw(1), draw(2), strict=True))


def test_a_missing_device_is_refused():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU, so that naming it is no error")
    with pytest.raises(NnoptError) as error:
        nnopt.fit(nnopt.build(CLASSICS["mlp"], "keras"), arrays(shape=(64,)), nnopt.Training(), device="cuda")
    assert str(error.value) == "device 'cuda' was not found by TensorFlow. Pass device='auto' or 'cpu'."
