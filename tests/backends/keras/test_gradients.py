"""Gradients of Keras models: those of PyTorch for equal weights, and of models that nobody described."""

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.backends.keras import gradients as of_keras
from nnopt_lib.backends.keras import keras, tf
from nnopt_lib.backends.torch import gradients as of_torch
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.classics import lenet_5, mlp, mnist1d_cnn
from tests.networks import every_operation

pytestmark = [pytest.mark.torch, pytest.mark.keras]

layers = keras.layers
RANDOM = np.random.default_rng(0)
SPECS = {
    "mlp with normalization": mlp((7, 5), inputs=6, outputs=3, activation="tanh", batch_norm=True),
    "cnn": mnist1d_cnn(),
    "lenet_5": lenet_5(),
    "every operation": every_operation(),
}


def pair(name):
    """The same network in both frameworks, with statistics of its own, and examples."""
    spec = SPECS[name]
    models = [nnopt.build(spec, framework, seed=1) for framework in ("torch", "keras")]
    weights = nnopt.get_weights(models[0])
    for part in weights:
        if part.endswith(("/mean", "/variance", "/shift", "/bias")):
            weights[part] = RANDOM.uniform(0.5, 1.5, weights[part].shape).astype(np.float32)
    for model in models:
        nnopt.set_weights(model, weights)
    x = RANDOM.normal(size=(7, *spec.input_shape)).astype(np.float32)
    return models, nnopt.prunable(models[0]), x, RANDOM.integers(0, 3, 7)


def assert_alike(one, other, relative=2e-5):
    assert list(one) == list(other)
    for name in one:
        assert other[name] == pytest.approx(one[name], abs=float(relative * abs(one[name]).max())), name


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_gradients_and_hessian_products_are_those_of_pytorch(name, statistics):
    models, names, x, y = pair(name)
    options = {"loss": "cross_entropy", "batch_size": 4, "batch_statistics": statistics, "temperature": 3.0}
    (loss, ours), (other_loss, theirs) = (
        backend.mean(model, names, x, y, **options)
        for backend, model in zip((of_torch, of_keras), models, strict=True)
    )
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert_alike(ours, theirs)
    products = [
        backend.hessian_product(model, names, x, y, ours, **options)
        for backend, model in zip((of_torch, of_keras), models, strict=True)
    ]
    # Second derivatives through normalizations of four examples lose digits in float32.
    assert_alike(*products, relative=2e-3 if statistics else 2e-4)


@pytest.mark.parametrize("name", SPECS)
def test_single_examples_jacobians_and_paths_are_those_of_pytorch(name):
    models, names, x, y = pair(name)
    both = list(zip((of_torch, of_keras), models, strict=True))
    ours, theirs = (list(b.each(m, names, x[:3], y[:3], loss="cross_entropy")) for b, m in both)
    for one, other in zip(ours, theirs, strict=True):
        assert_alike(one, other)
    ours, theirs = (list(b.jacobians(m, names, x[:2])) for b, m in both)
    for (outputs, one), (others, other) in zip(ours, theirs, strict=True):
        assert others == pytest.approx(outputs, abs=1e-5)
        assert_alike(one, other)
    assert_alike(*(b.path_scores(m, names, None) for b, m in both), relative=1e-7)


class Noisy(keras.Model):
    """Subclassed: dropout, noise, a shared layer, an embedding, a normalization."""

    def __init__(self):
        super().__init__()
        self.words, self.shared, self.norm = (
            layers.Embedding(9, 5),
            layers.Dense(5, "relu"),
            layers.BatchNormalization(),
        )
        self.drop, self.noise, self.out = layers.Dropout(0.5), layers.GaussianNoise(0.9), layers.Dense(3)

    def call(self, words, training=False):
        hidden = self.shared(self.drop(self.words(words), training=training))
        hidden = self.noise(self.norm(self.shared(hidden), training=training), training=training)
        return self.out(keras.ops.mean(hidden, 1))


def noisy():
    keras.utils.set_random_seed(0)
    model = Noisy()
    words = RANDOM.integers(0, 6, (8, 4))
    model(words)
    return model, words, RANDOM.integers(0, 3, 8)


def test_a_subclassed_model_stays_as_it_was_and_nothing_is_random():
    model, words, y = noisy()
    names = nnopt.prunable(model)
    assert len(names) == 3
    model.out.trainable = False
    before, rates = model.get_weights(), (model.drop.rate, model.noise.stddev)
    options = {"loss": "cross_entropy", "batch_size": 3, "batch_statistics": True}
    first, again = (of_keras.mean(model, names, words, y, **options) for _ in range(2))
    assert first[0] == again[0] and all((first[1][name] == again[1][name]).all() for name in names)
    of_keras.hessian_product(model, names, words, y, first[1], **options)
    list(of_keras.each(model, names, words, y, loss="cross_entropy"))
    scores = of_keras.path_scores(model, names, words)
    assert all(one.dtype == np.float64 and one.min() >= 0 for one in scores.values())
    assert all((one == other).all() for one, other in zip(before, model.get_weights(), strict=True))
    assert (model.drop.rate, model.noise.stddev) == rates and "_moments" not in vars(model.norm)
    assert {layer.dtype_policy.name for layer in model._flatten_layers()} == {"float32"}
    embedding = next(name for name in names if first[1][name].shape == (9, 5))
    assert (first[1][embedding][6:] == 0).all()  # words that do not occur


def test_refusals_name_the_layer_and_leave_the_model():
    model, words, y = noisy()
    before = model.get_weights()
    with pytest.raises(
        NnoptError,
        match=r"labels must be integers of the shape .* received outputs \(1, 3\) and labels \(1, 2\)",
    ):
        of_keras.mean(
            model, nnopt.prunable(model), words, np.zeros((8, 2), int), loss="cross_entropy", batch_size=8
        )

    def rooted(outputs, labels):
        return tf.reduce_sum(tf.sqrt(tf.abs(outputs - tf.stop_gradient(outputs))))

    name = nnopt.prunable(model)[-1]
    with pytest.raises(NnoptError) as error:
        of_keras.mean(model, [name], words, None, loss=rooted, batch_size=8)
    layer = name.rpartition("/")[0]
    assert str(error.value) == (
        f"gradients must be finite, and in layer '{layer}' they are not; received 15 of 15 that are not."
    )
    with pytest.raises(
        NnoptError, match="SynFlow needs the shape of the inputs of a model that does not know it"
    ):
        of_keras.path_scores(model, [name], None)
    assert all((one == other).all() for one, other in zip(before, model.get_weights(), strict=True))
