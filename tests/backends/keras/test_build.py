import numpy as np
import pytest
import torch
from hypothesis import example, given, settings

import nnopt_lib as nnopt
from nnopt_lib.backends.keras import keras  # loaded in its own way: see there
from nnopt_lib.structure.spec import NetSpec, Node
from nnopt_lib.structure.weights import initial_weights
from tests.networks import CLASSICS, effect_of_rounding, every_operation, networks

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
    in_torch, in_keras = (nnopt.predict(model, x) for model in pair(spec))
    np.testing.assert_allclose(in_torch, in_keras, atol=1e-5, rtol=1e-5)


FAR_APART = NetSpec(  # found by chance: float32's rounding is seen in the fifth digit of its outputs
    (6, 4, 7),
    (
        Node("activation_0", "activation", "input", {"kind": "relu"}),
        Node("add_1", "add", ("input", "activation_0")),
        Node("activation_2", "activation", "add_1", {"kind": "silu"}),
        Node("multiply_3", "multiply", ("add_1", "activation_2")),
        Node("activation_4", "activation", "multiply_3", {"kind": "relu"}),
        Node("multiply_5", "multiply", ("multiply_3", "activation_4")),
        Node("position_6", "position", "multiply_5"),
        Node("attention_7", "attention", ("position_6", "multiply_5", "position_6"), {"heads": 1}),
        Node("global_pool_8", "global_pool", "attention_7", {"kind": "avg"}),
        Node("dense_9", "dense", "global_pool_8", {"units": 2, "bias": True}),
    ),
)


@example(FAR_APART)
@given(networks())
@settings(max_examples=40, deadline=None)
def test_random_networks_give_equal_outputs(spec):
    x = np.random.default_rng(1).normal(size=(3, *spec.input_shape)).astype(np.float32)
    models = pair(spec)
    in_torch, in_keras = (nnopt.predict(model, x) for model in models)
    atol = 1e-5 + effect_of_rounding(models[0], x)
    np.testing.assert_allclose(in_torch, in_keras, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("spec", CLASSICS.values(), ids=CLASSICS)
def test_build_gives_a_functional_model_with_equal_parameters(spec):
    model = nnopt.build(spec, "keras", seed=3)
    assert isinstance(model, keras.Model) and len(model.inputs) == 1
    expected = initial_weights(spec, 3)
    weights = nnopt.get_weights(model)
    assert list(weights) == list(expected)
    assert all(np.array_equal(weights[name], expected[name]) for name in weights)
    x = np.random.default_rng(1).normal(size=(4, *spec.input_shape)).astype(np.float32)
    in_torch = nnopt.predict(nnopt.build(spec, "torch", seed=3), x)
    np.testing.assert_allclose(nnopt.predict(model, x), in_torch, atol=1e-5)


def test_a_depthwise_layer_of_a_users_own_has_canonical_weights():
    in_keras = keras.Sequential([keras.Input((6, 5, 3)), keras.layers.DepthwiseConv2D(3, depth_multiplier=2)])
    in_torch = torch.nn.Conv2d(3, 6, 3, groups=3)
    nnopt.copy_weights(in_keras, in_torch)
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(nnopt.predict(in_torch, x), nnopt.predict(in_keras, x), atol=1e-5)
    before = [np.array(w) for w in in_keras.get_weights()]
    nnopt.copy_weights(in_torch, in_keras)
    assert all(np.array_equal(a, b) for a, b in zip(before, in_keras.get_weights(), strict=True))


def test_saved_models_load_with_kerass_own_loader(tmp_path):
    spec = every_operation()
    _, model = pair(spec)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(1).normal(size=(2, *spec.input_shape)).astype(np.float32)
    np.testing.assert_allclose(nnopt.predict(loaded, x), nnopt.predict(model, x), atol=1e-6)


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
