"""Training for few bits in Keras equals PyTorch's; what Keras's int8 kernels hold."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import nnopt_lib as nnopt
from nnopt_lib.backends.keras.quantization import StraightThrough, rounded
from nnopt_lib.compression import Quantization, quantize, quantize_dynamic, quantize_weights
from tests.networks import arrays

pytestmark = [pytest.mark.keras, pytest.mark.torch]
SPEC = nnopt.cnn((4, 6), input_shape=(2, 12), outputs=4, batch_norm=True)
RECIPES = [
    Quantization(bits, scheme, per, group=5)
    for bits, scheme in ((2, "symmetric"), (4, "affine"), (8, "symmetric"))
    for per in ("tensor", "row", "group")
]
TRAINING = nnopt.Training(epochs=2, batch_size=32, learning_rate=0.1, momentum=0.5, weight_decay=1e-2)


def options(recipe):
    return {"bits": recipe.bits, "scheme": recipe.scheme, "per": recipe.per, "group": recipe.group}


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_rounding_is_that_of_quantize_bit_for_bit(recipe):
    kernel = np.random.default_rng(0).standard_normal((6, 14)).astype(np.float32)
    kernel[0] = 0
    expected = quantize(kernel, **options(recipe)).dequantize()
    for function in (rounded, tf.function(rounded)):
        assert np.asarray(function(tf.constant(kernel), recipe)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("recipe", RECIPES[::4], ids=str)  # each number of bits, each kind of step
def test_training_equals_pytorchs_and_pruned_weights_stay_zero(recipe):
    models, data = (
        [nnopt.build(SPEC, framework, seed=1) for framework in ("torch", "keras")],
        arrays(shape=(2, 12)),
    )
    masks = [nnopt.prune(model, sparsity=0.5) for model in models]
    histories = [
        nnopt.fit(model, data, TRAINING, masks=mask, quantization=recipe, device="cpu")
        for model, mask in zip(models, masks, strict=True)
    ]
    np.testing.assert_allclose(histories[0]["train_loss"], histories[1]["train_loss"], rtol=1e-4)
    in_torch, in_keras = map(nnopt.get_weights, models)
    for name, value in in_torch.items():
        if name.endswith("/variance"):  # whose estimate Keras divides by n, PyTorch by n - 1
            continue
        np.testing.assert_allclose(in_keras[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    _, quantized = quantize_weights(models[1], **options(recipe))
    for name, mask in masks[1].items():
        assert not in_keras[name][~mask].any() and in_keras[name].any()
        if recipe.scheme == "symmetric":
            assert np.array_equal(quantized[name].dequantize(), in_keras[name]), name


def test_rows_are_outputs_in_every_kind_of_layer():
    inputs = keras.Input((8, 6))
    x = keras.layers.SeparableConv1D(5, 3)(keras.layers.Conv1D(4, 3)(inputs))
    x = keras.layers.MultiHeadAttention(2, 3)(x, x)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x)))
    names = nnopt.prunable(model)
    before = nnopt.get_weights(model)
    StraightThrough(model, names, Quantization(3))
    after = nnopt.get_weights(model)
    assert len(names) >= 7
    for name in names:
        assert np.array_equal(after[name], quantize(before[name], bits=3, per="row").dequantize()), name


def test_gradients_step_the_float_weights():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    start = np.array([[0.9, -0.3], [0.25, 0.6], [-0.1, 0.8]], np.float32)
    model.layers[0].kernel.assign(start)
    name = nnopt.prunable(model)
    held = StraightThrough(model, name, Quantization(2))
    at_quantized = keras.ops.convert_to_numpy(model.layers[0].kernel).copy()
    assert np.array_equal(at_quantized.T, quantize(start.T, bits=2, per="row").dequantize())
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model(tf.eye(3))))
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    gradients = held.after_backward(gradients, model.trainable_variables)
    assert np.array_equal(keras.ops.convert_to_numpy(model.layers[0].kernel).copy(), start)
    optimizer = keras.optimizers.SGD(0.01)
    optimizer.apply(gradients, model.trainable_variables)
    held.after_step(0.01)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(held.floats[0]), start - 0.01 * 2 * at_quantized, rtol=1e-6
    )
    expected = quantize(keras.ops.convert_to_numpy(held.floats[0]).T, bits=2, per="row").dequantize()
    assert np.array_equal(keras.ops.convert_to_numpy(model.layers[0].kernel).copy().T, expected)


def test_weight_decay_draws_on_the_float_weights_as_in_pytorch():
    data, recipe = arrays(), nnopt.Training(epochs=1, batch_size=90, learning_rate=1.0, weight_decay=0.5)
    models = [nnopt.build(nnopt.mlp((), inputs=12, outputs=4), framework) for framework in ("torch", "keras")]
    for model in models:
        nnopt.fit(model, data, recipe, quantization=Quantization(2), device="cpu")
    one, other = map(nnopt.get_weights, models)
    np.testing.assert_allclose(one["dense_1/kernel"], other["dense_1/kernel"], rtol=1e-5)


def test_keras_int8_layers_hold_whole_numbers_and_convolutions_floats():
    model = nnopt.build(SPEC, "keras")
    small = quantize_dynamic(model)
    types = {variable.path: variable.dtype for variable in small.weights}
    assert types["dense_1/kernel"] == "int8" and types["conv1d_1/kernel"] == "float32"
    expected = quantize(nnopt.get_weights(model)["dense_1/kernel"], per="row").codes
    codes = keras.ops.convert_to_numpy(small.get_layer("dense_1").kernel).T
    assert np.abs(codes.astype(int) - expected).max() <= 1 and np.mean(codes != expected) < 0.02
