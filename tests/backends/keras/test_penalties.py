"""Penalties in Keras: equal to PyTorch's on equal weights, in `fit` and in loops of one's own."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import nnopt_lib as nnopt
from nnopt_lib import penalties
from nnopt_lib.pruning.penalties import BETA, GAMMA, ZETA, Penalty
from tests.networks import arrays

pytestmark = [pytest.mark.keras, pytest.mark.torch]
SPECS = {
    "mlp": nnopt.mlp((7, 5), inputs=12, outputs=4, activation="tanh"),
    "cnn": nnopt.cnn((4, 6), input_shape=(2, 12), outputs=4, batch_norm=True),
}
RECIPE = nnopt.Training(epochs=3, batch_size=16, learning_rate=0.1, momentum=0.5)


def twins(name):
    return [nnopt.build(SPECS[name], framework, seed=1) for framework in ("torch", "keras")]


def close(in_torch, in_keras, atol=1e-6):
    in_keras = nnopt.get_weights(in_keras)
    for name, value in nnopt.get_weights(in_torch).items():
        np.testing.assert_allclose(in_keras[name], value, atol=atol, err_msg=name)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("kind", ["l1", "l2", "group_lasso"])
def test_totals_and_gradients_equal_pytorchs(name, kind):
    in_torch, in_keras = twins(name)
    with tf.GradientTape() as tape:
        total = getattr(penalties, kind)(in_keras)
    gradients = tape.gradient(total, [v.value for v in in_keras.trainable_variables])
    expected = getattr(penalties, kind)(in_torch)
    expected.backward()
    assert float(total) == pytest.approx(expected.item(), rel=1e-5)
    for variable, gradient in zip(in_keras.trainable_variables, gradients, strict=True):
        assert (gradient is not None) == (variable.path.endswith("kernel"))
    square = sum(float((p.grad**2).sum()) for p in in_torch.parameters() if p.grad is not None)
    assert sum(float(tf.reduce_sum(g**2)) for g in gradients if g is not None) == pytest.approx(
        square, rel=1e-4
    )


def test_slimming_equals_pytorchs():
    in_torch, in_keras = twins("cnn")
    assert float(penalties.slimming(in_keras)) == penalties.slimming(in_torch).item() == 10
    test_fit_equals_pytorchs("cnn", "slimming")


def test_group_lasso_has_a_gradient_where_a_node_has_no_weight_left():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.layers[0].kernel.assign([[1.0, 0.0]] * 3)
    with tf.GradientTape() as tape:
        total = penalties.group_lasso(model)
    gradient = tape.gradient(total, model.layers[0].kernel.value).numpy()
    assert float(total) == pytest.approx(3.0) and np.allclose(gradient, [[1, 0]] * 3)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("threshold", ["soft_threshold", "group_soft_threshold"])
def test_thresholds_equal_pytorchs(name, threshold):
    in_torch, in_keras = twins(name)
    for model in (in_torch, in_keras):
        getattr(penalties, threshold)(model, 0.3)
    close(in_torch, in_keras)
    assert any((nnopt.get_weights(in_keras)[n] == 0).any() for n in nnopt.prunable(in_keras))


def test_nodes_of_an_embedding_are_its_words():
    model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(5, 4)])
    weights = np.ones((5, 4), np.float32)
    weights[2] *= 0.01
    model.layers[0].embeddings.assign(weights)
    penalties.group_soft_threshold(model, 0.1)
    (name,) = nnopt.prunable(model)
    assert (~nnopt.get_weights(model)[name].any(1)).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("kind", ["l1", "elastic_net", "group_lasso", "proximal_l1", "proximal_group_lasso"])
def test_fit_equals_pytorchs(name, kind):
    in_torch, in_keras = twins(name)
    data = arrays(shape=(2, 12) if name == "cnn" else (12,))
    for model in (in_torch, in_keras):
        nnopt.fit(model, data, RECIPE, seed=4, penalty=Penalty(kind, 0.02), device="cpu")
    weights = nnopt.get_weights(in_keras)
    for key, value in nnopt.get_weights(in_torch).items():
        if not key.endswith("variance"):  # biased in Keras, see test_build
            np.testing.assert_allclose(weights[key], value, atol=1e-4, err_msg=key)


def test_gates_are_shut_as_often_as_the_distribution_says():
    model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(300, use_bias=False)])
    held = penalties.gates(model, 1.0, seed=4)
    for log_alpha in (-2.0, 2.0):
        held.log_alphas[0].assign(tf.fill((100, 300), log_alpha))
        held.draw()
        shut = float(np.mean(model.layers[0].kernel.numpy() == 0))
        expected = 1 - 1 / (1 + math.exp(-(log_alpha - BETA * math.log(-GAMMA / ZETA))))
        assert shut == pytest.approx(expected, abs=0.01)


def test_gates_pass_the_same_gradients_as_pytorchs_for_the_same_noise():
    import torch

    in_torch, in_keras = twins("mlp")
    held, twin = (penalties.gates(model, 0.3, seed=2) for model in (in_torch, in_keras))
    x = arrays().x_train[:8]
    held.draw()
    for index, (s, stretched) in enumerate(held._drawn):
        twin._drawn[index].assign(s.numpy().T)
        gated = twin._theta[index].value * tf.clip_by_value(tf.constant(stretched.numpy().T), 0.0, 1.0)
        twin._variables[index].assign(gated)
    (in_torch(torch.from_numpy(x)) ** 2).sum().backward()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(in_keras(x) ** 2)
    variables = in_keras.trainable_variables
    gradients = tape.gradient(loss, [v.value for v in variables])
    held.pass_gradients()
    passed = twin.pass_gradients(gradients, variables)
    for number, variable in enumerate(twin._variables):
        index = next(i for i, other in enumerate(variables) if other is variable)
        np.testing.assert_allclose(passed[index].numpy().T, held._kernels[number].grad.numpy(), atol=1e-5)
    held.close()
    twin.close()
    for ours_alpha, keras_alpha in zip(held.log_alphas, twin.log_alphas, strict=True):
        np.testing.assert_allclose(keras_alpha.numpy().T, ours_alpha.numpy(), atol=1e-4)
    close(in_torch, in_keras, atol=1e-4)


def test_gates_remove_more_the_stronger_they_are():
    data, removed = arrays(), []
    recipe = nnopt.Training(epochs=25, batch_size=16, optimizer="adam", learning_rate=0.05)
    for strength in (0.0, 3e-2):
        model = nnopt.build(SPECS["mlp"], "keras", seed=1)
        nnopt.fit(model, data, recipe, penalty=Penalty("l0", strength), device="cpu")
        removed.append(sum(int((nnopt.get_weights(model)[n] == 0).sum()) for n in nnopt.prunable(model)))
    assert removed[0] < removed[1]


def test_a_threshold_after_each_batch_of_keras_own_fit():
    class Threshold(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            penalties.soft_threshold(self.model, 0.1 * 0.05)

    model = nnopt.build(SPECS["mlp"], "keras", seed=1)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = arrays()
    model.fit(data.x_train, data.y_train, epochs=6, batch_size=16, verbose=0, callbacks=[Threshold()])
    weights = nnopt.get_weights(model)
    assert sum(int((weights[name] == 0).sum()) for name in nnopt.prunable(model)) > 10
