import numpy as np
import pytest
import torch
from hypothesis import given, settings

import nnopt_lib as nnopt
from nnopt_lib.backends.keras import keras, tf  # loaded in its own way: see there
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.weights import initial_weights
from tests.networks import CLASSICS, arrays, every_operation, networks

pytestmark = [pytest.mark.torch, pytest.mark.keras]


def randomized(spec, seed=0):
    """Weights that tell layouts apart: nothing left at zero or one, variances positive."""
    random = np.random.default_rng(seed)
    shapes = spec.parameter_shapes(trainable=False)
    draws = {name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: abs(value) + 0.5 if name.endswith("variance") else value for name, value in draws.items()}


def pair(spec, seed=0):
    models = nnopt.build(spec, "torch"), nnopt.build(spec, "keras")
    for model in models:
        nnopt.set_weights(model, randomized(spec, seed))
    return models


def test_every_operation_gives_equal_outputs():
    spec = every_operation()
    x = np.random.default_rng(1).normal(size=(3, *spec.input_shape)).astype(np.float32)
    ours, theirs = (nnopt.predict(model, x) for model in pair(spec))
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


@given(networks())
@settings(max_examples=40, deadline=None)
def test_random_networks_give_equal_outputs(spec):
    x = np.random.default_rng(1).normal(size=(3, *spec.input_shape)).astype(np.float32)
    ours, theirs = (nnopt.predict(model, x) for model in pair(spec))
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", CLASSICS.values(), ids=CLASSICS)
def test_build_gives_a_functional_model_with_equal_parameters(spec):
    model = nnopt.build(spec, "keras", seed=3)
    assert isinstance(model, keras.Model) and len(model.inputs) == 1
    expected = initial_weights(spec, 3)
    own = nnopt.get_weights(model)
    assert list(own) == list(expected)
    assert all(np.array_equal(own[name], expected[name]) for name in own)
    x = np.random.default_rng(1).normal(size=(4, *spec.input_shape)).astype(np.float32)
    ours = nnopt.predict(nnopt.build(spec, "torch", seed=3), x)
    np.testing.assert_allclose(nnopt.predict(model, x), ours, atol=1e-5)


def test_copy_weights_both_ways():
    spec = every_operation()
    ours, theirs = pair(spec)
    for source, target in ((ours, theirs), (theirs, ours)):
        nnopt.set_weights(source, randomized(spec, seed=8))
        nnopt.copy_weights(source, target)
        copied = nnopt.get_weights(target)
        assert all(np.array_equal(v, copied[name]) for name, v in randomized(spec, seed=8).items())


def test_copy_weights_between_a_users_own_models_in_order():
    theirs = keras.Sequential([keras.Input((7,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(3)])
    ours = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    nnopt.copy_weights(theirs, ours)
    x = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    np.testing.assert_allclose(nnopt.predict(ours, x), np.asarray(theirs(x)), atol=1e-6)


def test_a_depthwise_layer_of_a_users_own_has_canonical_weights():
    theirs = keras.Sequential([keras.Input((6, 5, 3)), keras.layers.DepthwiseConv2D(3, depth_multiplier=2)])
    ours = torch.nn.Conv2d(3, 6, 3, groups=3)
    nnopt.copy_weights(theirs, ours)
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(nnopt.predict(ours, x), nnopt.predict(theirs, x), atol=1e-5)
    before = [np.array(w) for w in theirs.get_weights()]
    nnopt.copy_weights(ours, theirs)
    assert all(np.array_equal(a, b) for a, b in zip(before, theirs.get_weights(), strict=True))


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
    ours, theirs = (nnopt.fit(model, data, training, seed=5) for model in models)
    weights = nnopt.get_weights(models[1])
    for name, value in nnopt.get_weights(models[0]).items():
        np.testing.assert_allclose(weights[name], value, atol=1e-4, err_msg=name)
    for column in ours.rows[0]:
        np.testing.assert_allclose(ours[column], theirs[column], atol=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_moves_weights_of_tiny_gradients_as_pytorch_does(optimizer):
    data = arrays()
    data.x_train[:, 3] *= 1e-7  # an input that is nearly always 0, as pixels at a rim are
    training = nnopt.Training(epochs=2, batch_size=16, optimizer=optimizer, learning_rate=1e-2)
    models = [nnopt.build(nnopt.mlp((9,), inputs=12, outputs=4), f, seed=2) for f in ("torch", "keras")]
    first = nnopt.get_weights(models[0])["dense_1/kernel"]
    for model in models:
        nnopt.fit(model, data, training, seed=5)
    ours, theirs = (nnopt.get_weights(model)["dense_1/kernel"] for model in models)
    assert abs(ours - first)[:, 3].max() > 0.01, "they do move"
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


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
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = keras.layers.Dense(8, "relu"), keras.layers.Dense(4)

        def call(self, x):
            return self.out(self.hidden(x))

    for model in (Own(), keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(4)])):
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


def test_saved_models_load_with_kerass_own_loader(tmp_path):
    spec = every_operation()
    _, model = pair(spec)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(1).normal(size=(2, *spec.input_shape)).astype(np.float32)
    np.testing.assert_allclose(nnopt.predict(loaded, x), nnopt.predict(model, x), atol=1e-6)


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


def test_masks_can_be_held_from_a_callback_in_the_middle_of_fit():
    class Prune(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch in (1, 3):
                self.masks = nnopt.prune(self.model, sparsity=0.3 * batch)
                nnopt.hold(self.model, self.masks)

    model, prune = nnopt.build(nnopt.mlp((8,), inputs=6, outputs=3), "keras"), Prune()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    random = np.random.default_rng(0)
    model.fit(random.normal(size=(48, 6)), random.integers(3, size=48), 8, callbacks=[prune], verbose=0)
    weights = nnopt.get_weights(model)
    assert prune.masks.sparsity == round(0.9 * 72) / 72
    assert all((weights[name][~mask] == 0).all() for name, mask in prune.masks.items())
    assert any((weights[name] != 0).any() for name in prune.masks)
